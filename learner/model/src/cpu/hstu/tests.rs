//! The loops against the block that libtorch differentiates, and against themselves in other company.

use std::sync::Arc;

use ouzel_sample::{
    Candidate, Dense, EventTime, HistoryEntry, Id, N_DENSE, Request, ShownLogit, ShownSlate, VectorId,
    VectorMap,
};
use proptest::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::blocks::hstu;
use crate::config::{ModelConfig, SequenceConfig, SequenceKind};
use crate::cpu::grad_mode::GradMode;
use crate::cpu::sequence::{CpuSequenceBlock, SequencePass};
use crate::host_slice::to_vec;
use crate::inputs::Inputs;
use crate::params::Params;
use crate::random::normal;
use crate::shapes::weight_specs;
use crate::torch::{BatchTensors, UniqueRows};
use crate::weights::Weights;

/// A model with a block of these sizes, none of whose weights is at a value where it would do nothing.
fn weights(dim: usize, sequence: SequenceConfig) -> Weights {
    let config = ModelConfig {
        dim,
        tasks: vec!["click".into(), "order".into()],
        sequence,
        ..ModelConfig::default()
    };
    let mut weights = Weights::new(config.clone(), 1, 0.1, 2);
    for (stream, spec) in (0u64..).zip(weight_specs(&config)) {
        let array = weights.dense.get_mut(&spec.name).unwrap();
        let values = array.values.iter().zip(0u64..);
        array.values = values
            .map(|(value, lane)| value + 0.2 * normal(77, stream, lane))
            .collect();
    }
    weights
}

/// Requests with so many past actions and candidates each. Some entries are about nothing, some are seen again.
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
                item: Id(pick(at, 29)),
                attributes: vec![],
                position: None,
                dense: Dense::new([0.0; N_DENSE]),
                content: VectorId::NONE,
                predicted: ShownLogit::default(),
            })
        };
        ShownSlate {
            request: Arc::new(Request {
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

fn params(weights: &Weights) -> Params {
    let tensor = |(name, array): (&String, &crate::weights::Array)| {
        let shape: Vec<i64> = array.shape.iter().map(|n| i64::try_from(*n).unwrap()).collect();
        let tensor = Tensor::from_slice(&array.values).reshape(&shape);
        (name.clone(), tensor.set_requires_grad(true))
    };
    let of_block = weights
        .dense
        .iter()
        .filter(|(name, _)| name.starts_with("sequence."));
    Params::new(of_block.map(tensor), 1.0)
}

fn pass(weights: &Weights, params: &Params, inputs: &Inputs) -> SequencePass {
    let rows = weights.rows.read_all(&inputs.rows);
    let block = Arc::new(CpuSequenceBlock::new(params, &weights.config).unwrap());
    SequencePass::new(block, inputs, &rows, weights.config.dim, GradMode::Weights)
}

/// Outputs and all gradients are those that libtorch finds by itself, within these shares of the largest.
fn check(weights: &Weights, sizes: &[(usize, usize)], order: &[usize], [outputs, gradients]: [f32; 2]) {
    let params = params(weights);
    let dim = weights.config.dim;
    let mut inputs = Inputs::of_shown(&weights.config, &slates(sizes), &VectorMap::default());
    shuffle(&mut inputs, order);
    let rows = UniqueRows::Host(weights.rows.read_all(&inputs.rows));
    let mut batch = BatchTensors::gather(&inputs, &rows, weights, Device::Cpu).unwrap();
    batch.track(&inputs);
    let (history, target) = (batch.history.as_ref().unwrap(), batch.target.as_ref().unwrap());
    let layout = batch.layout.as_ref().unwrap();
    let out = hstu::forward(&params, &weights.config.sequence, target, history, layout).unwrap();
    let direction: Vec<f32> = (0..out.numel() as u64).map(|lane| normal(5, 5, lane)).collect();
    let sum = (&out * Tensor::from_slice(&direction).view_as(&out)).sum(Kind::Float);
    let mut asked: Vec<&Tensor> = params.iter().map(|(_, tensor)| tensor).collect();
    asked.extend([&history.tokens, target]);
    let mut expected = Tensor::run_backward(&[&sum], &asked, false, false);
    let mut rows = vec![0.0; inputs.rows.len() * dim];
    for pool in [&inputs.history.target, &inputs.history.tokens] {
        pool.scatter(&to_vec(&expected.pop().unwrap()).unwrap(), dim, &mut rows);
    }

    let ours = pass(weights, &params, &inputs);
    close("out", ours.read(), &to_vec(&out).unwrap(), outputs);
    let mut of_rows = vec![0.0; rows.len()];
    let found = ours.backward(&inputs, &direction, &mut of_rows, true);
    close("rows", &of_rows, &rows, gradients);
    assert_eq!(found.len(), expected.len(), "every weight has a gradient");
    for ((name, _), expected) in params.iter().zip(&expected) {
        let (_, found) = found.iter().find(|(of, _)| *of == name).unwrap();
        close(name, found, &to_vec(expected).unwrap(), gradients);
    }
    let mut same_rows = vec![0.0; rows.len()];
    assert!(
        ours.backward(&inputs, &direction, &mut same_rows, false)
            .is_empty()
    );
    assert_eq!(same_rows, of_rows, "weights that stand still change nothing else");
}

/// Candidates in another order, so that those of a request do not stand together.
fn shuffle(inputs: &mut Inputs, order: &[usize]) {
    let n = inputs.n_candidates();
    let mut places: Vec<usize> = (0..n).collect();
    places.sort_by_key(|at| order.get(*at).copied().unwrap_or(0));
    inputs.request_of = places.iter().map(|at| inputs.request_of[*at]).collect();
    inputs.groups = crate::Groups::new(&inputs.request_of, inputs.n_requests());
}

fn close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let most = expected.iter().fold(1.0f32, |most, x| most.max(x.abs()));
    for (found, expected) in found.iter().zip(expected) {
        let off = (found - expected).abs();
        assert!(off <= tolerance * most, "{what}: {found} {expected} of {most}");
    }
}

fn sequence(width: usize, [heads, key, value]: [usize; 3], history_len: usize) -> SequenceConfig {
    SequenceConfig {
        kind: SequenceKind::Hstu,
        history_len,
        width,
        layers: 1,
        heads,
        key_width: key,
        value_width: value,
        ..SequenceConfig::default()
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
        let weights = weights(dim, sequence(width, [n_heads, 4 * key - 3, 4 * value - 1], history_len));
        // A norm of few values, most of them small, makes much of a last bit: the next test has the usual widths.
        check(&weights, &sizes, &order, [1e-4, 1e-3]);
    }
}

#[test]
fn empty_full_and_single_histories_are_the_block_and_its_gradients() {
    let weights = weights(8, sequence(32, [2, 16, 16], 50));
    for sizes in [
        vec![(0, 1)],
        vec![(1, 1)],
        vec![(50, 64)],
        vec![(50, 1), (0, 40), (1, 3), (49, 33)],
    ] {
        check(&weights, &sizes, &[], [1e-6, 1e-5]);
    }
}

/// To the last bit: every sum of a candidate runs in an order of its own.
#[test]
fn a_candidate_has_the_same_bits_in_any_company() {
    let weights = weights(8, sequence(32, [2, 16, 16], 50));
    let params = params(&weights);
    let bits = |slates: &[ShownSlate]| -> Vec<u32> {
        let inputs = Inputs::of_shown(&weights.config, slates, &VectorMap::default());
        let read = pass(&weights, &params, &inputs).read().to_vec();
        read.into_iter().map(f32::to_bits).collect()
    };
    let slates = slates(&[(50, 64), (0, 3), (7, 33), (1, 1), (50, 1)]);
    let alone = slates.iter().flat_map(|slate| {
        slate.candidates.iter().flat_map(|candidate| {
            bits(&[ShownSlate {
                request: Arc::clone(&slate.request),
                candidates: vec![Arc::clone(candidate)],
            }])
        })
    });
    assert!(bits(&slates) == alone.collect::<Vec<_>>(), "company changes bits");
}
