//! The on-disk format of one snapshot: a sealed manifest, and files of named arrays or of bytes.

mod array;
mod arrays;
mod chunks;
pub(crate) mod codec;
pub(crate) mod delta;
mod element;
pub(crate) mod hashing;
mod manifest;
pub(crate) mod npz;
pub(crate) mod parquet;
pub(crate) mod seal;

pub use array::{ANY, Array};
pub use arrays::Arrays;
pub use chunks::SharedChunk;
pub use element::{Dtype, Element};
pub(crate) use manifest::check_file_name;
#[cfg(test)]
pub(crate) use manifest::tests as manifest_tests;
pub use manifest::{
    CheckpointMeta, FORMAT, FileEntry, FileKind, Fingerprint, GateResult, IntervalStart, MANIFEST_NAME,
    MAX_MANIFEST_BYTES, Manifest, OLDEST_FORMAT,
};
