//! Tensors as plain numbers, where they lie.
//!
//! One of two places with `unsafe` in them, with `fused/half`: [`tch`] has no other way to read or write the numbers of a tensor but to copy them.
//! An optimizer of many small weights would otherwise spend its time on calls.

use tch::{Device, Kind, TchError, Tensor};

/// The numbers of a tensor in row-major order; none where they are not on the CPU, not floats or not side by side.
#[must_use]
pub fn values(tensor: &Tensor) -> Option<&[f32]> {
    let n = n_plain(tensor)?;
    #[expect(unsafe_code, reason = "see SAFETY")]
    // SAFETY: `n_plain` has seen that `n` floats lie there side by side, on the CPU. The tensor is borrowed, so it does
    // not go away; tensors are not `Sync`, and nothing on this thread writes through another handle while it is read.
    Some(unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), n) })
}

/// The same, to be written. Who calls it writes while no other handle of the tensor is in use: a weight between two
/// passes.
#[must_use]
pub fn values_mut(tensor: &mut Tensor) -> Option<&mut [f32]> {
    let n = n_plain(tensor)?;
    #[expect(unsafe_code, reason = "see SAFETY")]
    // SAFETY: as in `values`; the handle is borrowed for writing, and other handles of the same numbers are the caller's
    // and not in use.
    Some(unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), n) })
}

/// A copy of the numbers of any tensor of floats, in row-major order.
pub fn to_vec(tensor: &Tensor) -> Result<Vec<f32>, TchError> {
    let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
    match values(&tensor) {
        Some(values) => Ok(values.to_vec()),
        None => Vec::try_from(tensor.f_view(-1)?),
    }
}

/// Count of a tensor's numbers, where they are plain.
fn n_plain(tensor: &Tensor) -> Option<usize> {
    let is_plain = tensor.device() == Device::Cpu
        && tensor.kind() == Kind::Float
        && !tensor.is_sparse()
        && !tensor.is_mkldnn()
        && tensor.is_contiguous();
    let n = tensor.numel();
    (is_plain && n > 0 && !tensor.data_ptr().is_null()).then_some(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_written_where_they_lie() {
        let mut tensor = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).view([2, 3]);
        assert_eq!(values(&tensor), Some([1.0, 2.0, 3.0, 4.0, 5.0, 6.0].as_slice()));
        let other = tensor.shallow_clone();
        values_mut(&mut tensor).unwrap()[4] = -5.0;
        assert_eq!(other.double_value(&[1, 1]).to_bits(), (-5.0f64).to_bits());
        // A part that starts further on.
        assert_eq!(values(&tensor.get(1)), Some([4.0, -5.0, 6.0].as_slice()));
    }

    #[test]
    fn what_is_not_plain_has_no_numbers() {
        let tensor = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).view([2, 3]);
        for other in [
            tensor.tr(),
            tensor.narrow(1, 0, 2),
            tensor.get(0).expand([4, 3], false),
            tensor.to_kind(Kind::Double),
            tensor.narrow(0, 0, 0),
        ] {
            assert_eq!(values(&other), None, "{other:?}");
            let expected: Vec<f64> = other.to_kind(Kind::Double).flatten(0, -1).try_into().unwrap();
            let found = to_vec(&other.to_kind(Kind::Float)).unwrap();
            assert_eq!(found.into_iter().map(f64::from).collect::<Vec<_>>(), expected);
        }
    }
}
