//! The cpu backend: operations in loops, each with its forward and backward pass, and the blocks composed of them.
//!
//! libtorch makes one pass over memory for each operation of a block; here the data of a candidate and its request's history
//! stays in the nearest cache from the first product to the last. [`crate::blocks`] holds the same blocks in tensors, and
//! tests compare outputs and all gradients with those.
//!
//! Operations: `gemm` (matrix products, with `bf16` factors where configured), `kernel` (loops over rows), `activation`,
//! `softmax`, `layer_norm`, `linear` (with adapters), `recurrent`, `gate`, `fm`, `content_linear`, `contrast`. Blocks: `fq_former`, `interest`,
//! `din`, `dien`, `transformer`, `hstu`, `head`, `slate_pool`, `tower`. All of them read weights as slices by name (`weights`); `model`, `pass` and `sequence` run a batch through them.

mod activation;
mod bf16;
mod content_linear;
mod contrast;
mod dien;
mod din;
mod eigen;
mod fm;
mod fq_former;
mod gate;
mod gemm;
mod grad_mode;
mod head;
mod history_inputs;
mod hstu;
mod interest;
mod kernel;
mod layer_norm;
pub mod linalg;
mod linear;
mod long_history;
mod model;
mod pass;
mod recurrent;
mod retrieval;
mod scratch;
mod sequence;
mod slate_pool;
mod softmax;
#[cfg(test)]
mod testing;
mod tower;
mod transformer;
mod weights;

pub use bf16::has_bf16_units;
pub(crate) use model::{CpuBackend, unsupported};
pub use retrieval::{SampledSoftmax, TowerGradients, Towers, similarities};
pub(crate) use weights::WeightSource;
