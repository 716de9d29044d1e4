//! The two towers of retrieval: vectors of length 1 for users and items, whose product ranks items for a user.
//!
//! A tower reads fields of one width, `x [n, n_fields * width]`, and computes
//! `v = z / |z|`, `z = A x + b + W2 silu(W1 x + c)`. The score of an item for a user is `u . v / temperature`, as in DSSM (Huang
//! et al. 2013) with embedding rows for words and one linear path beside the hidden layer. Users are read by the pooled rows of
//! their history, as in YoutubeDNN (Covington et al. 2016).
//!
//! It computes by itself whatever backend runs the ranker, on the CPU and in `f32`.

mod loops;
mod softmax;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use ouzel_sample::{MODALITIES, N_MODALITIES};

use super::gemm::{Lhs, add_product};
use super::kernel::{row, row_mut, transpose};
use super::linear::{Linear, LinearGradients};
use super::weights::{BlockWeights, Learning, NamedGradients, WeightSource};
use crate::config::{ModelConfig, RETRIEVAL_USER_FIELDS};
use crate::error::Error;
use crate::fields::CANDIDATE_FIELDS;
use crate::host_slice::to_vec;
use crate::inputs::{ContentVectors, TowerInputs};
use crate::net::Net;
use crate::weights::Weights;

use loops::{activate, activate_backward, normalize, normalize_backward};

pub use loops::similarities;
pub use softmax::SampledSoftmax;

/// Prefix of the names of the towers' weights.
const PREFIX: &str = "retrieval.";

/// All weights of the towers learn in every step.
const LEARNING: Learning = Learning {
    contents: false,
    base: true,
    adapters: false,
};

/// Both towers, with the weights of one version.
#[derive(Clone, Debug)]
pub struct Towers {
    user: Tower,
    item: Tower,
    /// Projections of frozen vectors to the width of a field, by modality.
    contents: [Option<Linear>; N_MODALITIES],
    /// Width of a field, floats.
    field: usize,
    width: usize,
    temperature: f32,
}

#[derive(Clone, Debug)]
struct Tower {
    linear: Linear,
    /// The hidden layer and what is read of it; none in a linear tower.
    hidden: Option<[Linear; 2]>,
}

/// A forward pass of a tower, with what its backward pass needs.
struct TowerForward {
    /// Fields, `[n, n_fields * field]`.
    x: Vec<f32>,
    /// Inputs and outputs of the activation, `[n, hidden]`.
    hidden: [Vec<f32>; 2],
    /// Length of each vector before it is scaled, `[n]`.
    lengths: Vec<f32>,
    /// Vectors of length 1, `[n, width]`.
    vectors: Vec<f32>,
}

/// Gradients of one step.
#[derive(Debug)]
pub struct TowerGradients {
    /// By dense weight: its name and its values.
    pub dense: Vec<(String, Vec<f32>)>,
    /// By row of [`TowerInputs::keys`], `[n_keys, field]`.
    pub rows: Vec<f32>,
    /// Mean loss of the users, nats.
    pub loss: f64,
}

/// Weights by name.
struct Named(BTreeMap<String, Vec<f32>>);

impl WeightSource for Named {
    fn find(&self, name: &str) -> Option<&[f32]> {
        self.0.get(name).map(Vec::as_slice)
    }

    fn n_weights(&self) -> usize {
        self.0.len()
    }
}

impl Towers {
    /// The towers of a version.
    ///
    /// # Errors
    /// When the model has none, or a weight is missing.
    pub fn of_version(weights: &Weights) -> Result<Self, Error> {
        let own = weights.dense.iter().filter(|(name, _)| name.starts_with(PREFIX));
        let own = own.map(|(name, array)| (name.clone(), array.values.to_vec()));
        Self::new(&Named(own.collect()), &weights.config)
    }

    /// The towers of a network that learns.
    ///
    /// # Errors
    /// When the model has none, or a weight cannot be read.
    pub fn of_net(net: &Net) -> Result<Self, Error> {
        let own = net.weights().filter(|(spec, _)| spec.name.starts_with(PREFIX));
        let own = own.map(|(spec, tensor)| Ok((spec.name.clone(), to_vec(tensor)?)));
        Self::new(&Named(own.collect::<Result<_, Error>>()?), net.config())
    }

    fn new(source: &dyn WeightSource, config: &ModelConfig) -> Result<Self, Error> {
        let weights = BlockWeights::new(source, config).in_f32();
        let (field, retrieval) = (config.retrieval_row_width(), &config.retrieval);
        let widths = config.retrieval_vector_widths();
        let n_contents = widths.iter().filter(|width| **width > 0).count();
        let tower = |name: &str, n_fields: usize| -> Result<Tower, Error> {
            let n_in = n_fields * field;
            let layer = |part: &str, n_in: usize| weights.linear(&format!("{PREFIX}{name}.{part}"), n_in);
            Ok(Tower {
                linear: layer("linear", n_in)?,
                hidden: match retrieval.hidden {
                    0 => None,
                    hidden => Some([layer("hidden", n_in)?, layer("out", hidden)?]),
                },
            })
        };
        let mut contents: [Option<Linear>; N_MODALITIES] = Default::default();
        for ((layer, name), width) in contents.iter_mut().zip(MODALITIES).zip(widths) {
            if width > 0 {
                *layer = Some(weights.linear(&format!("{PREFIX}content.{name}"), width)?);
            }
        }
        Ok(Self {
            user: tower("user", RETRIEVAL_USER_FIELDS)?,
            item: tower("item", CANDIDATE_FIELDS + n_contents)?,
            contents,
            field,
            width: retrieval.width,
            temperature: retrieval.temperature,
        })
    }

    /// Floats of a vector.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// The vectors of the users, `[n_users, width]`. `rows [n_keys, field]` are those of the inputs' keys.
    #[must_use]
    pub fn users(&self, inputs: &TowerInputs, rows: &[f32]) -> Vec<f32> {
        self.user.forward(inputs.users.gather(rows, self.field)).vectors
    }

    /// The vectors of the items, `[n_items, width]`.
    #[must_use]
    pub fn items(&self, inputs: &TowerInputs, rows: &[f32]) -> Vec<f32> {
        self.item.forward(self.item_fields(inputs, rows)).vectors
    }

    /// Gradients of the mean softmax loss of the inputs' users.
    #[must_use]
    pub fn learn(&self, inputs: &TowerInputs, rows: &[f32], softmax: &SampledSoftmax) -> TowerGradients {
        let users = self.user.forward(inputs.users.gather(rows, self.field));
        let items = self.item.forward(self.item_fields(inputs, rows));
        let (n_users, n_items) = (inputs.n_users(), inputs.n_items());
        let mut logits = vec![0.0; n_users * n_items];
        let transposed = transpose(&items.vectors, n_items, self.width);
        let size = [n_users, self.width, n_items];
        add_product(&mut logits, Lhs::Matrix(&users.vectors), &transposed, size);
        logits.iter_mut().for_each(|x| *x /= self.temperature);
        let loss = softmax.gradient(&mut logits, n_items);
        logits.iter_mut().for_each(|x| *x /= self.temperature);
        let (mut of_users, mut of_items) = (vec![0.0; n_users * self.width], vec![0.0; n_items * self.width]);
        let size = [n_users, n_items, self.width];
        add_product(&mut of_users, Lhs::Matrix(&logits), &items.vectors, size);
        let size = [n_items, n_users, self.width];
        add_product(&mut of_items, Lhs::Transposed(&logits), &users.vectors, size);
        let mut dense = NamedGradients::new();
        let mut of_rows = vec![0.0; rows.len()];
        let of_users = self.user.backward("user", &users, of_users, &mut dense);
        inputs.users.scatter(&of_users, self.field, &mut of_rows);
        let of_items = self.item.backward("item", &items, of_items, &mut dense);
        self.item_fields_backward(inputs, &of_items, &mut of_rows, &mut dense);
        TowerGradients {
            dense,
            rows: of_rows,
            loss,
        }
    }

    /// Floats of the fields of an item.
    fn item_width(&self) -> usize {
        self.item.linear.n_in
    }

    /// Each modality's projection with the place of its field.
    fn projections(&self) -> impl Iterator<Item = (usize, usize, &Linear)> {
        let present = self.contents.iter().enumerate();
        let present = present.filter_map(|(modality, layer)| Some((modality, layer.as_ref()?)));
        let width = self.field;
        present
            .zip(CANDIDATE_FIELDS..)
            .map(move |((modality, layer), field)| (modality, field * width, layer))
    }

    /// The fields of items, `[n_items, n_fields * field]`; one of a vector that is missing is 0.
    fn item_fields(&self, inputs: &TowerInputs, rows: &[f32]) -> Vec<f32> {
        let (ids, n_in) = (inputs.items.gather(rows, self.field), self.item_width());
        let of_ids = CANDIDATE_FIELDS * self.field;
        if of_ids == n_in {
            return ids;
        }
        let mut x = vec![0.0; inputs.n_items() * n_in];
        for (at, x) in x.chunks_exact_mut(n_in).enumerate() {
            x[..of_ids].copy_from_slice(row(&ids, at, of_ids));
        }
        for (modality, place, layer) in self.projections() {
            let (places, vectors) = present(&inputs.contents, modality, layer.n_in);
            let projected = layer.forward(&vectors);
            for (item, projected) in places.into_iter().zip(projected.chunks_exact(self.field)) {
                row_mut(&mut x, item, n_in)[place..][..self.field].copy_from_slice(projected);
            }
        }
        x
    }

    /// Adds the gradients of rows and projections, from those of the items' fields.
    fn item_fields_backward(
        &self,
        inputs: &TowerInputs,
        gradient: &[f32],
        rows: &mut [f32],
        dense: &mut NamedGradients,
    ) {
        let (n_in, of_ids) = (self.item_width(), CANDIDATE_FIELDS * self.field);
        let ids: Vec<f32> = gradient
            .chunks_exact(n_in)
            .flat_map(|x| &x[..of_ids])
            .copied()
            .collect();
        inputs.items.scatter(&ids, self.field, rows);
        for (modality, place, layer) in self.projections() {
            let (places, vectors) = present(&inputs.contents, modality, layer.n_in);
            let of_items = places
                .iter()
                .flat_map(|item| &row(gradient, *item, n_in)[place..][..self.field]);
            let of_items: Vec<f32> = of_items.copied().collect();
            let mut sums = LinearGradients::new(layer, LEARNING);
            layer.backward(&vectors, &of_items, &mut sums, None);
            sums.add_named(&format!("{PREFIX}content.{}", MODALITIES[modality]), dense);
        }
    }
}

/// The items that have a vector of this modality and width, and their vectors one behind another.
fn present(contents: &[ContentVectors], modality: usize, width: usize) -> (Vec<usize>, Vec<f32>) {
    let (mut places, mut vectors) = (Vec::new(), Vec::new());
    for (at, item) in contents.iter().enumerate() {
        if let Some(vector) = item[modality].as_ref().filter(|vector| vector.len() == width) {
            places.push(at);
            vectors.extend_from_slice(vector);
        }
    }
    (places, vectors)
}

impl Tower {
    fn forward(&self, x: Vec<f32>) -> TowerForward {
        let mut z = self.linear.forward(&x);
        let mut hidden = [Vec::new(), Vec::new()];
        if let Some([layer, out]) = &self.hidden {
            let inputs = layer.forward(&x);
            let outputs = activate(&inputs);
            for (z, x) in z.iter_mut().zip(out.forward(&outputs)) {
                *z += x;
            }
            hidden = [inputs, outputs];
        }
        let lengths = normalize(&mut z, self.linear.n_out);
        TowerForward {
            x,
            hidden,
            lengths,
            vectors: z,
        }
    }

    /// Adds the gradients of the weights, from the `gradient` of the vectors. Returns that of the fields.
    fn backward(
        &self,
        name: &str,
        pass: &TowerForward,
        mut gradient: Vec<f32>,
        dense: &mut NamedGradients,
    ) -> Vec<f32> {
        normalize_backward(&mut gradient, &pass.vectors, &pass.lengths, self.linear.n_out);
        let mut of_x = vec![0.0; pass.x.len()];
        let mut sums = LinearGradients::new(&self.linear, LEARNING);
        self.linear
            .backward(&pass.x, &gradient, &mut sums, Some(&mut of_x));
        sums.add_named(&format!("{PREFIX}{name}.linear"), dense);
        if let Some([layer, out]) = &self.hidden {
            let [inputs, outputs] = &pass.hidden;
            let mut of_hidden = vec![0.0; outputs.len()];
            let mut sums = LinearGradients::new(out, LEARNING);
            out.backward(outputs, &gradient, &mut sums, Some(&mut of_hidden));
            sums.add_named(&format!("{PREFIX}{name}.out"), dense);
            activate_backward(&mut of_hidden, inputs);
            let mut sums = LinearGradients::new(layer, LEARNING);
            layer.backward(&pass.x, &of_hidden, &mut sums, Some(&mut of_x));
            sums.add_named(&format!("{PREFIX}{name}.hidden"), dense);
        }
        of_x
    }
}
