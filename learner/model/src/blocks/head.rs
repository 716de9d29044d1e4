//! From the last shared layer to one logit a task: a linear layer, towers over a shared bottom, or gated experts.

use tch::{Kind, Tensor};

use crate::config::{HeadConfig, HeadKind};
use crate::error::Error;
use crate::params::Params;

/// Logits of the tasks, `[n, n_tasks]`, from the last shared layer `x [n, width]`.
///
/// Experts and gates are those of Ma et al. 2018, eq. 5 to 7; both read the shared layer. With one gate for all tasks it is
/// their OMoE.
pub fn forward(params: &Params, config: &HeadConfig, n_tasks: usize, x: &Tensor) -> Result<Tensor, Error> {
    let tower = |task: usize, x: &Tensor| -> Result<Tensor, Error> {
        let hidden = params.linear(&format!("head.tower{task}"), x)?.f_silu()?;
        params.linear(&format!("head.out{task}"), &hidden)
    };
    let outputs: Vec<Tensor> = match config.kind {
        HeadKind::Single => return params.linear("out", x),
        HeadKind::SharedBottom => (0..n_tasks)
            .map(|task| tower(task, x))
            .collect::<Result<_, _>>()?,
        HeadKind::Omoe | HeadKind::Mmoe => {
            let experts = (0..config.experts)
                .map(|expert| Ok(params.linear(&format!("head.expert{expert}"), x)?.f_silu()?))
                .collect::<Result<Vec<Tensor>, Error>>()?;
            // [n, n_experts, width]
            let experts = Tensor::f_stack(&experts, 1)?;
            (0..n_tasks)
                .map(|task| {
                    let gate = params.linear(&config.gate(task).unwrap_or_default(), x)?;
                    let gate = gate.f_softmax(-1, Kind::Float)?.f_unsqueeze(1)?;
                    tower(task, &gate.f_matmul(&experts)?.f_squeeze_dim(1)?)
                })
                .collect::<Result<_, Error>>()?
        }
    };
    Ok(Tensor::f_cat(&outputs, 1)?)
}
