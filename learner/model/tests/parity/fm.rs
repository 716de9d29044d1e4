//! The second-order term, against DeepCTR-Torch's `FM`.

use ouzel_model::blocks::fm;

use super::case::{Case, LAYER};

#[test]
fn every_pair_of_fields_meets_once_as_in_deepctr() {
    Case::load("fm").check(LAYER, |_, given| {
        fm::second_order(&given["user"], &given["candidate"], &given["request_of"]).unwrap()
    });
}
