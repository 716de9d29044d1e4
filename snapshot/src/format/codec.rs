//! Streams arrays as safetensors to and from a file.
//!
//! The crate `safetensors` makes and checks the header. The values pass through a buffer of ours, because its writer
//! neither syncs nor hashes and its reader wants the whole file in memory first.

use std::io::{self, Read, Write};

use safetensors::tensor::{Metadata, TensorInfo};

use super::array::Array;
use super::arrays::{Arrays, check_name};
use super::chunks::Chunks;
use super::element::{Dtype, Element, with_chunks, with_type};
use super::hashing::BUFFER_BYTES;

/// Longest header accepted: some 100,000 arrays. The format allows 100 MB.
const MAX_HEADER_BYTES: usize = 16 << 20;

/// Size of the header's length, which comes first; the header is padded to a multiple of it.
const LENGTH_BYTES: usize = 8;

/// Why arrays cannot be written or read.
#[derive(Debug)]
pub(crate) enum CodecError {
    Io(io::Error),
    Malformed(String),
}

impl From<io::Error> for CodecError {
    fn from(error: io::Error) -> Self {
        CodecError::Io(error)
    }
}

fn malformed(why: impl ToString) -> CodecError {
    CodecError::Malformed(why.to_string())
}

/// The arrays in file order: wide elements first, so that all are aligned, then by name.
fn in_file_order(arrays: &Arrays) -> Vec<(&str, &Array)> {
    let mut order: Vec<_> = arrays.iter().collect();
    order.sort_by_key(|(name, array)| (std::cmp::Reverse(array.dtype().to_safetensors()), *name));
    order
}

/// Writes `arrays`; equal arrays give equal bytes.
pub(crate) fn write(arrays: &Arrays, out: &mut dyn Write) -> Result<(), CodecError> {
    let order = in_file_order(arrays);
    let mut offset = 0usize;
    let mut tensors = Vec::with_capacity(order.len());
    for (name, array) in &order {
        let end = offset
            .checked_add(array.n_bytes())
            .ok_or_else(|| malformed("the arrays exceed the address space"))?;
        let info = TensorInfo {
            dtype: array.dtype().to_safetensors(),
            shape: array.shape().to_vec(),
            data_offsets: (offset, end),
        };
        tensors.push(((*name).to_owned(), info));
        offset = end;
    }
    let metadata = Metadata::new(None, tensors).map_err(malformed)?;
    let mut header = serde_json::to_vec(&metadata).map_err(malformed)?;
    header.resize(header.len().next_multiple_of(LENGTH_BYTES), b' ');
    if header.len() > MAX_HEADER_BYTES {
        return Err(malformed(format!(
            "{} arrays are too many for one file",
            order.len()
        )));
    }
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (name, array) in order {
        with_chunks!(array.chunks(), chunks => write_values(name, chunks, array.len(), out))?;
    }
    Ok(())
}

/// Writes the values of one array, little-endian.
pub(super) fn write_values<T: Element>(
    name: &str,
    chunks: &Chunks<T>,
    n_values: usize,
    out: &mut dyn Write,
) -> Result<(), CodecError> {
    let mut buffer = Vec::new();
    let mut n_written = 0usize;
    for run in chunks.runs() {
        for part in run.chunks(BUFFER_BYTES / size_of::<T>()) {
            T::encode(part, &mut buffer);
            n_written += part.len();
            if buffer.len() >= BUFFER_BYTES {
                out.write_all(&buffer)?;
                buffer.clear();
            }
        }
    }
    out.write_all(&buffer)?;
    // A shared run is behind a foreign `AsRef`, which may return another length the second time.
    if n_written != n_values {
        let why = format!("array `{name}` has {n_values} values, its shared runs now hold {n_written}");
        return Err(malformed(why));
    }
    Ok(())
}

/// Reads a file of exactly `n_bytes`. Whatever the bytes claim, memory use is that of the arrays and one buffer.
pub(crate) fn read(input: &mut dyn Read, n_bytes: u64, file: String) -> Result<Arrays, CodecError> {
    let n_bytes = usize::try_from(n_bytes).map_err(|_| malformed("it exceeds the address space"))?;
    let mut length = [0; LENGTH_BYTES];
    input.read_exact(&mut length)?;
    let n_header = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
    let n_data = n_bytes
        .checked_sub(LENGTH_BYTES)
        .and_then(|after_length| after_length.checked_sub(n_header))
        .filter(|_| n_header <= MAX_HEADER_BYTES)
        .ok_or_else(|| malformed(format!("its header claims {n_header} of its {n_bytes} bytes")))?;
    let mut header = vec![0; n_header];
    input.read_exact(&mut header)?;
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|error| malformed(format!("its header is malformed: {error}")))?;
    if metadata.data_len() != n_data {
        let n_described = metadata.data_len();
        return Err(malformed(format!(
            "its header describes {n_described} bytes of values, it has {n_data}"
        )));
    }
    let mut arrays = Arrays::from_file(file);
    for name in metadata.offset_keys() {
        let info = metadata
            .info(&name)
            .expect("the name is a key of the same header");
        check_name(&name).map_err(|why| malformed(format!("array `{}`: {why}", name.escape_debug())))?;
        let dtype = Dtype::from_safetensors(info.dtype).ok_or_else(|| {
            malformed(format!(
                "array `{name}` holds {}, which ouzel never writes",
                info.dtype
            ))
        })?;
        let n_values: usize = info.shape.iter().product();
        let array = with_type!(dtype, T => Array::new(&info.shape, read_values::<T>(input, n_values)?));
        array
            .and_then(|array| arrays.insert(name, array))
            .map_err(malformed)?;
    }
    Ok(arrays)
}

fn read_values<T: Element>(input: &mut dyn Read, n_values: usize) -> Result<Vec<T>, CodecError> {
    let mut values = Vec::with_capacity(n_values);
    let mut buffer = vec![0; BUFFER_BYTES.min(n_values * size_of::<T>())];
    while values.len() < n_values {
        let n_missing = (n_values - values.len()) * size_of::<T>();
        let part = &mut buffer[..n_missing.min(BUFFER_BYTES)];
        input.read_exact(part)?;
        T::decode(part, &mut values);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use safetensors::tensor::TensorView;

    use super::*;
    use crate::SharedChunk;

    fn bytes_of(arrays: &Arrays) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(arrays, &mut bytes).unwrap();
        bytes
    }

    fn read_back(bytes: &[u8]) -> Result<Arrays, CodecError> {
        read(&mut &bytes[..], bytes.len() as u64, "x.safetensors".to_owned())
    }

    fn any_array() -> impl Strategy<Value = Array> {
        let shape = prop::collection::vec(0usize..5, 0..4);
        (shape, 0usize..10, any::<u64>()).prop_map(|(shape, kind, seed)| {
            let n: usize = shape.iter().product();
            let mut bytes = vec![0; n * 8];
            blake3::Hasher::new()
                .update(&seed.to_le_bytes())
                .finalize_xof()
                .fill(&mut bytes);
            let dtypes = [
                Dtype::F32,
                Dtype::F64,
                Dtype::U8,
                Dtype::I8,
                Dtype::U16,
                Dtype::I16,
                Dtype::U32,
                Dtype::I32,
                Dtype::U64,
                Dtype::I64,
            ];
            with_type!(dtypes[kind], T => {
                Array::new(&shape, read_values::<T>(&mut &bytes[..], n).unwrap()).unwrap()
            })
        })
    }

    fn any_arrays() -> impl Strategy<Value = Arrays> {
        prop::collection::btree_map("[a-z/.]{1,8}", any_array(), 0..6).prop_map(|map| {
            let mut arrays = Arrays::new();
            for (name, array) in map {
                arrays.insert(name, array).unwrap();
            }
            arrays
        })
    }

    proptest! {
        #[test]
        fn arrays_are_read_back_bit_for_bit(arrays in any_arrays()) {
            let bytes = bytes_of(&arrays);
            prop_assert_eq!(read_back(&bytes).unwrap(), arrays);
        }

        #[test]
        fn the_file_equals_that_of_the_safetensors_crate(arrays in any_arrays()) {
            let raw: Vec<_> = arrays.iter().map(|(name, array)| {
                let mut bytes = Vec::new();
                with_chunks!(array.chunks(), chunks => write_values(name, chunks, array.len(), &mut bytes)).unwrap();
                (name.to_owned(), array, bytes)
            }).collect();
            let views = raw.iter().map(|(name, array, bytes)| {
                let dtype = array.dtype().to_safetensors();
                (name.clone(), TensorView::new(dtype, array.shape().to_vec(), bytes).unwrap())
            });
            prop_assert_eq!(bytes_of(&arrays), safetensors::serialize(views, None).unwrap());
        }

        #[test]
        fn a_truncated_file_is_refused(arrays in any_arrays(), at in any::<prop::sample::Index>()) {
            let bytes = bytes_of(&arrays);
            prop_assert!(read_back(&bytes[..at.index(bytes.len())]).is_err());
        }

        #[test]
        fn arbitrary_and_flipped_bytes_never_panic(
            arrays in any_arrays(),
            noise in prop::collection::vec(any::<u8>(), 0..200),
            flip in any::<prop::sample::Index>(),
            bit in 0u32..8,
        ) {
            read_back(&noise).ok();
            let mut bytes = bytes_of(&arrays);
            let at = flip.index(bytes.len());
            bytes[at] ^= 1 << bit;
            read_back(&bytes).ok();
        }
    }

    #[test]
    fn false_headers_are_refused_before_memory_is_allocated() {
        let file = |header: &str, n_data: usize| {
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend_from_slice(header.as_bytes());
            bytes.resize(bytes.len() + n_data, 0);
            bytes
        };
        assert!(
            read_back(&file(
                r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#,
                4
            ))
            .is_ok()
        );
        for (header, n_data) in [
            (r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, 5),
            (
                r#"{"a":{"dtype":"U8","shape":[99999999999],"data_offsets":[0,99999999999]}}"#,
                4,
            ),
            (
                r#"{"a":{"dtype":"U8","shape":[18446744073709551615,18446744073709551615],"data_offsets":[0,1]}}"#,
                1,
            ),
            (r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#, 8),
            (r#"{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}"#, 4),
            (r#"{"a\n":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, 4),
            (r#"{"":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, 4),
            ("[]", 0),
            ("", 0),
        ] {
            assert!(read_back(&file(header, n_data)).is_err(), "{header}");
        }
        assert!(read_back(&u64::MAX.to_le_bytes()).is_err());
    }

    #[test]
    fn values_cross_buffer_boundaries() {
        let n = BUFFER_BYTES / 4 + 3;
        let values: Vec<u32> = (0u32..).take(n).collect();
        let mut arrays = Arrays::new();
        arrays
            .insert("owned", Array::new(&[n], values.clone()).unwrap())
            .unwrap();
        let runs: Vec<SharedChunk<u32>> = values
            .chunks(1000)
            .map(|run| std::sync::Arc::new(run.to_vec()) as SharedChunk<u32>)
            .collect();
        arrays
            .insert("shared", Array::shared(&[n], runs).unwrap())
            .unwrap();
        let mut back = read_back(&bytes_of(&arrays)).unwrap();
        assert_eq!(back.take::<u32>("owned", &[n]).unwrap(), values);
        assert_eq!(back.take::<u32>("shared", &[n]).unwrap(), values);
    }
}
