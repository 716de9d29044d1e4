//! Export and import: a snapshot as a folder outside of the store.
//!
//! A folder of safetensors has the manifest beside the files that it lists, so it is verified like a snapshot when it is
//! imported. Folders of `.npz` and of Parquet files are for other programs only.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use crate::error::IoResultExt;
use crate::format::codec::{self, CodecError};
use crate::format::{npz, parquet};
use crate::{Arrays, Draft, Error, FileKind, MANIFEST_NAME, RealFs, Snapshot, SnapshotId, Store};

impl Snapshot {
    /// Writes the files of this snapshot to the new folder `dir`, each as it was written, with the manifest.
    ///
    /// # Errors
    /// As for [`Snapshot::arrays`]; [`Error::Io`] when the folder exists or cannot be written.
    pub fn export(&self, dir: &Path) -> Result<(), Error> {
        self.export_with(dir, |name, arrays| {
            write_file(&dir.join(name), |out| codec::write(arrays, out))
        })?;
        let manifest = self.manifest_bytes()?;
        write_file(&dir.join(MANIFEST_NAME), |out| Ok(out.write_all(&manifest)?))
    }

    /// Writes the files of this snapshot to the new folder `dir`, arrays as `.npz`.
    ///
    /// # Errors
    /// As for [`Snapshot::export`]; [`Error::Invalid`] for arrays of 4 GiB.
    pub fn export_npz(&self, dir: &Path) -> Result<(), Error> {
        self.export_with(dir, |name, arrays| {
            let path = dir.join(format!("{}.npz", stem(name)));
            write_file(&path, |out| npz::write(arrays, out))
        })
    }

    /// Writes the files of this snapshot to the new folder `dir`, arrays as Parquet.
    ///
    /// A table of rows is a file with the columns `id`, `weights`, the optimizer's values that `state` names for the file,
    /// and what else the table has for each row; `state` names the last values of a row. All other arrays of one type are
    /// the rows of a file with the columns `name`, `shape` and `values`.
    ///
    /// # Errors
    /// As for [`Snapshot::export`].
    pub fn export_parquet(
        &self,
        dir: &Path,
        state: impl Fn(&str) -> &'static [&'static str],
    ) -> Result<(), Error> {
        self.export_with(dir, |name, arrays| {
            parquet::export(dir, stem(name), arrays, state(name))
        })
    }

    fn export_with(
        &self,
        dir: &Path,
        write: impl Fn(&str, &Arrays) -> Result<(), Error>,
    ) -> Result<(), Error> {
        fs::create_dir(dir).attempt("create", dir)?;
        for file in &self.manifest().files {
            match file.kind {
                FileKind::Blob => {
                    let bytes = self.blob(&file.name)?;
                    write_file(&dir.join(&file.name), |out| Ok(out.write_all(&bytes)?))?;
                }
                FileKind::Arrays => write(&file.name, &self.arrays(&file.name)?)?,
            }
        }
        Ok(())
    }

    /// Opens a folder that [`Snapshot::export`] wrote, after checking the hash of every file.
    ///
    /// # Errors
    /// As for [`Store::read`].
    pub fn open_exported(dir: &Path) -> Result<Self, Error> {
        let snapshot = Self::peek_folder(&(Arc::new(RealFs) as _), dir.to_owned())?;
        snapshot.check_hashes()?;
        Ok(snapshot)
    }
}

impl Store {
    /// Writes an exported snapshot into this store, as the first of a new branch, and returns its new id.
    ///
    /// No alias moves. The checks that it went through and its positions are kept.
    ///
    /// # Errors
    /// As for [`Snapshot::arrays`] and [`Store::write`].
    pub fn import(&self, exported: &Snapshot, note: &str, now_ms: i64) -> Result<SnapshotId, Error> {
        let manifest = exported.manifest();
        let mut draft = Draft::new(
            None,
            now_ms,
            manifest.created_by.clone(),
            manifest.checkpoint.clone(),
        );
        let colon = if note.is_empty() { "" } else { ": " };
        draft.note = Some(format!(
            "imported snapshot {} of another store{colon}{note}",
            manifest.id
        ));
        draft.gates.clone_from(&manifest.gates);
        for file in &manifest.files {
            match file.kind {
                FileKind::Blob => draft.add_blob(&file.name, exported.blob(&file.name)?)?,
                FileKind::Arrays => draft.add_arrays(&file.name, exported.arrays(&file.name)?)?,
            }
        }
        self.write(&draft)
    }
}

/// A file's name without the extension of arrays.
fn stem(name: &str) -> &str {
    name.trim_end_matches(".safetensors")
}

fn write_file(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<(), CodecError>) -> Result<(), Error> {
    let mut out = BufWriter::new(File::create_new(path).attempt("create", path)?);
    match fill(&mut out) {
        Ok(()) => out.flush().attempt("write", path),
        Err(CodecError::Io(error)) => Err(error).attempt("write", path),
        Err(CodecError::Malformed(why)) => Err(Error::invalid(
            path.file_name().unwrap_or_default().to_string_lossy(),
            why,
        )),
    }
}
