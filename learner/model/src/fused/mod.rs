//! Blocks in plain loops with a backward pass by hand, for the CPU.
//!
//! libtorch makes one pass over memory for each of a block's operations; here all that belongs to one candidate and
//! its request's history stays in the nearest cache from the first product to the last. The blocks in
//! [`crate::blocks`] say what is computed, on any device, and a test holds both to each other.

mod din;
mod hstu;
mod kernel;
mod pass;

pub(crate) use pass::ByHand;
pub use pass::SequencePass;
