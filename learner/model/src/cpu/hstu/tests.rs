//! HSTU against the block as libtorch differentiates it, and candidates against themselves beside others.

use std::sync::Arc;

use ouzel_sample::{
    Candidate, Dense, EventTime, HistoryEntry, Id, N_DENSE, Request, ShownLogits, ShownSlate, VectorId,
    VectorMap,
};
use proptest::prelude::*;
use tch::{Device, Tensor};

use crate::blocks::{History, hstu};
use crate::config::{LoraConfig, ModelConfig, SequenceConfig, SequenceKind, TOKEN_FIELDS};
use crate::cpu::grad_mode::GradMode;
use crate::cpu::sequence::{CpuSequenceBlock, SequencePass};
use crate::cpu::testing::{Case, Tolerance, tensor};
use crate::cpu::weights::{BlockWeights, Learning};
use crate::groups::Layout;
use crate::inputs::{Inputs, Pool};

/// Requests with these counts of past actions and candidates. Some entries have no attribute, some items occur twice.
fn slates(sizes: &[(usize, usize)]) -> Vec<ShownSlate> {
    let now = 1_000_000_000;
    let slate = |(user, (n_past, n)): (u64, &(usize, usize))| {
        let pick = |at: usize, n: u64| (user * 31 + at as u64 * 17) % n;
        let history = (0..*n_past).map(|at| HistoryEntry {
            item: Id(pick(at, 23)),
            ts: EventTime(now - i64::try_from((n_past - at) * (at + 1)).unwrap() * 7_000),
            attribute: Id(if at % 5 == 4 { 0 } else { 1000 + pick(at, 5) }),
            task: u8::from(at % 3 == 1),
        });
        let candidate = |at: usize| {
            Arc::new(Candidate {
                past: None,
                item: Id(pick(at, 29)),
                attributes: vec![],
                position: None,
                dense: Dense::new([0.0; N_DENSE]),
                content: VectorId::NONE,
                predicted: ShownLogits::default(),
            })
        };
        ShownSlate {
            request: Arc::new(Request {
                past: Vec::new(),
                id: Id(user),
                user: Id(user),
                ts: EventTime(now),
                context: vec![],
                contents: vec![],
                history: history.collect(),
                n_items: 0,
            }),
            candidates: (0..*n).map(candidate).collect(),
        }
    };
    (0u64..).zip(sizes).map(slate).collect()
}

/// A case with the block's weights and the embedding rows of a batch.
fn case(config: &ModelConfig, inputs: &Inputs) -> Case {
    let case = Case::of_model(config, |name| name.starts_with("sequence."));
    case.input("rows", &[inputs.rows.len(), config.dim])
}

fn forward(config: &ModelConfig, case: &Case, inputs: &Inputs) -> SequencePass {
    let block = CpuSequenceBlock::new(BlockWeights::new(case, config), config).unwrap();
    let (rows, mode) = (case.values("rows"), GradMode::Weights);
    SequencePass::new(Arc::new(block), inputs, rows, config.dim, mode)
}

/// The block's output in tensors.
fn by_torch(config: &ModelConfig, case: &Case, inputs: &Inputs) -> Tensor {
    let history = &inputs.history;
    let (n_requests, n) = (inputs.n_requests(), inputs.rows.len());
    let pooled = |pool: &Pool, shape: &[i64]| {
        let mut identity = vec![0.0; n * n];
        identity.iter_mut().step_by(n + 1).for_each(|x| *x = 1.0);
        let pool = tensor(&pool.gather(&identity, n), &[pool.len(), n]);
        pool.matmul(case.tensor("rows")).reshape(shape)
    };
    let len = i64::try_from(history.len).unwrap();
    let token = i64::try_from(TOKEN_FIELDS * config.dim).unwrap();
    let tensors = History {
        tokens: pooled(&history.tokens, &[-1, len, token]),
        valid: tensor(&history.valid, &[n_requests, history.len]),
        tasks: Tensor::from_slice(&history.tasks).view([-1, len]),
        ages: tensor(&history.ages, &[n_requests, history.len]),
    };
    let target = pooled(&history.target, &[-1, token]);
    let layout = Layout::new(&inputs.groups, Device::Cpu).unwrap();
    hstu::forward(case.params(), &config.sequence, &target, &tensors, &layout).unwrap()
}

/// Outputs and all gradients are those of libtorch.
fn check(config: &ModelConfig, sizes: &[(usize, usize)], order: &[usize], tolerance: Tolerance) {
    let mut inputs = Inputs::of_shown(config, &slates(sizes), &VectorMap::default());
    shuffle(&mut inputs, order);
    let case = case(config, &inputs);
    let expected = by_torch(config, &case, &inputs);
    let pass = forward(config, &case, &inputs);
    let direction = case.direction(&expected);
    let backward = |learning: Learning| {
        let mut rows = vec![0.0; case.values("rows").len()];
        let weights = pass.backward(&inputs, (&direction, (0.0, 0)), &mut rows, learning);
        (rows, weights)
    };
    let mut learning = Learning {
        contents: false,
        base: true,
        adapters: true,
    };
    let (rows, mut gradients) = backward(learning);
    gradients.push(("rows".to_owned(), rows.clone()));
    case.check(&expected, pass.read(), &gradients, tolerance);
    (learning.base, learning.adapters) = (false, false);
    let (fixed_rows, weights) = backward(learning);
    assert!(weights.is_empty());
    assert_eq!(fixed_rows, rows, "fixed weights change the gradients of rows");
}

/// Candidates in another order, so that those of a request do not stand together.
fn shuffle(inputs: &mut Inputs, order: &[usize]) {
    let n = inputs.n_candidates();
    let mut places: Vec<usize> = (0..n).collect();
    places.sort_by_key(|at| order.get(*at).copied().unwrap_or(0));
    inputs.request_of = places.iter().map(|at| inputs.request_of[*at]).collect();
    inputs.groups = crate::Groups::new(&inputs.request_of, inputs.n_requests());
}

fn config(dim: usize, width: usize, [heads, key, value]: [usize; 3], history_len: usize) -> ModelConfig {
    let sequence = SequenceConfig {
        kind: SequenceKind::Hstu,
        history_len,
        width,
        layers: 1,
        heads,
        key_width: key,
        value_width: value,
        ..SequenceConfig::default()
    };
    ModelConfig {
        dim,
        tasks: vec!["click".into(), "order".into()],
        sequence,
        ..ModelConfig::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_loops_are_the_block_and_its_gradients(
        dim in 1usize..12,
        width in prop::sample::select(vec![4usize, 7, 16, 24, 32, 64]),
        heads in prop::array::uniform3(1usize..5),
        history_len in 1usize..24,
        sizes in prop::collection::vec((0usize..24, prop::sample::select(vec![1usize, 2, 3, 8, 17, 64])), 1..6),
        order in prop::collection::vec(0usize..3, 0..100),
    ) {
        let [n_heads, key, value] = heads;
        let config = config(dim, width, [n_heads, 4 * key - 3, 4 * value - 1], history_len);
        // A norm of few values, most of them small, amplifies a last bit: the next test has the usual widths.
        check(&config, &sizes, &order, Tolerance::Share(1e-3));
    }
}

#[test]
fn empty_full_and_single_histories_are_the_block_and_its_gradients() {
    let config = config(8, 32, [2, 16, 16], 50);
    for sizes in [
        vec![(0, 1)],
        vec![(1, 1)],
        vec![(50, 64)],
        vec![(50, 1), (0, 40), (1, 3), (49, 33)],
    ] {
        check(&config, &sizes, &[], Tolerance::F32);
    }
}

#[test]
fn adapters_learn_through_the_folded_weights() {
    for on in [
        &["sequence.token"][..],
        &["sequence.layer0.uvqk", "sequence.layer0.out"],
    ] {
        let config = ModelConfig {
            lora: LoraConfig {
                rank: 2,
                alpha: 2.0,
                layers: on.iter().map(|layer| (*layer).to_owned()).collect(),
            },
            ..config(8, 32, [2, 16, 16], 50)
        };
        check(&config, &[(7, 9), (0, 2), (50, 3)], &[], Tolerance::F32);
    }
}

/// To the last bit: every sum of a candidate runs in an order of its own.
#[test]
fn a_candidate_has_the_same_bits_beside_any_others() {
    let config = config(8, 32, [2, 16, 16], 50);
    let slates = slates(&[(50, 64), (0, 3), (7, 33), (1, 1), (50, 1)]);
    let together = Inputs::of_shown(&config, &slates, &VectorMap::default());
    let case = case(&config, &together);
    let bits = |inputs: &Inputs| -> Vec<u32> {
        let block = CpuSequenceBlock::new(BlockWeights::new(&case, &config), &config).unwrap();
        let row = |key| together.rows.iter().position(|other| *other == key).unwrap();
        let rows: Vec<f32> = inputs
            .rows
            .iter()
            .flat_map(|key| &case.values("rows")[row(*key) * config.dim..][..config.dim])
            .copied()
            .collect();
        let pass = SequencePass::new(Arc::new(block), inputs, &rows, config.dim, GradMode::None);
        pass.read().iter().map(|x| x.to_bits()).collect()
    };
    let alone = slates.iter().flat_map(|slate| {
        slate.candidates.iter().flat_map(|candidate| {
            let slate = ShownSlate {
                request: Arc::clone(&slate.request),
                candidates: vec![Arc::clone(candidate)],
            };
            bits(&Inputs::of_shown(&config, &[slate], &VectorMap::default()))
        })
    });
    assert!(
        bits(&together) == alone.collect::<Vec<_>>(),
        "other candidates change bits"
    );
}
