//! The ranker's blocks against what public implementations, or their equations in plain PyTorch, make of the same
//! weights; `fixtures.py` asked them.
//!
//! Each block is held against a recorded output, the gradients by every weight and every input, and the loss of 50
//! steps of Adagrad. Each recording also has the outputs of mistakes that are easy to make, and a block must be far
//! from all of them; where a mistake can be planted from outside, the block then makes the very output of the mistake.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a step that fails while setting a test up fails the test; what differs is printed by how much"
)]

mod case;
mod contrast;
mod dien;
mod din;
mod fm;
mod fq_former;
mod head;
mod hstu;
mod interest;
mod transformer;
