//! The remote copy of a state directory: an object store from which another machine continues.
//!
//! ```text
//! <url>/index.json                            the only object that changes: snapshots, aliases, plan log, and the writer
//! <url>/data/<generation>/<number>-<hash>     immutable pieces of files; a key is never used twice
//! ```
//!
//! [`Replica`] copies what the learner has written to its own disk, on a thread of its own. Pieces come first, and then one
//! conditional write of the index makes snapshots, aliases, tags, audit log and plan log visible together. So nothing is
//! seen half, and a piece is removed only after the index that no longer names it was written.
//!
//! # One writer
//! A start claims the copy: it writes the index with its own name and the next generation, on the condition that the index
//! is the one that it has read. Every later write has the same condition. So a former writer, however late it wakes up, can
//! neither publish nor undo anything ([`Error::RemoteTakenOver`](crate::Error::RemoteTakenOver)); what it removes has keys
//! that only its own index named. A state directory remembers its claims in `remote.json`: the copy of another directory is
//! refused, and so is one from which another machine has gone on.

mod bucket;
mod claim;
mod copy;
mod dir;
mod index;
mod pieces;
mod replica;
mod restore;
mod retain;
#[cfg(feature = "s3")]
mod s3;
mod state;

pub use bucket::{Bucket, Object, Remote};
pub use copy::RemoteCopy;
pub use index::{RemoteIndex, RemoteSnapshot};
pub use replica::{Replica, SyncReport};
pub use restore::RemoteRestore;

pub(crate) use bucket::check_url;
