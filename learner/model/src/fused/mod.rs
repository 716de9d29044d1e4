//! Models in plain loops for the CPU: blocks and layers with a backward pass by hand.
//!
//! libtorch makes one pass over memory for each of a block's operations; here all that belongs to one candidate and
//! its request's history stays in the nearest cache from the first product to the last. The blocks in
//! [`crate::blocks`] and [`crate::Net`] say what is computed, on any device, and tests hold both to each other.

mod content;
mod din;
mod half;
mod hand;
mod hstu;
mod interest;
mod kernel;
mod pass;
mod product;
mod spare;
mod tower;

pub use content::ContentPass;
pub(crate) use content::FqFormer;
pub use half::has_bf16_units;
pub(crate) use hand::{BatchContents, Hand};
pub use hand::{HandGradients, HandPass};
pub(crate) use interest::Interest;
pub use pass::SequencePass;
pub(crate) use pass::{ByHand, WayBack};
pub(crate) use tower::Tower;
