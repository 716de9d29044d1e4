//! Gates in the layers of [`Tower`]: of the fields that the first layer reads, and of its and the hidden layers' units.

use std::ops::Range;

use super::backward::Backward;
use super::{Tower, TowerForward, TowerInputs};
use crate::cpu::gate::{GateForward, GateGradients, close, close_backward, slope};
use crate::cpu::gemm::{Lhs, MatrixView};
use crate::cpu::kernel::{add, add_scaled, dot, index, row, row_mut, total};
use crate::cpu::layer_norm::LayerNorm;
use crate::cpu::weights::Learning;
use crate::fields::{CANDIDATE_FIELDS, GATE_ROWS, USER_FIELDS};

/// Fields of user and candidate that have a gate.
pub(super) const N_FIELDS: usize = USER_FIELDS + CANDIDATE_FIELDS;

/// Gradients of gates under way.
#[derive(Debug, Default)]
pub(super) struct GatesBackward {
    /// Of the gates of each layer before their sigmoid, `[n_candidates, width]`.
    layers: Vec<Vec<f32>>,
    of_layers: Vec<GateGradients>,
    /// The same of the gates of fields, `[n_candidates, N_FIELDS]`.
    fields: Vec<f32>,
    of_fields: GateGradients,
}

/// The gates of a candidate's fields.
#[inline(always)]
pub(super) fn gates_of(gate: &GateForward, candidate: usize) -> &[f32] {
    row(&gate.gates, candidate, N_FIELDS)
}

/// Multiplies the fields of a candidate by their gates.
#[inline(always)]
pub(super) fn weigh_fields(fields: &mut [f32], gates: &[f32]) {
    let dim = fields.len() / CANDIDATE_FIELDS;
    for (field, gate) in fields.chunks_exact_mut(dim.max(1)).zip(&gates[USER_FIELDS..]) {
        for x in field {
            *x *= gate;
        }
    }
}

impl Tower {
    /// Computes all gates, and the user's part of the first layer as they need it.
    #[inline(always)]
    pub(super) fn run_gates(&self, inputs: TowerInputs<'_>, pass: &mut TowerForward) {
        let dim = self.user.n_in / USER_FIELDS;
        let candidates = || {
            let fields = inputs.candidate.chunks_exact(self.parts[0].max(1));
            let requests = inputs.request_of.iter().map(|request| index(*request));
            requests.zip(fields)
        };
        if let Some(gate) = &self.field_gate {
            let mut means = Vec::with_capacity(inputs.request_of.len() * N_FIELDS);
            for (request, fields) in candidates() {
                let user = row(inputs.user, request, self.user.n_in);
                let fields = user.chunks_exact(dim).chain(fields.chunks_exact(dim));
                #[expect(clippy::cast_precision_loss, reason = "a row's width")]
                means.extend(fields.map(|field| total(field) / dim as f32));
            }
            pass.field_gate = Some(gate.forward(means));
            pass.of_requests = self.user_fields(inputs);
        } else {
            pass.of_requests = self.user.forward(inputs.user);
        }
        if self.gates.is_empty() {
            return;
        }
        let mut rows = Vec::with_capacity(inputs.request_of.len() * GATE_ROWS * dim);
        for (request, fields) in candidates() {
            let start = rows.len();
            rows.extend_from_slice(&row(inputs.user, request, self.user.n_in)[..dim]);
            rows.extend_from_slice(fields);
            let _factor = LayerNorm::normalize(&mut rows[start..]);
        }
        pass.gates = self.gates.iter().map(|gate| gate.forward(rows.clone())).collect();
    }

    /// Each field of the user through the first layer, `[n_requests, USER_FIELDS, n_out]`.
    #[inline(always)]
    fn user_fields(&self, inputs: TowerInputs<'_>) -> Vec<f32> {
        let (n_in, width) = (self.user.n_in, self.user.n_out);
        let dim = n_in / USER_FIELDS;
        let mut out = vec![0.0; inputs.n_requests * USER_FIELDS * width];
        for field in 0..USER_FIELDS {
            self.user.precision.add_product_to(
                &mut out[field * width..],
                USER_FIELDS * width,
                Lhs::View(MatrixView::new(inputs.user, n_in, field * dim)),
                MatrixView::new(&self.user.transposed, width, 0).rows_from(field * dim),
                [inputs.n_requests, dim, width],
            );
        }
        out
    }

    /// Writes the bias and the user's fields, each weighed by its gate, to `out`.
    #[inline(always)]
    pub(super) fn weighed_user(&self, of_requests: &[f32], request: usize, gates: &[f32], out: &mut [f32]) {
        out.copy_from_slice(&self.user.bias);
        let fields = row(of_requests, request, USER_FIELDS * out.len());
        for (field, gate) in fields.chunks_exact(out.len().max(1)).zip(gates) {
            add_scaled(out, *gate, field);
        }
    }

    /// Multiplies the units of a layer by their gates, for some candidates.
    #[inline(always)]
    pub(super) fn close(&self, layer: usize, piece: Range<usize>, active: &mut [f32], gates: &[GateForward]) {
        if let Some(pass) = gates.get(layer) {
            let width = active.len() / piece.len().max(1);
            close(active, &pass.gates[piece.start * width..piece.end * width]);
        }
    }

    /// Gradients of 0.
    pub(super) fn gate_zeros(&self, pass: &TowerForward, learning: Learning) -> GatesBackward {
        GatesBackward {
            layers: pass
                .gates
                .iter()
                .map(|gate| vec![0.0; gate.gates.len()])
                .collect(),
            of_layers: self.gates.iter().map(|gate| gate.zeros(learning)).collect(),
            fields: vec![0.0; pass.field_gate.as_ref().map_or(0, |gate| gate.gates.len())],
            of_fields: self
                .field_gate
                .as_ref()
                .map_or_else(GateGradients::default, |gate| gate.zeros(learning)),
        }
    }
}

impl Backward<'_> {
    /// Takes the gradient of a layer's units back through their gates, for some candidates.
    #[inline(always)]
    pub(super) fn open(&mut self, layer: usize, piece: Range<usize>) {
        let Some(gates) = self.pass.gates.get(layer) else {
            return;
        };
        let width = self.of_active.len() / piece.len().max(1);
        let places = piece.start * width..piece.end * width;
        close_backward(
            &mut self.of_active,
            &self.pass.active[layer][places.clone()],
            &gates.gates[places.clone()],
            &mut self.gates.layers[layer][places],
        );
    }

    /// From the gradient of a candidate's first layer to the user's fields and their gates.
    #[inline(always)]
    pub(super) fn open_user(&mut self, gate: &GateForward, candidate: usize, of_active: &[f32]) {
        let width = of_active.len();
        let request = index(self.inputs.request_of[candidate]);
        let fields = row(&self.pass.of_requests, request, USER_FIELDS * width).chunks_exact(width);
        let of_fields = row_mut(&mut self.requests, request, USER_FIELDS * width).chunks_exact_mut(width);
        let of_gates = row_mut(&mut self.gates.fields, candidate, N_FIELDS).iter_mut();
        let gates = gates_of(gate, candidate).iter().zip(of_gates);
        for ((field, of_field), (gate, of_gate)) in fields.zip(of_fields).zip(gates) {
            *of_gate = slope(*gate) * gate * dot(field, of_active);
            add_scaled(of_field, *gate, of_active);
        }
        add(&mut self.bias, of_active);
    }

    /// Replaces the gradient of a candidate's weighed fields by that of the fields; the rest goes to their gates.
    #[inline(always)]
    pub(super) fn open_fields(&mut self, gate: &GateForward, candidate: usize, of_fields: &mut [f32]) {
        let dim = of_fields.len() / CANDIDATE_FIELDS;
        let fields = row(self.inputs.candidate, candidate, of_fields.len()).chunks_exact(dim);
        let of_gates = &mut row_mut(&mut self.gates.fields, candidate, N_FIELDS)[USER_FIELDS..];
        let gates = gates_of(gate, candidate)[USER_FIELDS..].iter().zip(of_gates);
        for ((field, of_field), (gate, of_gate)) in fields.zip(of_fields.chunks_exact_mut(dim)).zip(gates) {
            *of_gate = slope(*gate) * gate * dot(field, of_field);
            for of in of_field {
                *of *= gate;
            }
        }
    }

    /// From the gradients of the user's weighed fields, which [`Self::open_user`] has added up, to those of fields and weight.
    #[inline(always)]
    pub(super) fn user_fields(&mut self) -> Vec<f32> {
        let user = &self.tower.user;
        let (n, n_in, width) = (self.inputs.n_requests, user.n_in, user.n_out);
        let dim = n_in / USER_FIELDS;
        let mut of_weight = vec![0.0; user.weight.len()];
        for field in 0..USER_FIELDS {
            let of_field = MatrixView::new(&self.requests, USER_FIELDS * width, field * width);
            user.precision.add_product_to(
                &mut of_weight[field * dim..],
                n_in,
                Lhs::TransposedView(of_field),
                MatrixView::new(self.inputs.user, n_in, field * dim),
                [width, n, dim],
            );
            user.precision.add_product_to(
                &mut self.out.user[field * dim..],
                n_in,
                Lhs::View(of_field),
                MatrixView::new(&user.weight, n_in, field * dim),
                [n, width, dim],
            );
        }
        of_weight
    }

    /// Through the layers inside the gates, and for those of fields on to the fields.
    #[inline(always)]
    pub(super) fn gates(&mut self) {
        let (tower, pass) = (self.tower, self.pass);
        let of_layers = std::mem::take(&mut self.gates.of_layers);
        let layers = tower.gates.iter().zip(&pass.gates).zip(&self.gates.layers);
        for (((gate, pass), gradient), mut gradients) in layers.zip(of_layers) {
            gate.backward(pass, gradient, &mut gradients, None);
            gate.add_named(gradients, &mut self.out.weights);
        }
        let (Some(gate), Some(pass)) = (&tower.field_gate, &pass.field_gate) else {
            return;
        };
        let mut of_means = vec![0.0; self.gates.fields.len()];
        let mut gradients = std::mem::take(&mut self.gates.of_fields);
        gate.backward(pass, &self.gates.fields, &mut gradients, Some(&mut of_means));
        gate.add_named(gradients, &mut self.out.weights);
        let dim = tower.user.n_in / USER_FIELDS;
        #[expect(clippy::cast_precision_loss, reason = "a row's width")]
        let share = 1.0 / dim as f32;
        for (candidate, of_means) in of_means.chunks_exact(N_FIELDS).enumerate() {
            let request = index(self.inputs.request_of[candidate]);
            let user = row_mut(&mut self.out.user, request, USER_FIELDS * dim).chunks_exact_mut(dim);
            let fields = row_mut(&mut self.out.candidate, candidate, CANDIDATE_FIELDS * dim);
            for (of_field, of_mean) in user.chain(fields.chunks_exact_mut(dim)).zip(of_means) {
                for of in of_field {
                    *of += share * of_mean;
                }
            }
        }
    }
}
