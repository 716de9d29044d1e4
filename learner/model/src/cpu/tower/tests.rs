//! Tower and content interest against the network as libtorch runs it.

use ouzel_sample::N_DENSE;
use tch::{Device, Kind, Tensor};

use super::*;
use crate::blocks::fq_former::{self, Frozen};
use crate::config::{ContentConfig, FeatureSet, InterestConfig, LoraConfig};
use crate::cpu::interest::{Interest, InterestInputs, Learning};
use crate::fields::{CANDIDATE_FIELDS, USER_FIELDS};
use crate::groups::{Groups, Layout};
use crate::net::Net;
use crate::normal;
use crate::torch::{BatchTensors, ContentIndices, ContentVectors, forward};
use crate::weights::Weights;

const LEN: usize = 5;
const N_CONTENTS: usize = 9;
const N_TARGETS: usize = 4;
const VECTOR: usize = 6;

fn made_up(stream: u64, n: usize) -> Vec<f32> {
    (0..n as u64).map(|lane| normal(17, stream, lane)).collect()
}

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    let shape: Vec<i64> = shape.iter().map(|n| i64::try_from(*n).unwrap()).collect();
    Tensor::from_slice(values).reshape(&shape)
}

/// Weights of all sizes, none of them 0.
fn net(config: &ModelConfig, is_frozen: bool) -> Net {
    let mut weights = Weights::new(config.clone(), 0, 0.0, 0);
    for (stream, array) in (100..).zip(weights.dense.values_mut()) {
        let made = made_up(stream, array.values.len());
        array.values = made.iter().map(|x| 0.3 * x).collect::<Vec<_>>().into();
    }
    weights.prior = made_up(90, config.n_tasks());
    weights.frozen = is_frozen.then_some(1);
    let net = Net::new(&weights, Device::Cpu).unwrap();
    for (_, tensor) in net.weights() {
        let _tracked = tensor.set_requires_grad(true);
    }
    net
}

fn close(what: &str, found: &[f32], expected: &Tensor) {
    let expected = to_vec(expected).unwrap();
    assert_eq!(found.len(), expected.len(), "{what}");
    let most = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    for (found, expected) in found.iter().zip(&expected) {
        assert!(
            (found - expected).abs() <= 2e-5 * most + 1e-6,
            "{what}: {found} {expected} of {most}"
        );
    }
}

/// Logits and all gradients are those that libtorch finds by itself.
#[expect(
    clippy::too_many_lines,
    reason = "one comparison, with its inputs made up first"
)]
fn holds(config: &ModelConfig, is_frozen: bool) {
    let net = net(config, is_frozen);
    let request_of = vec![0i64, 0, 1, 1, 1, 3, 0];
    let (n, n_requests, n_tasks, out) = (request_of.len(), 4, config.n_tasks(), config.content.out());
    let user = made_up(1, n_requests * USER_FIELDS * config.dim);
    let candidate = made_up(2, n * CANDIDATE_FIELDS * config.dim);
    // Some features are missing.
    let dense: Vec<f32> = made_up(3, n * N_DENSE).iter().map(|x| x.max(0.0)).collect();
    let wide = made_up(4, n);
    let direction = made_up(5, n * n_tasks);
    let of_candidate = vec![0i64, 3, 1, 1, 2, 0, 2];
    let mut of_history: Vec<i64> = (0..n_requests * LEN)
        .map(|at| (7 * at % N_CONTENTS) as i64)
        .collect();
    of_history[3] = 0;
    // Request 1 has a short history, 3 none.
    let valid: Vec<f32> = (0..n_requests * LEN)
        .map(|at| f32::from(u8::from(at / LEN != 3 && (at / LEN != 1 || at % LEN < 2))))
        .collect();

    let tracked = |values: &[f32], shape: &[usize]| tensor(values, shape).set_requires_grad(true);
    let contents = config.content.enabled.then(|| {
        if is_frozen {
            let all = tensor(&made_up(6, N_CONTENTS * out), &[N_CONTENTS, out]);
            let width = config.interest.width;
            let keys = tensor(&made_up(7, N_CONTENTS * width), &[N_CONTENTS, width]);
            return ContentVectors {
                targets: all.narrow(0, 0, N_TARGETS as i64),
                all,
                keys: Some(keys),
            };
        }
        let n_past = N_CONTENTS - N_TARGETS;
        let text = tensor(&made_up(8, N_TARGETS * VECTOR), &[N_TARGETS, VECTOR]);
        let frozen = Frozen {
            vectors: [Some(text), None],
            present: tensor(&[1.0, 0.0].repeat(N_TARGETS), &[N_TARGETS, 2]),
        };
        let targets = fq_former::forward(net.params(), &config.content, &frozen).unwrap();
        let past = tensor(&made_up(6, n_past * out), &[n_past, out]);
        let all = Tensor::cat(&[&targets.detach(), &past], 0);
        ContentVectors {
            keys: Some(net.params().base("interest.key", &all).unwrap()),
            targets,
            all,
        }
    });
    let vectors = contents
        .as_ref()
        .map_or(Vec::new(), |of| to_vec(&of.all).unwrap());
    let keys = contents
        .as_ref()
        .filter(|_| is_frozen)
        .and_then(|of| Some(to_vec(of.keys.as_ref()?).unwrap()));
    let batch = BatchTensors {
        user: tracked(&user, &[n_requests, USER_FIELDS, config.dim]),
        candidate: tracked(&candidate, &[n, CANDIDATE_FIELDS, config.dim]),
        wide: tracked(&wide, &[n]),
        dense: tensor(&dense, &[n, N_DENSE]),
        request_of: Tensor::from_slice(&request_of),
        history: None,
        target: None,
        contents: config.content.enabled.then(|| ContentIndices {
            of_candidate: Tensor::from_slice(&of_candidate),
            of_history: Tensor::from_slice(&of_history).view([n_requests as i64, LEN as i64]),
            valid: tensor(&valid, &[n_requests, LEN]),
            contrasted: None,
        }),
        layout: Some(Layout::new(&Groups::new(&request_of, n_requests), Device::Cpu).unwrap()),
    };
    let mask = config.features.mask();
    let mask_tensor = mask.map(|mask| Tensor::from_slice(&mask));
    let expected = forward(&net, mask_tensor.as_ref(), &batch, contents).unwrap();
    let sum = (&expected.logits * tensor(&direction, &[n, n_tasks])).sum(Kind::Float);

    // The loops.
    let params = net.params();
    let learning = Learning {
        contents: !is_frozen && config.content.enabled,
        base: !is_frozen,
        adapters: is_frozen,
    };
    let read = InterestInputs {
        vectors: &vectors,
        n_targets: N_TARGETS,
        keys: keys.as_deref(),
        of_candidate: &of_candidate,
        of_history: &of_history,
        valid: &valid,
        len: LEN,
        request_of: &request_of,
    };
    let interest = config
        .interest
        .enabled
        .then(|| Interest::new(params, &config.lora).unwrap());
    let interest_pass = interest.as_ref().map(|block| block.forward(read));
    let tower = Tower::new(params, config, mask.map(|mask| mask.to_vec())).unwrap();
    let prior = made_up(90, n_tasks);
    let inputs = TowerInputs {
        user: &user,
        candidate: &candidate,
        dense: &dense,
        contents: &vectors[..if out > 0 { N_TARGETS * out } else { 0 }],
        of_candidate: &of_candidate,
        interest: interest_pass.as_ref().map_or(&[], |pass| &pass.found),
        sequence: &[],
        wide: &wide,
        request_of: &request_of,
        n_requests,
        prior: &prior,
    };
    let pass = tower.forward(inputs);
    close("logits", &pass.logits, &expected.logits);
    let mut of = tower.backward(inputs, &pass, &direction, learning.contents);
    let mut found: Vec<(String, Vec<f32>)> = of.weights;
    if let (Some(block), Some(pass)) = (&interest, &interest_pass) {
        let back = block.backward(read, pass, &of.interest, learning);
        for (sum, of) in of.contents.iter_mut().zip(&back.targets) {
            *sum += of;
        }
        found.extend(back.weights.into_iter().map(|(name, of)| (name.to_owned(), of)));
    }
    if !config.wide {
        of.wide.clear();
    }

    let mut names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    let mut leaf_of: Vec<&Tensor> = names.iter().map(|name| params.get(name).unwrap()).collect();
    let mut values: Vec<&[f32]> = found.iter().map(|(_, values)| values.as_slice()).collect();
    for (name, leaf, of) in [
        ("user", Some(&batch.user), &of.user),
        ("candidate", Some(&batch.candidate), &of.candidate),
        ("wide", Some(&batch.wide).filter(|_| config.wide), &of.wide),
        (
            "contents",
            expected.contents.as_ref().filter(|_| learning.contents),
            &of.contents,
        ),
    ] {
        if let Some(leaf) = leaf {
            names.push(name);
            leaf_of.push(leaf);
            values.push(of);
        }
    }
    let expected = Tensor::run_backward(&[&sum], &leaf_of, false, false);
    for ((name, found), expected) in names.into_iter().zip(values).zip(&expected) {
        close(name, found, expected);
    }
    // Everything that learns here is there.
    for (spec, _) in net.weights() {
        let name = &spec.name;
        let is_elsewhere = name.starts_with("content.") || name.starts_with("cic.");
        let is_there = found.iter().any(|(found, _)| found == name);
        assert_eq!(is_there, net.learns(spec) && !is_elsewhere, "{name}");
    }
}

#[test]
fn the_loops_are_the_network_and_its_gradients() {
    let plain = ModelConfig {
        hidden: vec![20],
        ..ModelConfig::default()
    };
    let bare = ModelConfig {
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
        ..plain.clone()
    };
    let em3 = |of: &ModelConfig, on: &[&str]| ModelConfig {
        content: ContentConfig {
            enabled: true,
            vector_widths: [VECTOR, 0],
            width: 8,
            ..ContentConfig::default()
        },
        interest: InterestConfig {
            enabled: true,
            width: 12,
            history_len: LEN,
        },
        lora: LoraConfig {
            rank: 3,
            alpha: 3.0,
            layers: on.iter().map(|layer| (*layer).to_owned()).collect(),
        },
        ..of.clone()
    };
    let both = ["interest.query", "interest.key"];
    for config in [
        plain.clone(),
        bare.clone(),
        em3(&plain, &both),
        em3(&bare, &both),
        em3(&plain, &both[..1]),
        em3(&bare, &both[1..]),
        em3(&plain, &[]),
    ] {
        holds(&config, false);
        if config.content.enabled {
            holds(&config, true);
        }
    }
}

/// The slow way round: what is not a number comes out as such, so that the step is skipped.
#[test]
fn what_is_not_a_number_is_seen() {
    let config = ModelConfig {
        wide: false,
        fm: false,
        hidden: vec![20, 7],
        ..ModelConfig::default()
    };
    let net = net(&config, false);
    let tower = Tower::new(net.params(), &config, None).unwrap();
    let user = vec![0.0; USER_FIELDS * config.dim];
    let mut candidate = vec![0.0; 2 * CANDIDATE_FIELDS * config.dim];
    candidate[3] = f32::NAN;
    let pass = tower.forward(TowerInputs {
        user: &user,
        candidate: &candidate,
        dense: &[0.0; 2 * N_DENSE],
        request_of: &[0, 0],
        n_requests: 1,
        prior: &[0.0],
        ..TowerInputs::default()
    });
    assert!(pass.logits[0].is_nan() && pass.logits[1].is_finite());
}
