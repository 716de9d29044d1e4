//! Models in plain loops for the CPU: blocks and layers with a backward pass by hand.
//!
//! libtorch makes one pass over memory for each of a block's operations; here all that belongs to one candidate and
//! its request's history stays in the nearest cache from the first product to the last. The blocks in
//! [`crate::blocks`] and [`crate::Net`] say what is computed, on any device, and tests hold both to each other.

mod bf16;
mod content;
mod din;
mod gemm;
mod grad_mode;
mod hstu;
mod interest;
mod kernel;
mod model;
mod pass;
mod scratch;
mod sequence;
mod tower;

pub use bf16::has_bf16_units;
pub(crate) use model::{CpuBackend, unsupported};
