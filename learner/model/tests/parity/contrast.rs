//! Content-ID contrast, against the loss of CLIP.

use ouzel_model::blocks::contrast;

use super::case::{Case, LAYER};

#[test]
fn content_and_ids_are_drawn_together_as_by_the_loss_of_clip() {
    let case = Case::load("cic");
    let (temperature, alpha) = (case.number("tau"), case.number("alpha"));
    case.check(LAYER, |params, given| {
        let loss = contrast::loss(params, &given["id"], &given["content"], temperature).unwrap();
        (loss * alpha).reshape([1])
    });
}
