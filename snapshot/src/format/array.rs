//! One array: a shape and its values in row-major order.

use std::borrow::Cow;

use super::chunks::{Chunks, SharedChunk};
use super::element::{Dtype, Element, Values, sealed::Bytes, with_chunks};
use crate::Error;

/// A dimension of any size, in an expected shape.
pub const ANY: usize = usize::MAX;

/// A shape with as many values as it says, in row-major order.
#[derive(Clone, Debug)]
pub struct Array {
    shape: Vec<usize>,
    values: Values,
}

impl Array {
    /// Makes an array that owns its values.
    ///
    /// # Shapes
    /// `data.len()` is the product of `shape`; an empty shape is one scalar.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is not.
    pub fn new<T: Element>(shape: &[usize], data: Vec<T>) -> Result<Self, Error> {
        check_shape(shape, Some(data.len()))?;
        Ok(Self {
            shape: shape.to_vec(),
            values: T::wrap(Chunks::Owned(data)),
        })
    }

    /// Makes an array of shared runs, one after the other.
    ///
    /// Nothing is copied before writing, so a checkpoint of a large table costs one reference count per page.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the lengths do not add up to the product of `shape`.
    pub fn shared<T: Element>(shape: &[usize], chunks: Vec<SharedChunk<T>>) -> Result<Self, Error> {
        let lengths = chunks.iter().map(|chunk| (**chunk).as_ref().len());
        let n_values = lengths.into_iter().try_fold(0usize, usize::checked_add);
        check_shape(shape, n_values)?;
        Ok(Self {
            shape: shape.to_vec(),
            values: T::wrap(Chunks::Shared(chunks)),
        })
    }

    /// Makes an array of shape `[]`.
    pub fn scalar<T: Element>(value: T) -> Self {
        Self {
            shape: Vec::new(),
            values: T::wrap(Chunks::Owned(vec![value])),
        }
    }

    /// The dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        self.values.dtype()
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True when a dimension is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size of the values on disk, bytes.
    pub fn n_bytes(&self) -> usize {
        self.len() * self.dtype().n_bytes()
    }

    /// The values, copied only when they are in several runs; `None` when they have another type.
    pub fn values<T: Element>(&self) -> Option<Cow<'_, [T]>> {
        T::peek(&self.values).map(Chunks::to_slice)
    }

    /// Moves the values out, copying only shared ones.
    ///
    /// # Errors
    /// The array itself when its values have another type.
    pub fn into_values<T: Element>(self) -> Result<Vec<T>, Array> {
        match T::unwrap(self.values) {
            Ok(Chunks::Owned(values)) => Ok(values),
            Ok(shared @ Chunks::Shared(_)) => Ok(shared.to_slice().into_owned()),
            Err(values) => Err(Array {
                shape: self.shape,
                values,
            }),
        }
    }

    /// Place of the first value that is infinite or NaN, in row-major order.
    pub fn first_non_finite(&self) -> Option<usize> {
        match self.dtype() {
            Dtype::F32 | Dtype::F64 => with_chunks!(&self.values, chunks => {
                let mut values = chunks.runs().flatten();
                values.position(|value| !value.number().is_finite())
            }),
            _ => None,
        }
    }

    pub(crate) fn chunks(&self) -> &Values {
        &self.values
    }

    /// Each value as a number and as its bit pattern.
    pub(crate) fn numbers(&self) -> Box<dyn Iterator<Item = (f64, u64)> + '_> {
        with_chunks!(&self.values, chunks => {
            Box::new(chunks.runs().flatten().map(|value| (value.number(), value.pattern())))
        })
    }
}

/// Compares type, shape and bits; a NaN equals itself.
impl PartialEq for Array {
    fn eq(&self, other: &Self) -> bool {
        self.dtype() == other.dtype()
            && self.shape == other.shape
            && (self.numbers().map(|(_, bits)| bits)).eq(other.numbers().map(|(_, bits)| bits))
    }
}

/// A shape as messages show it, such as `[*, 16]`.
pub(crate) fn shape_text(shape: &[usize]) -> String {
    let dims = shape.iter().map(|dim| {
        if *dim == ANY {
            "*".to_owned()
        } else {
            dim.to_string()
        }
    });
    format!("[{}]", dims.collect::<Vec<_>>().join(", "))
}

fn check_shape(shape: &[usize], n_values: Option<usize>) -> Result<(), Error> {
    let product = shape
        .iter()
        .try_fold(1usize, |product, dim| product.checked_mul(*dim));
    if product.is_some() && product == n_values {
        return Ok(());
    }
    let n_values = n_values.map_or("too many".to_owned(), |n| n.to_string());
    Err(Error::invalid(
        "array",
        format!("shape {} does not have {n_values} values", shape_text(shape)),
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_number_of_values_must_match_the_shape() {
        for (shape, n, fits) in [
            (vec![2, 3], 6, true),
            (vec![2, 3], 5, false),
            (vec![], 1, true),
            (vec![], 0, false),
            (vec![0, 4], 0, true),
            (vec![usize::MAX, 2], 0, false),
        ] {
            assert_eq!(Array::new(&shape, vec![0f32; n]).is_ok(), fits, "{shape:?} {n}");
        }
    }

    #[test]
    fn shared_runs_are_one_array() {
        let page: SharedChunk<f32> = Arc::new(vec![1.0, 2.0]);
        let array = Array::shared(&[3, 2], vec![page.clone(), Arc::new([3.0f32, 4.0]), page]).unwrap();
        assert_eq!(
            array.values::<f32>().unwrap().as_ref(),
            [1.0, 2.0, 3.0, 4.0, 1.0, 2.0]
        );
        assert!(array.values::<u8>().is_none());
        assert_eq!(
            array,
            Array::new(&[3, 2], vec![1.0f32, 2.0, 3.0, 4.0, 1.0, 2.0]).unwrap()
        );
    }

    #[test]
    fn the_first_value_that_is_not_finite_is_found_in_any_run() {
        let page = |values: [f32; 2]| -> SharedChunk<f32> { Arc::new(values) };
        for (pages, expected) in [
            ([[1.0, 2.0], [3.0, 4.0]], None),
            ([[1.0, f32::NAN], [3.0, 4.0]], Some(1)),
            ([[1.0, 2.0], [f32::NEG_INFINITY, f32::NAN]], Some(2)),
        ] {
            let array = Array::shared(&[4], pages.map(page).to_vec()).unwrap();
            assert_eq!(array.first_non_finite(), expected);
        }
        assert_eq!(Array::scalar(u64::MAX).first_non_finite(), None);
    }

    #[test]
    fn equality_compares_bits() {
        assert_eq!(Array::scalar(f32::NAN), Array::scalar(f32::NAN));
        assert_ne!(Array::scalar(0.0f32), Array::scalar(-0.0f32));
        assert_ne!(Array::scalar(0u32), Array::scalar(0i32));
    }
}
