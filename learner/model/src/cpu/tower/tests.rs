//! The tower against the same layers as libtorch differentiates them.

use ouzel_sample::N_DENSE;
use tch::{Device, Tensor};

use super::*;
use crate::blocks::{fm, gate, head, slate_pool};
use crate::config::{
    ContentConfig, FeatureSet, HeadConfig, HeadKind, InterestConfig, LongHistoryConfig, LoraConfig,
    SequenceConfig,
};
use crate::config::{MatmulPrecision, SequenceKind};
use crate::cpu::testing::{Case, Tolerance, made_up, tensor};
use crate::cpu::weights::Learning;
use crate::feature_norm::FeatureScale;
use crate::fields::{CANDIDATE_FIELDS, USER_FIELDS};
use crate::shapes::weight_specs;
use crate::torch::gather_slates;

const REQUEST_OF: [i64; 7] = [0, 0, 1, 1, 1, 3, 0];
const OF_CANDIDATE: [i64; 7] = [0, 3, 1, 1, 2, 0, 2];
const N_REQUESTS: usize = 4;
const N_CONTENTS: usize = 4;

/// The tower in tensors: logits, then auxiliary logits.
fn by_torch(
    case: &Case,
    config: &ModelConfig,
    mask: Option<&[f32]>,
    prior: &[f32],
    scale: Option<&FeatureScale>,
) -> [Tensor; 2] {
    let n = REQUEST_OF.len();
    let input = |name: &str| case.params().find(name);
    let request_of = Tensor::from_slice(&REQUEST_OF);
    let of = |x: &Tensor, weight: &str| x.matmul(&case.tensor(weight).tr());
    let features = tensor(&dense(), &[n, N_DENSE]);
    let mut dense = features.shallow_clone();
    if let Some(scale) = scale {
        let [mean, factor] = [&scale.mean, &scale.factor].map(|lanes| Tensor::from_slice(lanes));
        dense = ((dense - mean) * factor).clamp(-2.5, 2.5);
    }
    if let Some(missing) = input("missing") {
        dense = missing.where_self(&features.eq(0.0), &dense);
    }
    if let Some(mask) = mask {
        dense *= Tensor::from_slice(mask);
    }
    let n_user = i64::try_from(USER_FIELDS).unwrap();
    let user = case.tensor("user").index_select(0, &request_of);
    let mut fields = Tensor::cat(&[&user, case.tensor("candidate")], 1);
    let rows = Tensor::cat(&[user.select(1, 0), case.tensor("candidate").flatten(1, -1)], 1);
    if config.senet {
        fields = gate::of_fields(case.params(), &fields).unwrap().unsqueeze(-1) * fields;
    }
    let [of_user, of_candidate] = [
        fields.narrow(1, 0, n_user),
        fields.slice(1, n_user, None::<i64>, 1),
    ];
    let mut first = of(&of_user.flatten(1, -1), "first.user")
        + of(&of_candidate.flatten(1, -1), "first.candidate")
        + of(&dense, "first.dense")
        + case.tensor("first.bias");
    let mut fields = case.tensor("candidate").shallow_clone();
    if let Some(contents) = input("contents") {
        let contents = contents.index_select(0, &Tensor::from_slice(&OF_CANDIDATE));
        first += of(&contents, "first.content");
        if config.fm {
            fields = Tensor::cat(&[fields, of(&contents, "fm.content").unsqueeze(1)], 1);
        }
    }
    for block in ["interest", "sequence", "long"] {
        if let Some(output) = input(block) {
            first += of(output, &format!("first.{block}"));
        }
    }
    let gates = |layer: usize| match config.ppnet {
        true => gate::of_layer(case.params(), layer, &rows).unwrap(),
        false => Tensor::from(1.0f32),
    };
    let mut hidden = first.relu() * gates(0);
    for layer in 1..config.hidden.len() {
        let next = case.params().linear(&format!("hidden{layer}"), &hidden).unwrap();
        hidden = next.relu() * gates(layer);
    }
    let auxiliary = match config.auxiliary {
        0 => Tensor::zeros([0], (tch::Kind::Float, tch::Device::Cpu)),
        _ => case.params().linear("aux", &hidden.detach()).unwrap(),
    };
    let mut logits = head::forward(case.params(), &config.head, config.n_tasks(), &hidden).unwrap();
    let n_requests = i64::try_from(N_REQUESTS).unwrap();
    logits += Tensor::from_slice(prior)
        .view([n_requests, -1])
        .index_select(0, &request_of);
    if config.pool_slate {
        let slates = gather_slates(&MEMBERS, &REQUEST_OF, N_REQUESTS, Device::Cpu).unwrap();
        let stats = slate_pool::stats(&hidden, &slates).unwrap();
        let read = slate_pool::differences(&hidden, &stats, &request_of).unwrap();
        logits += of(&read, "pool.weight");
    }
    if config.wide {
        logits += case.tensor("wide").unsqueeze(1);
    }
    if config.fm {
        let user = case.tensor("user");
        logits += fm::second_order(user, &fields, &request_of).unwrap().unsqueeze(1);
    }
    [logits, auxiliary]
}

/// Live features, some of them missing.
fn dense() -> Vec<f32> {
    // A draw without a sum so near 0 that rounding its factors to bf16 moves a unit across ReLU.
    let values = made_up(4, REQUEST_OF.len() * N_DENSE);
    values.into_iter().map(|x| x.max(0.0)).collect()
}

/// The last candidate repeats an item of its request.
const MEMBERS: [bool; 7] = [true, true, true, true, true, true, false];

/// A transform that clips some of the features.
fn scale() -> FeatureScale {
    FeatureScale {
        mean: made_up(4, N_DENSE),
        factor: made_up(5, N_DENSE).into_iter().map(f32::abs).collect(),
    }
}

#[track_caller]
fn check(config: &ModelConfig, tolerance: Tolerance) {
    let (n, dim, out) = (REQUEST_OF.len(), config.dim, config.content.out());
    let is_block = |name: &str| {
        ["content.", "interest.", "sequence.", "long.", "cic.", "linear."]
            .iter()
            .any(|block| name.starts_with(block))
    };
    let mut case = Case::of_model(config, |name| !is_block(name))
        .input("user", &[N_REQUESTS, USER_FIELDS, dim])
        .input("candidate", &[n, CANDIDATE_FIELDS, dim]);
    if config.wide {
        case = case.input("wide", &[n]);
    }
    if out > 0 {
        case = case.input("contents", &[N_CONTENTS, out]);
    }
    if config.interest.enabled {
        case = case.input("interest", &[n, out]);
    }
    if config.sequence.kind != SequenceKind::Mean {
        case = case.input("sequence", &[n, config.sequence.out(dim)]);
    }
    if config.long_history.enabled {
        case = case.input("long", &[n, config.long_history.out(dim)]);
    }
    let mask: Vec<f32> = (0..N_DENSE).map(|at| f32::from(u8::from(at % 4 != 1))).collect();
    let mask = Some(mask).filter(|_| !config.features.similarity);
    let prior = made_up(90, N_REQUESTS * config.n_tasks());
    let scale = config.features.normalize.then(scale);
    let [expected, expected_auxiliary] = by_torch(&case, config, mask.as_deref(), &prior, scale.as_ref());

    let find = |name: &str| case.params().find(name).map_or(&[][..], |_| case.values(name));
    let dense = dense();
    let inputs = TowerInputs {
        user: find("user"),
        candidate: find("candidate"),
        dense: &dense,
        contents: find("contents"),
        of_candidate: &OF_CANDIDATE,
        interest: find("interest"),
        sequence: find("sequence"),
        long: find("long"),
        wide: find("wide"),
        request_of: &REQUEST_OF,
        n_requests: N_REQUESTS,
        prior: &prior,
        scale: scale.as_ref(),
        members: config.pool_slate.then_some(&MEMBERS[..]),
    };
    let tower = Tower::new(BlockWeights::new(&case, config), config, mask).unwrap();
    let pass = tower.forward(inputs);
    let learning = Learning {
        contents: out > 0,
        base: true,
        adapters: true,
    };
    let both = Tensor::cat(&[expected.flatten(0, -1), expected_auxiliary.flatten(0, -1)], 0);
    let direction = case.direction(&both);
    let (of_logits, of_auxiliary) = direction.split_at(pass.logits.len());
    let of = tower.backward(inputs, &pass, [of_logits, of_auxiliary], learning);
    let mut gradients = of.weights;
    for (name, gradient) in [
        ("user", of.user),
        ("candidate", of.candidate),
        ("wide", of.wide),
        ("contents", of.contents),
        ("interest", of.interest),
        ("sequence", of.sequence),
        ("long", of.long),
    ] {
        if case.params().find(name).is_some() {
            gradients.push((name.to_owned(), gradient));
        }
    }
    let outputs = [pass.logits.as_slice(), &pass.auxiliary].concat();
    case.check(&both, &outputs, &gradients, tolerance);

    // Contents that do not learn take no gradient and change no other.
    if out > 0 {
        let learning = Learning {
            contents: false,
            ..learning
        };
        let fixed = tower.backward(inputs, &pass, [of_logits, of_auxiliary], learning);
        assert!(fixed.contents.is_empty());
        for (name, gradient) in fixed.weights {
            let (_, expected) = gradients.iter().find(|(found, _)| *found == name).unwrap();
            assert!(gradient == *expected, "{name}");
        }
    }
}

fn one_hidden_layer() -> ModelConfig {
    ModelConfig {
        hidden: vec![20],
        features: FeatureSet {
            normalize: false,
            ..FeatureSet::default()
        },
        ..ModelConfig::default()
    }
}

fn three_hidden_layers() -> ModelConfig {
    ModelConfig {
        dim: 3,
        wide: false,
        fm: false,
        hidden: vec![12, 9, 4],
        tasks: vec!["click".into(), "like".into(), "share".into()],
        features: FeatureSet {
            similarity: false,
            ..FeatureSet::default()
        },
        learned_missing: true,
        ..ModelConfig::default()
    }
}

fn with_blocks(config: ModelConfig) -> ModelConfig {
    ModelConfig {
        content: ContentConfig {
            enabled: true,
            vector_widths: [6, 0],
            width: 8,
            ..ContentConfig::default()
        },
        interest: InterestConfig {
            enabled: true,
            ..InterestConfig::default()
        },
        sequence: SequenceConfig {
            kind: SequenceKind::Din,
            ..SequenceConfig::default()
        },
        long_history: LongHistoryConfig {
            enabled: true,
            heads: 2,
            ..LongHistoryConfig::default()
        },
        ..config
    }
}

#[test]
fn the_loops_are_the_layers_and_their_gradients() {
    for config in [one_hidden_layer(), three_hidden_layers()] {
        check(&config, Tolerance::F32);
        check(&with_blocks(config), Tolerance::F32);
    }
}

#[test]
fn heads_auxiliary_logits_and_adapters_are_those_of_the_layers() {
    for kind in [HeadKind::SharedBottom, HeadKind::Mmoe] {
        let config = ModelConfig {
            head: HeadConfig {
                kind,
                ..HeadConfig::default()
            },
            auxiliary: 1,
            ..with_blocks(three_hidden_layers())
        };
        check(&config, Tolerance::F32);
    }
    let config = ModelConfig {
        auxiliary: 2,
        lora: LoraConfig {
            rank: 2,
            alpha: 3.0,
            layers: ["hidden1", "hidden2", "out", "aux"].map(str::to_owned).to_vec(),
        },
        ..three_hidden_layers()
    };
    let n_adapted = weight_specs(&config)
        .iter()
        .filter(|spec| spec.name.ends_with("lora_a"))
        .count();
    assert_eq!(n_adapted, 4);
    check(&config, Tolerance::F32);
}

#[test]
fn the_pooled_head_and_its_gradients_are_those_of_the_layers() {
    for kind in [HeadKind::Single, HeadKind::Mmoe] {
        for config in [one_hidden_layer(), three_hidden_layers()] {
            let config = ModelConfig {
                pool_slate: true,
                auxiliary: 1,
                head: HeadConfig {
                    kind,
                    ..HeadConfig::default()
                },
                ..with_blocks(config)
            };
            check(&config, Tolerance::F32);
        }
    }
}

#[test]
fn gates_and_their_gradients_are_those_of_the_layers() {
    for config in [one_hidden_layer(), three_hidden_layers()] {
        for (senet, ppnet) in [(true, false), (false, true), (true, true)] {
            let config = ModelConfig {
                senet,
                ppnet,
                auxiliary: 1,
                lora: LoraConfig {
                    rank: 2,
                    alpha: 3.0,
                    layers: ["field_gate.out", "gate0.in", "gate0.out"]
                        .map(str::to_owned)
                        .to_vec(),
                },
                ..with_blocks(config.clone())
            };
            check(&config, Tolerance::F32);
        }
    }
}

#[test]
fn products_in_bf16_are_near_those_of_the_layers() {
    let config = ModelConfig {
        hidden: vec![64, 48],
        matmul_precision: MatmulPrecision::Bf16,
        ..with_blocks(one_hidden_layer())
    };
    // A rounded sum near 0 may change its side of ReLU, and with it a whole gradient.
    check(&config, Tolerance::Share(0.1));
}

/// A NaN comes out as a NaN, so that the learner skips the step.
#[test]
fn a_nan_of_a_candidate_reaches_its_logit_alone() {
    let config = ModelConfig {
        wide: false,
        fm: false,
        hidden: vec![20, 7],
        ..ModelConfig::default()
    };
    let case = Case::of_model(&config, |_| true);
    let tower = Tower::new(BlockWeights::new(&case, &config), &config, None).unwrap();
    let mut candidate = vec![0.0; 2 * CANDIDATE_FIELDS * config.dim];
    candidate[3] = f32::NAN;
    let pass = tower.forward(TowerInputs {
        user: &vec![0.0; USER_FIELDS * config.dim],
        candidate: &candidate,
        dense: &[0.0; 2 * N_DENSE],
        request_of: &[0, 0],
        n_requests: 1,
        prior: &[0.0],
        ..TowerInputs::default()
    });
    assert!(pass.logits[0].is_nan() && pass.logits[1].is_finite());
}
