//! Dense weights as tensors by name, and the linear layers made of them.

use std::collections::HashMap;

use tch::{Kind, Tensor};

use crate::config::MatmulPrecision;
use crate::cpu::WeightSource;
use crate::error::Error;
use crate::host_slice::values;

/// The dense weights as tensors on one device, owned by one thread.
///
/// A layer `l` is the weight `l.weight [out, in]`, optionally with a bias `l.bias [out]` and an adapter
/// `l.lora_a [rank, in]`, `l.lora_b [out, rank]`.
#[derive(Debug, Default)]
pub struct Params {
    names: Vec<String>,
    tensors: Vec<Tensor>,
    place: HashMap<String, usize>,
    lora_scale: f64,
    products: MatmulPrecision,
}

impl Params {
    /// Weights in the order given. `lora_scale` multiplies the product of an adapter.
    #[must_use]
    pub fn new(weights: impl IntoIterator<Item = (String, Tensor)>, lora_scale: f64) -> Self {
        let mut params = Self {
            lora_scale,
            ..Self::default()
        };
        for (name, tensor) in weights {
            params.place.insert(name.clone(), params.names.len());
            params.names.push(name);
            params.tensors.push(tensor);
        }
        params
    }

    /// The same weights, multiplied in this precision.
    #[must_use]
    pub fn with_precision(mut self, products: MatmulPrecision) -> Self {
        self.products = products;
        self
    }

    /// Computes `x w + bias`.
    ///
    /// # Shapes
    /// `x [.., in]`, `w [in, out]`, `bias [out]` -> `[.., out]`
    pub fn product(&self, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, Error> {
        let y = match self.products {
            MatmulPrecision::F32 => x.f_matmul(w)?,
            MatmulPrecision::Bf16 => {
                let [x, w] = [x, w].map(|factor| factor.f_to_kind(Kind::BFloat16));
                x?.f_matmul(&w?)?.f_to_kind(Kind::Float)?
            }
        };
        Ok(match bias {
            Some(bias) => y + bias,
            None => y,
        })
    }

    fn apply(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, Error> {
        match self.products {
            MatmulPrecision::F32 => Ok(x.f_linear(weight, bias)?),
            MatmulPrecision::Bf16 => self.product(x, &weight.f_tr()?, bias),
        }
    }

    /// The weights, in order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Names and weights, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.names.iter().map(String::as_str).zip(&self.tensors)
    }

    /// The weight of this name, if it exists.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        Some(&self.tensors[*self.place.get(name)?])
    }

    /// The weight of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, name: &str) -> Result<&Tensor, Error> {
        self.find(name).ok_or_else(|| Error::MissingWeight {
            name: name.to_owned(),
            n_present: self.names.len(),
        })
    }

    /// A layer's weight with its adapter added, `[out, in]`: `W + s B A` (Hu et al. 2022, eq. 3).
    pub fn weight(&self, layer: &str) -> Result<Tensor, Error> {
        let weight = self.get(&format!("{layer}.weight"))?;
        match self.adapter(layer) {
            Some((a, b)) => Ok(weight + b.f_matmul(a)? * self.lora_scale),
            None => Ok(weight.shallow_clone()),
        }
    }

    /// A layer applied to `x [.., in]`: `[.., out]`.
    pub fn linear(&self, layer: &str, x: &Tensor) -> Result<Tensor, Error> {
        let base = self.base(layer, x)?;
        Ok(match self.adapted(layer, x)? {
            Some(adapted) => base + adapted,
            None => base,
        })
    }

    /// Ranges of a layer's outputs, each a start and a length, concatenated.
    pub fn outputs(&self, layer: &str, x: &Tensor, outputs: &[(i64, i64)]) -> Result<Tensor, Error> {
        let of = |all: &Tensor| -> Result<Tensor, Error> {
            let parts = outputs.iter().map(|(start, n)| all.f_narrow(0, *start, *n));
            Ok(Tensor::f_cat(&parts.collect::<Result<Vec<_>, _>>()?, 0)?)
        };
        let bias = self.find(&format!("{layer}.bias")).map(of).transpose()?;
        let base = self.apply(x, &of(self.get(&format!("{layer}.weight"))?)?, bias.as_ref())?;
        Ok(match self.adapter(layer) {
            Some((a, b)) => base + x.f_matmul(&a.f_tr()?)?.f_matmul(&of(b)?.f_tr()?)? * self.lora_scale,
            None => base,
        })
    }

    /// A layer without its adapter.
    pub fn base(&self, layer: &str, x: &Tensor) -> Result<Tensor, Error> {
        let weight = self.get(&format!("{layer}.weight"))?;
        self.apply(x, weight, self.find(&format!("{layer}.bias")))
    }

    /// The output of a layer's adapter, computed through its rank; none without an adapter.
    pub fn adapted(&self, layer: &str, x: &Tensor) -> Result<Option<Tensor>, Error> {
        let Some((a, b)) = self.adapter(layer) else {
            return Ok(None);
        };
        let low = x.f_matmul(&a.f_tr()?)?;
        Ok(Some(low.f_matmul(&b.f_tr()?)? * self.lora_scale))
    }

    fn adapter(&self, layer: &str) -> Option<(&Tensor, &Tensor)> {
        Some((
            self.find(&format!("{layer}.lora_a"))?,
            self.find(&format!("{layer}.lora_b"))?,
        ))
    }
}

impl WeightSource for Params {
    fn find(&self, name: &str) -> Option<&[f32]> {
        values(self.find(name)?)
    }

    fn n_weights(&self) -> usize {
        self.names.len()
    }
}
