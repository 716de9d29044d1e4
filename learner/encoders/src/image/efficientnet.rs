//! The EfficientNet-Lite network: a stem, inverted-bottleneck blocks, a head, the mean over all positions.
//!
//! A block is `expand 1x1, depthwise kxk, project 1x1` (Sandler et al. 2018, Tan & Le 2019) without squeeze-and-excite.
//! ReLU6 follows every convolution but a projection; batch norm is folded into the weights.

use tch::{Device, Kind, Tensor};

use super::decode::COLOURS;
use crate::EncodeError;
use crate::folder::{Tensors, size};

/// A convolution with TensorFlow's `SAME` padding.
#[derive(Debug)]
struct Conv {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
    kernel: i64,
    n_groups: i64,
}

#[derive(Debug)]
struct Block {
    expand: Option<Conv>,
    depthwise: Conv,
    project: Conv,
    /// True when the block's input is added to its output.
    is_residual: bool,
}

/// The network's weights on one device.
#[derive(Debug)]
pub(super) struct EfficientNet {
    stem: Conv,
    blocks: Vec<Block>,
    head: Conv,
    n_out: usize,
}

#[derive(Clone, Copy)]
enum Kernel {
    /// An odd side, over all channels.
    Full,
    /// An odd side, within each channel.
    Depthwise,
    /// One pixel, over all channels.
    Point,
}

impl Conv {
    /// Reads a convolution over `n_in` channels. The weights say the number of output channels, returned beside it, and
    /// the kernel's side.
    fn load(
        tensors: &Tensors<'_>,
        name: &str,
        n_in: usize,
        kernel: Kernel,
        stride: i64,
    ) -> Result<(Self, usize), EncodeError> {
        let weight = format!("{name}.weight");
        let shape = tensors.shape(&weight)?;
        // A shape that cannot be right becomes an expected shape that the load below refuses.
        let side = shape.last().copied().filter(|n| n % 2 == 1).unwrap_or(3);
        let n_out = shape.first().copied().filter(|n| *n > 0).unwrap_or(1);
        let (expected, n_groups) = match kernel {
            Kernel::Full => ([n_out, n_in, side, side], 1),
            Kernel::Depthwise => ([n_in, 1, side, side], size(n_in)),
            Kernel::Point => ([n_out, n_in, 1, 1], 1),
        };
        let [n_out, _, _, side] = expected;
        let conv = Self {
            // Channels last, the picture's own layout.
            weight: tensors
                .load(&weight, &expected)?
                .f_permute([0, 2, 3, 1])?
                .f_contiguous()?
                .f_permute([0, 3, 1, 2])?,
            bias: tensors.load(&format!("{name}.bias"), &[n_out])?,
            stride,
            kernel: size(side),
            n_groups,
        };
        Ok((conv, n_out))
    }

    /// `[1, n_in, h, w]` to `[1, n_out, ceil(h / stride), ceil(w / stride)]`
    fn forward(&self, x: &Tensor) -> Result<Tensor, tch::TchError> {
        let shape = x.size();
        let (above, below) = self.padding(shape[2]);
        let (left, right) = self.padding(shape[3]);
        // The convolution pads evenly by itself; an uneven padding is added before it.
        let (padded, even) = if above == below && left == right {
            (None, [above, left])
        } else {
            (Some(x.f_constant_pad_nd([left, right, above, below])?), [0, 0])
        };
        padded.as_ref().unwrap_or(x).f_conv2d(
            &self.weight,
            Some(&self.bias),
            [self.stride, self.stride],
            even,
            [1, 1],
            self.n_groups,
        )
    }

    /// Zeros before and after a line of `n` pixels for `ceil(n / stride)` steps; an odd one goes after.
    fn padding(&self, n: i64) -> (i64, i64) {
        let n_out = (n + self.stride - 1) / self.stride;
        let missing = ((n_out - 1) * self.stride + self.kernel - n).max(0);
        (missing / 2, missing - missing / 2)
    }
}

fn relu6(mut x: Tensor) -> Result<Tensor, tch::TchError> {
    x.f_clamp_(0.0, 6.0)
}

impl EfficientNet {
    /// Reads a network with these strides, the stem's first.
    pub(super) fn load(tensors: &Tensors<'_>, strides: &[i64]) -> Result<Self, EncodeError> {
        let load = |name: &str, n_in, kernel, stride| Conv::load(tensors, name, n_in, kernel, stride);
        let (first, strides) = strides.split_first().expect("a checked configuration has a stem");
        let (stem, mut n) = load("stem", COLOURS, Kernel::Full, *first)?;
        let mut blocks = Vec::new();
        for (b, stride) in strides.iter().enumerate() {
            let n_in = n;
            // The first block does not expand.
            let mut expand = None;
            if tensors.has(&format!("blocks.{b}.expand.weight")) {
                let (conv, n_out) = load(&format!("blocks.{b}.expand"), n, Kernel::Point, 1)?;
                (expand, n) = (Some(conv), n_out);
            }
            let (depthwise, _) = load(&format!("blocks.{b}.depthwise"), n, Kernel::Depthwise, *stride)?;
            let (project, n_out) = load(&format!("blocks.{b}.project"), n, Kernel::Point, 1)?;
            n = n_out;
            blocks.push(Block {
                expand,
                depthwise,
                project,
                is_residual: *stride == 1 && n_in == n_out,
            });
        }
        let (head, n_out) = load("head", n, Kernel::Point, 1)?;
        Ok(Self {
            stem,
            blocks,
            head,
            n_out,
        })
    }

    pub(super) fn n_out(&self) -> usize {
        self.n_out
    }

    /// `picture [1, COLOURS, side, side]`, colours innermost in memory, to `[n_out]` on the CPU.
    pub(super) fn forward(&self, picture: &Tensor) -> Result<Tensor, tch::TchError> {
        let mut x = relu6(self.stem.forward(picture)?)?;
        for block in &self.blocks {
            let expanded = match &block.expand {
                Some(expand) => Some(relu6(expand.forward(&x)?)?),
                None => None,
            };
            let filtered = relu6(block.depthwise.forward(expanded.as_ref().unwrap_or(&x))?)?;
            let projected = block.project.forward(&filtered)?;
            x = if block.is_residual {
                projected.f_add(&x)?
            } else {
                projected
            };
        }
        let features = relu6(self.head.forward(&x)?)?;
        let mean = features.f_mean_dim([2i64, 3].as_slice(), false, Kind::Float)?;
        mean.f_view([-1])?.f_to_device(Device::Cpu)
    }
}
