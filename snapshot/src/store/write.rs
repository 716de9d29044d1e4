//! Writes a snapshot, in an order of operations that leaves it complete and durable or absent.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use super::Store;
use super::chain::FileDelta;
use crate::draft::FileContent;
use crate::error::IoResultExt;
use crate::format::codec::{self, CodecError};
use crate::format::hashing::HashingOutput;
use crate::{Draft, Error, FORMAT, FileEntry, MANIFEST_NAME, Manifest, SnapshotId, metrics};

impl Store {
    /// Writes a snapshot and returns its id. No alias moves, so no start resumes from it before it is published.
    ///
    /// Every file is hashed while it is written, then synced; the manifest comes last, then the directory is synced,
    /// renamed to its id, and the name synced too. An error leaves nothing behind (a crash leaves a directory
    /// in the writer's own one, removed at the next open), uses up the id, and changes no other snapshot.
    ///
    /// # Errors
    /// [`Error::Io`], where [`Error::is_transient`] distinguishes a full disk from a failing one; [`Error::Invalid`] for
    /// a draft that violates the format; [`Error::ReadOnly`].
    pub fn write(&self, draft: &Draft) -> Result<SnapshotId, Error> {
        self.write_counted(draft, &BTreeMap::new())
    }

    /// Writes a snapshot, some of whose files are `deltas` to a snapshot that is on disk.
    pub(super) fn write_counted(
        &self,
        draft: &Draft,
        deltas: &BTreeMap<String, FileDelta>,
    ) -> Result<SnapshotId, Error> {
        let result = self
            .try_write(draft, deltas)
            .map_err(|error| self.unless_taken_over(error));
        match &result {
            Ok((_, n_bytes)) => metrics::written(*n_bytes),
            Err(error) => metrics::failed(error),
        }
        Ok(result?.0)
    }

    fn try_write(
        &self,
        draft: &Draft,
        deltas: &BTreeMap<String, FileDelta>,
    ) -> Result<(SnapshotId, u64), Error> {
        let id = self.take_id()?;
        self.check_writer()?;
        let tmp = self.tmp_dir(id)?;
        let dir = self.snapshot_dir(id);
        let renamed = self.write_files((draft, deltas), id, &tmp).and_then(|n_bytes| {
            self.fs.rename(&tmp, &dir).attempt("rename to its id", &tmp)?;
            Ok(n_bytes)
        });
        let n_bytes = match renamed {
            Ok(n_bytes) => n_bytes,
            Err(error) => {
                self.abandon(&tmp);
                return Err(error);
            }
        };
        if let Err(error) = self.sync_dir(&self.snapshots_dir()) {
            // The name may not be durable, so it must go. Renaming first never shows half a snapshot under an id.
            if self.fs.rename(&dir, &tmp).is_ok() {
                self.abandon(&tmp);
            }
            return Err(error);
        }
        Ok((id, n_bytes))
    }

    /// The error of a write, or the reason for it: another process is the writer now.
    pub(super) fn unless_taken_over(&self, error: Error) -> Error {
        match self.check_writer() {
            Err(lost @ Error::TakenOver { .. }) => lost,
            _ => error,
        }
    }

    fn take_id(&self) -> Result<SnapshotId, Error> {
        let mut next = self.next_number()?;
        let id = SnapshotId::new(*next);
        *next = next
            .checked_add(1)
            .ok_or_else(|| Error::invalid("a snapshot", "the ids are used up"))?;
        Ok(id)
    }

    fn write_files(
        &self,
        (draft, deltas): (&Draft, &BTreeMap<String, FileDelta>),
        id: SnapshotId,
        tmp: &Path,
    ) -> Result<u64, Error> {
        self.fs.create_dir(tmp).attempt("create", tmp)?;
        let mut files = Vec::new();
        for (name, content) in draft.files() {
            let path = tmp.join(name);
            let delta = deltas.get(name);
            let (bytes, blake3) = self.write_file(&path, |output| match (content, delta) {
                (_, Some(delta)) => codec::write(&delta.changed, output),
                (FileContent::Arrays(arrays), None) => codec::write(arrays, output),
                (FileContent::Blob(bytes), None) => Ok(output.write_all(bytes)?),
            })?;
            files.push(FileEntry {
                name: name.to_owned(),
                kind: content.kind(),
                bytes,
                blake3,
                base: delta.map(|delta| delta.base),
                whole: delta.map(|delta| delta.whole.clone()),
            });
        }
        let mut checkpoint = draft.checkpoint.clone();
        // JSON cannot express NaN, which here means "undefined".
        for value in checkpoint.metrics.values_mut() {
            *value = value.filter(|value| value.is_finite());
        }
        let manifest = Manifest {
            format: FORMAT,
            id,
            parent: draft.parent,
            branch: self.branch(draft.parent)?,
            note: draft.note.clone(),
            created_ms: draft.created_ms,
            created_by: draft.created_by.clone(),
            checkpoint,
            gates: draft.gates.clone(),
            files,
        };
        let bytes = manifest.encode()?;
        self.write_file(&tmp.join(MANIFEST_NAME), |output| Ok(output.write_all(&bytes)?))?;
        self.sync_dir(tmp)?;
        Ok(manifest.n_bytes())
    }

    /// The branch of a new snapshot: that of its parent, or a new one if that has a child already or is not known.
    fn branch(&self, parent: Option<SnapshotId>) -> Result<u64, Error> {
        let (mut highest, mut of_parent, mut is_fork) = (None, None, false);
        for id in self.ids()? {
            // A damaged manifest says nothing of its branch.
            let Ok(snapshot) = self.peek(id) else { continue };
            let manifest = snapshot.manifest();
            highest = highest.max(Some(manifest.branch));
            is_fork |= manifest.parent == parent;
            if Some(id) == parent {
                of_parent = Some(manifest.branch);
            }
        }
        Ok(match (of_parent, highest) {
            (_, None) => 0,
            (Some(branch), _) if !is_fork => branch,
            (_, Some(highest)) => highest.saturating_add(1),
        })
    }

    /// Creates, fills and syncs a file; returns its size and hash.
    fn write_file(
        &self,
        path: &Path,
        fill: impl FnOnce(&mut HashingOutput) -> Result<(), CodecError>,
    ) -> Result<(u64, String), Error> {
        let mut output = HashingOutput::new(self.fs.create_file(path).attempt("create", path)?);
        match fill(&mut output) {
            Ok(()) => output.finish().attempt("sync", path),
            Err(CodecError::Io(error)) => Err(error).attempt("write", path),
            Err(CodecError::Malformed(why)) => Err(Error::invalid(
                path.file_name().unwrap_or_default().to_string_lossy(),
                why,
            )),
        }
    }

    /// Removes an unfinished snapshot. A failure is not reported; the next open removes the rest.
    fn abandon(&self, tmp: &Path) {
        self.remove(tmp).ok();
    }
}
