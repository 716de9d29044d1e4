//! The forward pass, the same for training and serving.
//!
//! `logit = prior + bias + wide + FM + MLP`, the recipe of a single-pass ranker. The FM and the first layer
//! of the MLP split into a part per request and a part per candidate, so the user side is computed once a
//! request and candidates only gather it.
//!
//! Auxiliary logits, where a label policy needs them, are linear in the last hidden layer. No gradient goes back
//! through them: a model with them learns the same primary logits as one without.

use tch::{Device, Kind, Tensor};

use ouzel_sample::N_DENSE;

use crate::config::{ModelConfig, Output};
use crate::error::Error;
use crate::fields::{CANDIDATE_FIELDS, USER_FIELDS};
use crate::inputs::Inputs;
use crate::weights::{Array, Dense, Weights};

/// The dense weights as tensors on one device, owned by one thread.
#[derive(Debug)]
pub struct Net {
    names: Vec<String>,
    params: Vec<Tensor>,
    n_hidden: usize,
    output: Output,
    prior: Tensor,
    device: Device,
}

/// What comes out of the network.
#[derive(Debug)]
pub struct Outputs {
    /// `[n_candidates, n_tasks]`, of what the model's [`Output`] says.
    pub logits: Tensor,
    /// `[n_candidates, n_tasks * auxiliary]`; none where the model has no auxiliary logits.
    pub auxiliary: Option<Tensor>,
}

/// The tensors a batch brings; the learner asks for gradients of the first three.
#[derive(Debug)]
pub struct Leaves {
    /// `[n_requests, USER_FIELDS, dim]`
    pub user: Tensor,
    /// `[n_candidates, CANDIDATE_FIELDS, dim]`
    pub candidate: Tensor,
    /// `[n_candidates]`
    pub wide: Tensor,
    /// `[n_candidates, N_DENSE]`
    pub dense: Tensor,
    /// `[n_candidates]`
    pub request_of: Tensor,
}

impl Leaves {
    /// Gathers a batch from the rows of a version.
    pub fn gather(inputs: &Inputs, weights: &Weights, device: Device) -> Result<Self, Error> {
        let dim = weights.rows.dim();
        let rows = Inputs::read(&inputs.rows, &weights.rows);
        let wide = Inputs::read(&inputs.wide, &weights.wide);
        let (n_requests, n_candidates) = (len(inputs.n_requests()), len(inputs.n_candidates()));
        let put = |values: &[f32], shape: &[i64]| -> Result<Tensor, Error> {
            Ok(Tensor::f_from_slice(values)?
                .f_reshape(shape)?
                .f_to_device(device)?)
        };
        Ok(Self {
            user: put(
                &inputs.user.gather(&rows, dim),
                &[n_requests, len(USER_FIELDS), len(dim)],
            )?,
            candidate: put(
                &inputs.candidate.gather(&rows, dim),
                &[n_candidates, len(CANDIDATE_FIELDS), len(dim)],
            )?,
            wide: put(&inputs.wide_sum.gather(&wide, 1), &[n_candidates])?,
            dense: put(&inputs.dense, &[n_candidates, len(N_DENSE)])?,
            request_of: Tensor::f_from_slice(&inputs.request_of)?.f_to_device(device)?,
        })
    }
}

impl Net {
    /// Tensors of a version's dense weights.
    pub fn new(weights: &Weights, device: Device) -> Result<Self, Error> {
        let (mut names, mut params) = (Vec::new(), Vec::new());
        for (name, shape) in shapes(&weights.config) {
            let array = weights.array(&name, &shape)?;
            let shape: Vec<i64> = shape.iter().map(|n| len(*n)).collect();
            params.push(
                Tensor::f_from_slice(&array.values)?
                    .f_reshape(&shape)?
                    .f_to_device(device)?,
            );
            names.push(name);
        }
        let prior = Tensor::f_from_slice(&weights.prior)?.f_to_device(device)?;
        Ok(Self {
            names,
            params,
            n_hidden: weights.config.hidden.len().max(1),
            output: weights.config.output,
            prior,
            device,
        })
    }

    /// Where it computes.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// The dense weights with their names, to be moved by an optimizer.
    pub fn params(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.names.iter().map(String::as_str).zip(&self.params)
    }

    /// Replaces the offset of each task's logit.
    pub fn set_prior(&mut self, prior: &[f32]) -> Result<(), Error> {
        self.prior = Tensor::f_from_slice(prior)?.f_to_device(self.device)?;
        Ok(())
    }

    /// The dense weights as plain arrays.
    pub fn export(&self) -> Result<Dense, Error> {
        self.params()
            .map(|(name, tensor)| {
                let shape = tensor
                    .size()
                    .iter()
                    .map(|n| usize::try_from(*n).unwrap_or(0))
                    .collect();
                Ok((
                    name.to_owned(),
                    Array {
                        shape,
                        values: to_vec(tensor)?.into(),
                    },
                ))
            })
            .collect()
    }

    /// Outputs of a batch.
    ///
    /// # Shapes
    /// see [`Leaves`] -> [`Outputs`]
    ///
    /// FM is Rendle 2010, eq. 1 in its linear-time form; the sum is DeepFM's (Guo et al. 2017, eq. 1).
    pub fn forward(&self, leaves: &Leaves) -> Result<Outputs, Error> {
        let Leaves {
            user,
            candidate,
            wide,
            dense,
            request_of,
        } = leaves;
        let of_request = |x: &Tensor| x.f_index_select(0, request_of);
        // FM: 0.5 * (|sum of fields|^2 - sum of |field|^2), each side summed once.
        let sum = (of_request(&sum(user, &[1])?)? + sum(candidate, &[1])?).f_square()?;
        let squares = of_request(&sum_squares(user)?)? + sum_squares(candidate)?;
        let fm = (sum.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Float)? - squares) * 0.5;
        // MLP: the first layer's three blocks, the user's once a request.
        let [user_weight, candidate_weight, dense_weight, bias] = &self.params[..4] else {
            unreachable!("shapes() begins with the first layer's four weights")
        };
        let mut hidden = of_request(&user.f_flatten(1, -1)?.f_matmul(&user_weight.f_tr()?)?)?
            + candidate.f_flatten(1, -1)?.f_matmul(&candidate_weight.f_tr()?)?
            + dense.f_matmul(&dense_weight.f_tr()?)?
            + bias;
        hidden = hidden.f_relu()?;
        for layer in 1..self.n_hidden {
            let [weight, bias] = &self.params[2 + 2 * layer..4 + 2 * layer] else {
                unreachable!("shapes() gives each further layer a weight and a bias")
            };
            hidden = (hidden.f_matmul(&weight.f_tr()?)? + bias).f_relu()?;
        }
        let [weight, bias, auxiliary @ ..] = &self.params[2 + 2 * self.n_hidden..] else {
            unreachable!("shapes() gives the last layer a weight and a bias")
        };
        let auxiliary = match auxiliary {
            [weight, bias] => Some(hidden.f_detach()?.f_matmul(&weight.f_tr()?)? + bias),
            _ => None,
        };
        let shared = (fm + wide).f_unsqueeze(1)?;
        Ok(Outputs {
            logits: hidden.f_matmul(&weight.f_tr()?)? + bias + shared + &self.prior,
            auxiliary,
        })
    }

    /// The log-odds of each outcome as plain numbers, without recording gradients, `[n_candidates * n_tasks]`.
    pub fn score(&self, inputs: &Inputs, weights: &Weights) -> Result<Vec<f32>, Error> {
        let leaves = Leaves::gather(inputs, weights, self.device)?;
        let outputs = tch::no_grad(|| self.forward(&leaves))?;
        let logits = to_vec(&outputs.logits)?.into_iter();
        Ok(logits.map(|logit| self.output.log_odds(logit)).collect())
    }
}

/// Names and shapes of the dense weights, in the order the forward pass takes them.
pub(crate) fn shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let first = config.hidden.first().copied().unwrap_or(1);
    let mut shapes = vec![
        ("first.user".to_owned(), vec![first, USER_FIELDS * config.dim]),
        (
            "first.candidate".to_owned(),
            vec![first, CANDIDATE_FIELDS * config.dim],
        ),
        ("first.dense".to_owned(), vec![first, N_DENSE]),
        ("first.bias".to_owned(), vec![first]),
    ];
    for (layer, widths) in config.hidden.windows(2).enumerate() {
        shapes.push((format!("hidden{}.weight", layer + 1), vec![widths[1], widths[0]]));
        shapes.push((format!("hidden{}.bias", layer + 1), vec![widths[1]]));
    }
    let last = config.hidden.last().copied().unwrap_or(1);
    shapes.push(("out.weight".to_owned(), vec![config.n_tasks(), last]));
    shapes.push(("out.bias".to_owned(), vec![config.n_tasks()]));
    if config.auxiliary > 0 {
        let n = config.n_tasks() * config.auxiliary;
        shapes.push(("aux.weight".to_owned(), vec![n, last]));
        shapes.push(("aux.bias".to_owned(), vec![n]));
    }
    shapes
}

fn sum(x: &Tensor, dims: &[i64]) -> Result<Tensor, Error> {
    Ok(x.f_sum_dim_intlist(dims, false, Kind::Float)?)
}

fn sum_squares(x: &Tensor) -> Result<Tensor, Error> {
    sum(&x.f_square()?, &[1, 2])
}

fn to_vec(tensor: &Tensor) -> Result<Vec<f32>, Error> {
    let flat = tensor
        .f_detach()?
        .f_to_device(Device::Cpu)?
        .f_contiguous()?
        .f_view(-1)?;
    let mut out = vec![0.0; flat.size1()?.try_into().unwrap_or(0)];
    let n = out.len();
    flat.f_copy_data(&mut out, n)?;
    Ok(out)
}

/// A length as libtorch counts.
fn len(n: usize) -> i64 {
    i64::try_from(n).expect("a length below 2^63")
}
