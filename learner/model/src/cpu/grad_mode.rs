//! How far gradients flow back through a forward pass.

/// How far gradients flow back through a pass, which decides what the pass keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GradMode {
    /// Not at all: the pass only scores.
    None,
    /// To what the block reads, through weights that are fixed.
    Inputs,
    /// To its weights as well.
    Weights,
}
