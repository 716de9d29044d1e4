//! Properties of every model, whatever its blocks.

#![expect(
    clippy::unwrap_used,
    reason = "a step that fails while setting a test up fails the test"
)]

mod world;

use std::sync::Arc;

use ouzel_model::{Array, HeadKind, ModelConfig, SequenceKind, Weights};
use ouzel_sample::{EventTime, Id, ShownSlate};

use world::{World, apart, model, models, net, served, weights};

/// What matrix products of other shapes may differ by.
const SAME: f32 = 2e-6;

/// The same for a model: twice as much for products of libtorch, which sum all 79 live features in an order by shape, and behind
/// gates, which multiply by up to 2 at each layer.
fn same(config: &ModelConfig) -> f32 {
    match config.sequence.kind {
        SequenceKind::HstuResearch => 2.0 * SAME,
        _ if config.ppnet || config.senet => 2.0 * SAME,
        _ => SAME,
    }
}

fn items(n: u64) -> Vec<u64> {
    (0..n).map(|n| (n * 11 + 5) % 40).collect()
}

#[test]
fn candidates_score_alone_as_in_a_slate_unless_the_head_pools_it() {
    let world = World::new();
    for (name, config) in models() {
        let weights = weights(&config);
        let mut net = net(&weights);
        let items = items(13);
        let together = world.score(&mut net, &weights, &[world.slate(3, 9, &items)]);
        let alone: Vec<f32> = items
            .iter()
            .flat_map(|item| {
                // The slate's own features are part of a candidate, not of the model.
                let mut slate = world.slate(3, 9, &items);
                slate.candidates.retain(|candidate| candidate.item == Id(*item));
                world.score(&mut net, &weights, &[slate])
            })
            .collect();
        assert_eq!(
            apart(&together, &alone) < same(&config),
            !config.pool_slate,
            "{name}: {}",
            apart(&together, &alone)
        );
        let spread = together.iter().copied().fold(f32::MIN, f32::max)
            - together.iter().copied().fold(f32::MAX, f32::min);
        assert!(spread > 0.1, "{name}: the scores hardly differ, {together:?}");
    }
}

#[test]
fn requests_of_one_batch_do_not_change_each_other() {
    let world = World::new();
    for (name, config) in models() {
        let weights = weights(&config);
        let mut net = net(&weights);
        // Histories and slates of all lengths, so that every one but the longest is padded.
        let slates: Vec<ShownSlate> = [(1, 0, 1), (2, 12, 7), (3, 5, 3), (4, 1, 20), (5, 30, 2)]
            .into_iter()
            .map(|(user, n_past, n)| world.slate(user, n_past, &items(n)))
            .collect();
        let together = world.score(&mut net, &weights, &slates);
        let alone: Vec<f32> = slates
            .iter()
            .flat_map(|slate| world.score(&mut net, &weights, std::slice::from_ref(slate)))
            .collect();
        assert!(
            apart(&together, &alone) < same(&config),
            "{name}: {}",
            apart(&together, &alone)
        );
    }
}

#[test]
fn candidates_in_another_order_keep_their_scores() {
    let world = World::new();
    for (name, config) in models() {
        let weights = weights(&config);
        let mut net = net(&weights);
        let n_tasks = config.n_tasks();
        let (mut slate, n) = (world.slate(3, 9, &items(12)), 12);
        let scores = world.score(&mut net, &weights, std::slice::from_ref(&slate));
        slate.candidates.reverse();
        let reversed = world.score(&mut net, &weights, &[slate]);
        let back: Vec<f32> = (0..n)
            .rev()
            .flat_map(|at: usize| reversed[at * n_tasks..(at + 1) * n_tasks].to_vec())
            .collect();
        assert!(apart(&scores, &back) < SAME, "{name}: {}", apart(&scores, &back));
    }
}

#[test]
fn cached_contents_score_like_recomputed_ones() {
    // Contents are kept as plain loops make them, which fold weights together first.
    const SAME: f32 = 1e-5;
    let world = World::new();
    for kind in [SequenceKind::Mean, SequenceKind::Din, SequenceKind::Hstu] {
        let mut weights = weights(&model(kind, HeadKind::Single, true));
        let slates = [world.slate(3, 9, &items(12)), world.slate(4, 4, &items(20))];
        let full = world.score(&mut net(&weights), &weights, &slates);
        let mut still = served(&weights);
        for _ in 0..2 {
            let kept = world.score(&mut still, &weights, &slates);
            assert!(apart(&full, &kept) < SAME, "{kind:?}: {}", apart(&full, &kept));
        }
        weights.frozen = Some(weights.base());
        let frozen = world.score(&mut net(&weights), &weights, &slates);
        assert!(
            apart(&full, &frozen) < SAME,
            "{kind:?}: {}",
            apart(&full, &frozen)
        );
        // The next version of a frozen model takes over what was kept of it.
        let mut next = served(&weights);
        next.reuse_contents(&mut served(&weights));
        assert!(apart(&full, &world.score(&mut next, &weights, &slates)) < SAME);
    }
}

/// A restart has an empty cache and meets items in another order: it must compute the same bits.
#[test]
fn a_cached_content_does_not_depend_on_the_others_of_its_batch() {
    let world = World::new();
    let mut weights = weights(&model(SequenceKind::Mean, HeadKind::Single, true));
    weights.frozen = Some(weights.base());
    let slate = world.slate(3, 9, &items(12));
    let bits = |before: &[ShownSlate]| -> Vec<u32> {
        let mut net = net(&weights);
        for slate in before {
            world.score(&mut net, &weights, std::slice::from_ref(slate));
        }
        let scores = world.score(&mut net, &weights, std::slice::from_ref(&slate));
        scores.into_iter().map(f32::to_bits).collect()
    };
    let cold = bits(&[]);
    for n in 1..40 {
        let other = world.slate(9, n % 7, &(0..n).map(|item| 39 - item).collect::<Vec<_>>());
        assert_eq!(cold, bits(&[other]), "after a slate of {n}");
    }
}

#[test]
fn a_merged_adapter_scores_like_a_separate_one() {
    let world = World::new();
    for kind in [
        SequenceKind::Din,
        SequenceKind::Dien,
        SequenceKind::Bst,
        SequenceKind::Hstu,
    ] {
        let mut config = model(kind, HeadKind::Single, true);
        config.lora.layers.extend(
            [
                "sequence.first",
                "sequence.extract.state",
                "sequence.evolve.input",
                "sequence.layer0.uvqk",
                "sequence.layer0.key_value",
                "sequence.layer1.expand",
                "content.text",
                "content.layer0.value",
            ]
            .map(str::to_owned),
        );
        let beside = weights(&config);
        let merged = merge(&beside);
        let slates = [world.slate(3, 9, &items(12))];
        let (a, b) = (
            world.score(&mut net(&beside), &beside, &slates),
            world.score(&mut net(&merged), &merged, &slates),
        );
        assert!(apart(&a, &b) < 1e-5, "{kind:?}: {}", apart(&a, &b));
        let mut without = beside.clone();
        for (name, array) in &mut without.dense {
            if name.ends_with("lora_b") {
                array.values = vec![0.0; array.values.len()].into();
            }
        }
        let c = world.score(&mut net(&without), &without, &slates);
        assert!(
            apart(&a, &c) > 1e-2,
            "the adapters did nothing: {}",
            apart(&a, &c)
        );
    }
}

/// `W + s B A` in plain loops.
fn merge(weights: &Weights) -> Weights {
    let mut merged = weights.clone();
    #[expect(clippy::cast_possible_truncation, reason = "a scale")]
    let scale = weights.config.lora.scale() as f32;
    let layers: Vec<String> = weights
        .dense
        .keys()
        .filter_map(|name| Some(name.strip_suffix(".lora_b")?.to_owned()))
        .collect();
    assert!(layers.len() >= 4, "{layers:?}");
    for layer in layers {
        let array = |part: &str| -> Array { weights.dense[&format!("{layer}.{part}")].clone() };
        let (w, a, b) = (array("weight"), array("lora_a"), array("lora_b"));
        let (rank, n_in) = (a.shape[0], a.shape[1]);
        let values = (0..w.values.len()).map(|at| {
            let (row, column) = (at / n_in, at % n_in);
            let low: f32 = (0..rank)
                .map(|r| b.values[row * rank + r] * a.values[r * n_in + column])
                .sum();
            w.values[at] + scale * low
        });
        let values = values.collect();
        merged.dense.insert(
            format!("{layer}.weight"),
            Array {
                shape: w.shape.clone(),
                values,
            },
        );
        let zero = vec![0.0; b.values.len()].into();
        merged.dense.insert(
            format!("{layer}.lora_b"),
            Array {
                shape: b.shape,
                values: zero,
            },
        );
    }
    merged
}

#[test]
fn an_empty_history_and_missing_contents_are_scored() {
    let world = World::new();
    for (name, config) in models() {
        let weights = weights(&config);
        let mut net = net(&weights);
        // Items 3, 15 and 27 have neither text nor picture.
        for slate in [
            world.slate(1, 0, &[3, 15, 27]),
            world.slate(2, 0, &[1]),
            world.slate(3, 3, &[3]),
        ] {
            let scores = world.score(&mut net, &weights, &[slate]);
            assert!(scores.iter().all(|score| score.is_finite()), "{name}: {scores:?}");
        }
    }
}

/// What the sequence blocks must see: who acted on what, when, and as which action.
#[test]
fn order_time_and_kind_of_past_actions_matter_where_they_should() {
    let world = World::new();
    for kind in [
        SequenceKind::Din,
        SequenceKind::Gru,
        SequenceKind::Dien,
        SequenceKind::Sasrec,
        SequenceKind::Bst,
        SequenceKind::Hstu,
        SequenceKind::HstuResearch,
    ] {
        let weights = weights(&model(kind, HeadKind::Single, false));
        let mut net = net(&weights);
        let slate = world.slate(3, 8, &items(6));
        let scores = world.score(&mut net, &weights, std::slice::from_ref(&slate));
        let mut changed = |change: &dyn Fn(&mut ouzel_sample::Request)| {
            let mut other = slate.clone();
            change(Arc::make_mut(&mut other.request));
            apart(&scores, &world.score(&mut net, &weights, &[other]))
        };
        let item = changed(&|request| request.history[2].item = Id(39));
        let task = changed(&|request| request.history[2].task ^= 1);
        let time = changed(&|request| request.history[2].ts = EventTime(0));
        let order = changed(&|request| request.history.reverse());
        assert!(item > 1e-5, "{kind:?}");
        // DIN takes the past as a set of items, a recurrent scan as a sequence of them. BST has no positions, but times, and an
        // order by what sees what.
        let is_hstu = matches!(kind, SequenceKind::Hstu | SequenceKind::HstuResearch);
        let is_ordered = kind != SequenceKind::Din;
        for (what, apart, is_read) in [
            ("task", task, is_hstu),
            ("time", time, is_hstu || kind == SequenceKind::Bst),
            ("order", order, is_ordered),
        ] {
            assert_eq!(apart > 1e-5, is_read, "{kind:?} {what}: {apart}");
        }
    }
}

/// What the search unit must see: what was done, when, and the list of its own attribute alone.
#[test]
fn a_candidate_reads_the_newest_actions_of_its_own_list_with_their_times() {
    let world = World::new();
    let (_, config) = models()
        .into_iter()
        .find(|(name, _)| name == "Mean with a long history")
        .unwrap();
    let weights = weights(&config);
    let mut net = net(&weights);
    let slate = world.slate(3, 9, &items(6));
    let scores = world.score(&mut net, &weights, std::slice::from_ref(&slate));
    let n_tasks = config.n_tasks();
    let mut changed = |change: &dyn Fn(&mut ouzel_sample::Request)| -> Vec<bool> {
        let mut other = slate.clone();
        change(Arc::make_mut(&mut other.request));
        let found = world.score(&mut net, &weights, &[other]);
        let pairs = scores.chunks_exact(n_tasks).zip(found.chunks_exact(n_tasks));
        pairs.map(|(a, b)| apart(a, b) > 1e-6).collect()
    };
    let reads = |list: u16| -> Vec<bool> {
        let candidates = slate.candidates.iter();
        candidates.map(|candidate| candidate.past == Some(list)).collect()
    };
    let none = vec![false; slate.candidates.len()];
    assert!(
        reads(0).contains(&true)
            && reads(1).contains(&true)
            && slate.candidates.iter().any(|c| c.past.is_none())
    );
    for list in [0, 1] {
        let at = usize::from(list);
        let newest = slate.request.past[at].len() - 1;
        assert_eq!(
            changed(&|request| request.past[at][newest].item = Id(38)),
            reads(list)
        );
        assert_eq!(
            changed(&|request| request.past[at][newest].ts = EventTime(0)),
            reads(list)
        );
        // The model reads the newest seven.
        assert_eq!(changed(&|request| request.past[at][0].item = Id(38)), none);
    }
}
