//! The bound between tasks, against its equation in 80 digits and against torch: recorded, as the model's blocks are.

use std::collections::BTreeMap;
use std::path::Path;

use ouzel_learner::loss::divergence;
use tch::{Kind, Tensor};

type Columns = BTreeMap<String, Vec<f64>>;

/// What `fixtures.py` of the model's parity tests wrote under this name.
fn recorded(name: &str) -> Columns {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("model/tests/parity/fixtures")
        .join(name)
        .with_extension("safetensors");
    Tensor::read_safetensors(path)
        .unwrap()
        .into_iter()
        .map(|(name, tensor)| {
            (
                name,
                Vec::try_from(tensor.to_kind(Kind::Double).view(-1)).unwrap(),
            )
        })
        .collect()
}

fn logits(columns: &Columns) -> Vec<[f32; 3]> {
    let [a, b, z] = ["in.a", "in.b", "in.z"].map(|name| &columns[name]);
    let rows = a.iter().zip(b).zip(z);
    rows.map(|((a, b), z)| [*a, *b, *z].map(|logit| logit as f32))
        .collect()
}

fn value([a, b, z]: [f32; 3]) -> f64 {
    divergence(a, b, z).value
}

#[test]
fn a_bound_and_its_gradients_are_exact_up_to_logits_of_40() {
    let columns = recorded("kl_bound_extreme");
    let gradients = ["grad.in.a", "grad.in.b", "grad.in.z"].map(|name| &columns[name]);
    let logits = logits(&columns);
    assert!(logits.iter().flatten().any(|logit| *logit > 39.0) && logits.len() > 200);
    for (row, [a, b, z]) in logits.into_iter().enumerate() {
        let found = divergence(a, b, z);
        let numbers = [
            found.value,
            found.gradient[0],
            found.gradient[1],
            found.gradient[2],
        ];
        let exact = [&columns["out"], gradients[0], gradients[1], gradients[2]].map(|column| column[row]);
        for (found, exact) in numbers.into_iter().zip(exact) {
            let off = (found - exact).abs();
            // Where the tasks agree, their log-odds differ by less than a double has room for beside 40.
            let is_near = off <= 1e-12 * exact.abs() + 1e-15;
            assert!(is_near, "{a} {b} {z}: {found:e} for {exact:e}");
        }
    }
}

#[test]
fn logits_under_a_bound_learn_as_torch_moves_them() {
    let columns = recorded("kl_bound");
    let mut logits = logits(&columns);
    let n = logits.len();
    for (row, logits) in logits.iter().enumerate() {
        let off = (value(*logits) - columns["out"][row]).abs();
        assert!(
            off <= 1e-5 * (1.0 + columns["out"][row]),
            "row {row}: off by {off:e}"
        );
    }
    let mut squares = vec![[0.0_f32; 3]; n];
    for (step, theirs) in columns["loss"].iter().enumerate() {
        let target = &columns["target"][n * (step % 2)..][..n];
        let mut loss = 0.0;
        for ((logits, squares), target) in logits.iter_mut().zip(&mut squares).zip(target) {
            let found = divergence(logits[0], logits[1], logits[2]);
            let off = found.value - target;
            loss += off * off / n as f64;
            for i in 0..3 {
                let gradient = (2.0 * off / n as f64 * found.gradient[i]) as f32;
                squares[i] += gradient * gradient;
                logits[i] -= 0.03 * gradient / (squares[i].sqrt() + 1e-8);
            }
        }
        let off = (loss / theirs - 1.0).abs();
        assert!(off <= 1e-4, "the loss before step {step} is off by {off:e}");
    }
}

#[test]
fn a_bound_is_far_from_one_direction_and_from_one_task() {
    let columns = recorded("kl_bound");
    let logits = logits(&columns);
    for name in ["wrong.one_way", "wrong.of_click"] {
        let off = logits
            .iter()
            .zip(&columns[name])
            .map(|(logits, wrong)| (value(*logits) - wrong).abs());
        let off = off.fold(0.0, f64::max);
        assert!(off > 1.0, "{name} is but {off:e} away");
    }
}
