//! Places what was made elsewhere in the state directory, as the writer: a snapshot of a remote copy, a file of it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Rollback, Store};
use crate::error::IoResultExt;
use crate::format::hashing::HashingOutput;
use crate::{Error, Fs, SnapshotId};

impl Store {
    /// The file system below.
    pub(crate) fn fs(&self) -> &Arc<dyn Fs> {
        &self.fs
    }

    /// The directory of a snapshot.
    pub(crate) fn snapshot_path(&self, id: SnapshotId) -> PathBuf {
        self.snapshot_dir(id)
    }

    /// The rollbacks that happened, oldest first.
    pub(crate) fn known_rollbacks(&self) -> Result<Vec<Rollback>, Error> {
        self.rollbacks()
    }

    /// The number of the next snapshot.
    pub(crate) fn next_id(&self) -> Result<u64, Error> {
        Ok(*self.next_number()?)
    }

    /// Makes the numbers below `next` those of other snapshots, which this store does not have.
    pub(crate) fn reserve_ids(&self, next: u64) -> Result<(), Error> {
        let mut number = self.next_number()?;
        *number = next.max(*number);
        Ok(())
    }

    /// Places a snapshot, in place of a damaged one of that id. `fill` creates its files in the directory that it is given.
    pub(crate) fn place_snapshot(
        &self,
        id: SnapshotId,
        fill: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (tmp, dir) = (self.tmp_dir(id)?, self.snapshot_dir(id));
        self.check_writer()?;
        self.remove_if_there(&tmp)?;
        self.fs.create_dir(&tmp).attempt("create", &tmp)?;
        fill(&tmp)?;
        self.sync_dir(&tmp)?;
        let aside = self.work_dir()?.join("replaced");
        self.remove_if_there(&aside)?;
        match self.fs.rename(&dir, &aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).attempt("replace", &dir);
            }
            _ => {}
        }
        self.fs.rename(&tmp, &dir).attempt("rename to its id", &tmp)?;
        self.sync_dir(&self.snapshots_dir())?;
        self.remove_if_there(&aside)
    }

    /// Creates a file at `path` and returns its size and hash. `fill` writes its content.
    pub(crate) fn create_at(
        &self,
        path: &Path,
        fill: impl FnOnce(&mut dyn Write) -> Result<io::Result<()>, Error>,
    ) -> Result<(u64, String), Error> {
        let mut output = HashingOutput::new(self.fs.create_file(path).attempt("create", path)?);
        fill(&mut output)?.attempt("write", path)?;
        output.finish().attempt("sync", path)
    }

    /// Replaces the file `name` of the state directory, a path below it.
    pub(crate) fn place_file(
        &self,
        name: &str,
        fill: impl FnOnce(&mut dyn Write) -> Result<io::Result<()>, Error>,
    ) -> Result<(), Error> {
        let (tmp, path) = (self.work_dir()?.join("placed"), self.root.join(name));
        let parent = path.parent().unwrap_or(&self.root);
        self.remove_if_there(&tmp)?;
        self.fs.create_dir_all(parent).attempt("create", parent)?;
        self.create_at(&tmp, fill)?;
        self.fs.rename(&tmp, &path).attempt("replace", &path)?;
        self.sync_dir(parent)?;
        self.sync_dir(&self.root)
    }

    fn remove_if_there(&self, path: &Path) -> Result<(), Error> {
        match self.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).attempt("remove", path),
            _ => Ok(()),
        }
    }
}
