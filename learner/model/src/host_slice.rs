//! The memory of a tensor on the CPU as a slice.
//!
//! [`tch`] only copies values out of a tensor. An optimizer of many small weights would spend its time on these calls, so
//! this file reads and writes them in place. With `cpu/bf16` it is the only one with `unsafe`.

use tch::{Device, Kind, TchError, Tensor};

/// Values of a tensor, row-major; none unless they are `f32`, contiguous and on the CPU.
#[must_use]
pub fn values(tensor: &Tensor) -> Option<&[f32]> {
    let n = host_len(tensor)?;
    #[expect(unsafe_code, reason = "see SAFETY")]
    // SAFETY: `host_len` has checked that `n` contiguous floats are there, on the CPU. The borrow keeps the tensor alive;
    // tensors are not `Sync`, and nothing on this thread writes through another handle while the slice is read.
    Some(unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), n) })
}

/// The same for writing. The caller must not use another handle of the tensor meanwhile.
#[must_use]
pub fn values_mut(tensor: &mut Tensor) -> Option<&mut [f32]> {
    let n = host_len(tensor)?;
    #[expect(unsafe_code, reason = "see SAFETY")]
    // SAFETY: as in `values`; the handle is borrowed mutably, and the caller uses no other handle of this memory.
    Some(unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), n) })
}

/// Copies the values of a tensor of floats on any device, row-major.
pub fn to_vec(tensor: &Tensor) -> Result<Vec<f32>, TchError> {
    let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
    match values(&tensor) {
        Some(values) => Ok(values.to_vec()),
        None => Vec::try_from(tensor.f_view(-1)?),
    }
}

/// Number of values, if they are contiguous floats on the CPU.
fn host_len(tensor: &Tensor) -> Option<usize> {
    let is_host = tensor.device() == Device::Cpu
        && tensor.kind() == Kind::Float
        && !tensor.is_sparse()
        && !tensor.is_mkldnn()
        && tensor.is_contiguous();
    let n = tensor.numel();
    (is_host && n > 0 && !tensor.data_ptr().is_null()).then_some(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_written_in_place() {
        let mut tensor = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).view([2, 3]);
        assert_eq!(values(&tensor), Some([1.0, 2.0, 3.0, 4.0, 5.0, 6.0].as_slice()));
        let other = tensor.shallow_clone();
        values_mut(&mut tensor).unwrap()[4] = -5.0;
        assert_eq!(other.double_value(&[1, 1]).to_bits(), (-5.0f64).to_bits());
        // A view with an offset.
        assert_eq!(values(&tensor.get(1)), Some([4.0, -5.0, 6.0].as_slice()));
    }

    #[test]
    fn other_tensors_have_no_slice_but_can_be_copied() {
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
