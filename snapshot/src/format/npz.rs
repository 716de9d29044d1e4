//! Writes arrays as `.npz`: a ZIP archive of `.npy` files, stored without compression, as `numpy.load` reads it.
//!
//! The layouts are those of the NumPy format 1.0 and of PKWARE's APPNOTE without ZIP64, so a file stays below 4 GiB.

use std::io::{self, Write};

use super::array::Array;
use super::arrays::Arrays;
use super::codec::{CodecError, write_values};
use super::element::with_chunks;

/// The header of an `.npy` file is padded, so that its values are aligned.
const NPY_ALIGNMENT: usize = 64;
const LOCAL_HEADER: u32 = 0x0403_4b50;
const CENTRAL_HEADER: u32 = 0x0201_4b50;
const END_OF_DIRECTORY: u32 = 0x0605_4b50;
/// ZIP 2.0, the least version that readers must know.
const VERSION: u16 = 20;
/// 1980-01-01, the first day of ZIP: equal arrays give equal files.
const DATE: u16 = 0x21;

/// Where one array lies in the archive.
struct Entry {
    name: String,
    crc: u32,
    n_bytes: u32,
    offset: u32,
}

/// Writes `arrays`; equal arrays give equal bytes.
pub(crate) fn write(arrays: &Arrays, out: &mut dyn Write) -> Result<(), CodecError> {
    let mut entries = Vec::new();
    let mut offset = 0u64;
    for (name, array) in arrays.iter() {
        let mut sum = Checksum::new();
        write_npy(name, array, &mut sum)?;
        let entry = Entry {
            name: format!("{name}.npy"),
            crc: sum.finish(),
            n_bytes: small(sum.n_bytes)?,
            offset: small(offset)?,
        };
        let header = entry.local_header()?;
        out.write_all(&header)?;
        write_npy(name, array, out)?;
        offset += header.len() as u64 + sum.n_bytes;
        entries.push(entry);
    }
    let start = small(offset)?;
    let mut directory = Vec::new();
    for entry in &entries {
        directory.extend(entry.central_header()?);
    }
    out.write_all(&directory)?;
    let n_entries = u16::try_from(entries.len()).map_err(|_| too_large())?;
    let mut end = END_OF_DIRECTORY.to_le_bytes().to_vec();
    end.extend([0; 4]);
    end.extend(n_entries.to_le_bytes());
    end.extend(n_entries.to_le_bytes());
    end.extend(small(directory.len() as u64)?.to_le_bytes());
    end.extend(start.to_le_bytes());
    end.extend([0; 2]);
    Ok(out.write_all(&end)?)
}

fn too_large() -> CodecError {
    CodecError::Malformed(
        "an .npz file holds less than 4 GiB and 65,536 arrays; export as safetensors".to_owned(),
    )
}

fn small(n: u64) -> Result<u32, CodecError> {
    u32::try_from(n).map_err(|_| too_large())
}

impl Entry {
    /// What both headers say: version, flags, method, time, date, checksum and sizes, length of the name.
    fn common(&self) -> Result<Vec<u8>, CodecError> {
        let mut bytes = Vec::new();
        // Flag 11: the name is UTF-8. Method 0: stored.
        for value in [VERSION, 1 << 11, 0, 0, DATE] {
            bytes.extend(value.to_le_bytes());
        }
        for value in [self.crc, self.n_bytes, self.n_bytes] {
            bytes.extend(value.to_le_bytes());
        }
        let n_name = u16::try_from(self.name.len()).map_err(|_| too_large())?;
        bytes.extend(n_name.to_le_bytes());
        bytes.extend(0u16.to_le_bytes());
        Ok(bytes)
    }

    fn local_header(&self) -> Result<Vec<u8>, CodecError> {
        let start = LOCAL_HEADER.to_le_bytes();
        Ok([&start[..], &self.common()?, self.name.as_bytes()].concat())
    }

    fn central_header(&self) -> Result<Vec<u8>, CodecError> {
        let mut bytes = CENTRAL_HEADER.to_le_bytes().to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.common()?);
        // Comment, disk and attributes: none.
        bytes.extend([0; 10]);
        bytes.extend(self.offset.to_le_bytes());
        bytes.extend(self.name.as_bytes());
        Ok(bytes)
    }
}

fn write_npy(name: &str, array: &Array, out: &mut dyn Write) -> Result<(), CodecError> {
    let dtype = array.dtype();
    let kind: String = dtype.to_string().chars().take(1).collect();
    let dims: Vec<String> = array.shape().iter().map(|dim| format!("{dim},")).collect();
    let mut header = format!(
        "{{'descr': '<{kind}{}', 'fortran_order': False, 'shape': ({}), }}",
        dtype.n_bytes(),
        dims.join(" ")
    );
    const BEFORE: usize = 10;
    let length = (BEFORE + header.len() + 1).next_multiple_of(NPY_ALIGNMENT) - BEFORE;
    header.push_str(&" ".repeat(length - header.len() - 1));
    header.push('\n');
    let length = u16::try_from(length).map_err(|_| too_large())?;
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    with_chunks!(array.chunks(), chunks => write_values(name, chunks, array.len(), out))
}

/// Counts bytes and computes their CRC-32, as ZIP stores it.
struct Checksum {
    table: [u32; 256],
    state: u32,
    n_bytes: u64,
}

impl Checksum {
    fn new() -> Self {
        let mut table = [0; 256];
        for (value, byte) in table.iter_mut().zip(0u32..) {
            *value = (0..8).fold(byte, |crc, _| match crc & 1 {
                0 => crc >> 1,
                _ => (crc >> 1) ^ 0xedb8_8320,
            });
        }
        Self {
            table,
            state: u32::MAX,
            n_bytes: 0,
        }
    }

    fn finish(&self) -> u32 {
        !self.state
    }
}

impl Write for Checksum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            let [low, ..] = self.state.to_le_bytes();
            self.state = (self.state >> 8) ^ self.table[usize::from(low ^ byte)];
        }
        self.n_bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_zip() {
        let mut sum = Checksum::new();
        sum.write_all(b"123456789").unwrap();
        assert_eq!(sum.finish(), 0xcbf4_3926, "the check value of CRC-32/ISO-HDLC");
    }
}
