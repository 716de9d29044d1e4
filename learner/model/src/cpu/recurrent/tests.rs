//! A scan of many sequences is the scan of each, whatever their lengths.

use super::*;
use crate::config::MatmulPrecision;
use crate::cpu::testing::made_up;

const WIDTH: usize = 6;
const LEN: usize = 5;

#[test]
fn sequences_side_by_side_have_the_bits_of_each_alone() {
    let weight = made_up(1, 3 * WIDTH * WIDTH);
    let recurrent = Recurrent {
        state: Linear::new(weight, WIDTH, MatmulPrecision::F32).with_bias(&made_up(2, 3 * WIDTH)),
    };
    let gates = made_up(3, 3 * LEN * 3 * WIDTH);
    let (history_of, lens) = ([1, 0, 2, 1, 2], [2, 5, 0, 4, 1]);
    let attention: Vec<f32> = made_up(4, lens.len() * LEN).iter().map(|x| sigmoid(*x)).collect();
    let all = Sequences {
        gates: &gates,
        len: LEN,
        history_of: &history_of,
        lens: &lens,
        attention: Some(&attention),
    };
    let together = recurrent.forward(all, true, GradMode::None);
    assert!(together.last.iter().all(|x| x.is_finite()));
    for at in 0..lens.len() {
        let alone = Sequences {
            history_of: &history_of[at..=at],
            lens: &lens[at..=at],
            attention: Some(row(&attention, at, LEN)),
            ..all
        };
        let alone = recurrent.forward(alone, true, GradMode::Weights);
        assert_eq!(alone.last, row(&together.last, at, WIDTH));
        assert_eq!(alone.all, row(&together.all, at, LEN * WIDTH));
        // The last state is the one after the last entry.
        let last = match lens[at] {
            0 => vec![0.0; WIDTH],
            n => row(&alone.all, n - 1, WIDTH).to_vec(),
        };
        assert_eq!(alone.last, last);
    }
}

#[test]
fn without_attention_an_augru_keeps_its_state() {
    let recurrent = Recurrent {
        state: Linear::new(made_up(1, 3 * WIDTH * WIDTH), WIDTH, MatmulPrecision::F32)
            .with_bias(&made_up(2, 3 * WIDTH)),
    };
    let gates = made_up(3, LEN * 3 * WIDTH);
    let attention = [0.7, 0.0, 0.0, 0.0, 0.0];
    let scan = Sequences {
        gates: &gates,
        len: LEN,
        history_of: &[0],
        lens: &[LEN],
        attention: Some(&attention),
    };
    let states = recurrent.forward(scan, true, GradMode::None).all;
    let first = row(&states, 0, WIDTH);
    assert!(first.iter().any(|x| x.abs() > 0.01));
    for step in 1..LEN {
        assert_eq!(row(&states, step, WIDTH), first);
    }
}
