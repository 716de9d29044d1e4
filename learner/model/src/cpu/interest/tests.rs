//! Content interest against the block as libtorch differentiates it.

use tch::Device;

use super::*;
use crate::blocks::interest::{Contents, forward};
use crate::config::{ContentConfig, InterestConfig, LoraConfig};
use crate::cpu::testing::{Case, Tolerance, tensor};
use crate::cpu::weights::Learning;
use crate::groups::{Groups, Layout};

const LEN: usize = 5;
const N_CONTENTS: usize = 9;
const N_TARGETS: usize = 4;

/// Outputs and gradients are those of libtorch; contents of the history are constants.
#[track_caller]
fn check(on: &[&str], has_keys: bool) {
    let config = ModelConfig {
        content: ContentConfig {
            enabled: true,
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
            alpha: 4.0,
            layers: on.iter().map(|layer| (*layer).to_owned()).collect(),
        },
        ..ModelConfig::default()
    };
    let n_in = config.content.out();
    let request_of = [0i64, 0, 1, 1, 1, 3, 0];
    let of_candidate = [0i64, 3, 1, 1, 2, 0, 2];
    let of_history: Vec<i64> = (0..4 * LEN as i64).map(|at| 7 * at % N_CONTENTS as i64).collect();
    // Request 1 has a short history, 3 none.
    let is_valid = |at: usize| at / LEN != 3 && (at / LEN != 1 || at % LEN < 2);
    let valid: Vec<f32> = (0..4 * LEN).map(|at| f32::from(u8::from(is_valid(at)))).collect();
    let learning = Learning {
        contents: true,
        base: !has_keys,
        adapters: true,
    };
    let is_used = |name: &str| {
        name.starts_with("interest.")
            && (name.contains("lora") || learning.base || !name.ends_with("key.weight"))
            && (name.contains("lora") || learning.base || !name.ends_with("query.weight"))
    };
    let all = Case::of_model(&config, |name| name.starts_with("interest."));
    let case = Case::of_model(&config, is_used).input("vectors", &[N_TARGETS, n_in]);
    let past = crate::cpu::testing::made_up(50, (N_CONTENTS - N_TARGETS) * n_in);
    let vectors = [case.values("vectors"), &past].concat();

    let block = Interest::new(BlockWeights::new(&all, &config), &config).unwrap();
    let mut keys = vec![0.0; N_CONTENTS * 12];
    block.key.forward_merged(&vectors, &mut keys);
    let fixed = tensor(&vectors, &[N_CONTENTS, n_in]);
    let params = crate::params::Params::new(
        all.params().iter().map(|(name, constant)| {
            let tracked = case.params().find(name).unwrap_or(constant);
            (name.to_owned(), tracked.shallow_clone())
        }),
        config.lora.scale(),
    );
    let contents = Contents {
        keys: match has_keys {
            true => tensor(&keys, &[N_CONTENTS, 12]),
            false => params.base("interest.key", &fixed).unwrap(),
        },
        vectors: fixed,
        of_history: tch::Tensor::from_slice(&of_history).view([4, LEN as i64]),
        valid: tensor(&valid, &[4, LEN]),
    };
    let layout = Layout::new(&Groups::new(&request_of, 4), Device::Cpu).unwrap();
    let target = case
        .tensor("vectors")
        .index_select(0, &tch::Tensor::from_slice(&of_candidate));
    let expected = forward(&params, &target, &contents, &layout).unwrap();

    let inputs = InterestInputs {
        vectors: &vectors,
        n_targets: N_TARGETS,
        keys: has_keys.then_some(&keys),
        of_candidate: &of_candidate,
        of_history: &of_history,
        valid: &valid,
        len: LEN,
        request_of: &request_of,
    };
    let pass = block.forward(inputs);
    let of = block.backward(inputs, &pass, &case.direction(&expected), learning);
    let mut gradients = of.weights;
    gradients.push(("vectors".to_owned(), of.targets));
    case.check(&expected, &pass.output, &gradients, Tolerance::F32);
}

#[test]
fn the_loops_are_the_block_and_its_gradients() {
    for on in [
        &["interest.query", "interest.key"][..],
        &["interest.query"],
        &["interest.key"],
        &[],
    ] {
        check(on, false);
        check(on, true);
    }
}
