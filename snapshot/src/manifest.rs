//! The manifest: what a snapshot is, where it came from and what must be in its directory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::hashing::is_hash;
use crate::seal::PRETTY;
use crate::{Error, SnapshotId};

/// The format this version writes and reads.
pub const FORMAT: u32 = 1;

/// The manifest's name within a snapshot.
pub const MANIFEST_NAME: &str = "manifest.json";

/// Largest manifest written or read.
pub const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// What is written in `manifest.json`. The file also carries a hash of itself as its last field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the layout of this file and of the directory.
    pub format: u32,
    /// The snapshot's own id, equal to its directory's name.
    pub id: SnapshotId,
    /// The snapshot whose state this one grew from; `None` for the first of a lineage.
    pub parent: Option<SnapshotId>,
    /// Why the lineage is what it is: a rollback, an accepted gap, an import.
    pub note: Option<String>,
    /// When it was cut, ms since the epoch, by the caller's clock.
    pub created_ms: i64,
    /// By what, and on what machine.
    pub created_by: Fingerprint,
    /// The point of the log it stands for.
    pub cut: CheckpointMeta,
    /// Every file of the directory but this one, in order of name.
    pub files: Vec<FileEntry>,
}

/// What decides the bits of a run besides its log and its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// Version of ouzel.
    pub ouzel: String,
    /// Commit it was built from, if known.
    pub git: Option<String>,
    /// Version of libtorch; `None` when none took part.
    pub libtorch: Option<String>,
    /// Device type and name.
    pub device: String,
    /// Instruction set libtorch chose, as `AVX2`.
    pub cpu_capability: String,
    /// Threads of one operation.
    pub n_threads: u32,
}

impl Fingerprint {
    /// True when both promise equal bits from equal logs. Otherwise the promise is exactly-once and equal
    /// within 1e-5.
    #[must_use]
    pub fn promises_same_bits(&self, other: &Fingerprint) -> bool {
        self == other
    }
}

/// One batch boundary: everything the learner knew there besides its weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointMeta {
    /// Hash of the effective configuration.
    pub config_hash: String,
    /// Fingerprint of the feature schema.
    pub schema_fingerprint: String,
    /// Version of the encoder of each modality that has one; their vectors are what weights and histories mean.
    #[serde(default)]
    pub encoders: BTreeMap<String, String>,
    /// Batches learned from.
    pub batch_seq: u64,
    /// Samples learned from.
    pub sample_seq: u64,
    /// Hash over every sample, in order.
    pub ledger_hash: String,
    /// Hash over weights and optimizer state.
    pub weights_hash: String,
    /// What the base of the model is, once it is frozen: equal texts, equal bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<String>,
    /// Next offset to read, by `stream[partition]`.
    pub positions: BTreeMap<String, i64>,
    /// Next offset whose effect is not yet in the weights, by `stream[partition]`, where it differs.
    #[serde(default)]
    pub trained_positions: BTreeMap<String, i64>,
    /// Entries of the plan log that are in this state.
    pub plan_position: u64,
    /// Newest event time seen, ms since the epoch.
    pub event_time_ms: i64,
    /// Outcome counters of the join, for the conservation identities.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
    /// Progressive metrics; `None` when not defined yet.
    pub metrics: BTreeMap<String, Option<f64>>,
}

/// One file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its name within the directory.
    pub name: String,
    /// What is in it.
    pub kind: FileKind,
    /// Its size, bytes.
    pub bytes: u64,
    /// Its hash, hexadecimal.
    pub blake3: String,
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// Named arrays as safetensors.
    Arrays,
    /// Bytes that only their owner understands.
    Blob,
}

impl FileKind {
    /// The kind in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FileKind::Arrays => "arrays",
            FileKind::Blob => "blob",
        }
    }
}

/// Read before the rest, so that another format is called that and not an unknown field.
#[derive(Deserialize)]
struct FormatOnly {
    format: u64,
}

impl Manifest {
    /// The file's bytes, sealed.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, Error> {
        self.check().map_err(|why| Error::invalid(MANIFEST_NAME, why))?;
        let json = serde_json::to_string_pretty(self)
            .map_err(|error| Error::invalid(MANIFEST_NAME, error.to_string()))?;
        let bytes = PRETTY.close(&json).into_bytes();
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(Error::invalid(
                MANIFEST_NAME,
                format!("{} bytes are over 1 MiB", bytes.len()),
            ));
        }
        Ok(bytes)
    }

    /// Reads the file's bytes; anything that [`Manifest::encode`] could not have written is refused.
    pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<Self, Error> {
        let damaged = |why: String| Error::damaged(path, why);
        let (json, _) = PRETTY.open(bytes).map_err(|why| damaged(why.to_owned()))?;
        let FormatOnly { format } =
            serde_json::from_str(&json).map_err(|error| damaged(error.to_string()))?;
        if format != u64::from(FORMAT) {
            return Err(Error::Format {
                path: path.to_owned(),
                found: format,
                supported: FORMAT,
            });
        }
        let manifest: Manifest = serde_json::from_str(&json).map_err(|error| damaged(error.to_string()))?;
        manifest.check().map_err(damaged)?;
        Ok(manifest)
    }

    /// The entry of the file called `name`.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&FileEntry> {
        self.files.iter().find(|entry| entry.name == name)
    }

    /// Size of all files but the manifest.
    #[must_use]
    pub fn n_bytes(&self) -> u64 {
        self.files
            .iter()
            .fold(0, |sum, entry| sum.saturating_add(entry.bytes))
    }

    fn check(&self) -> Result<(), String> {
        if let Some(parent) = self.parent.filter(|parent| *parent >= self.id) {
            return Err(format!(
                "its parent {parent} is not older than itself, {}",
                self.id
            ));
        }
        let mut names = BTreeSet::new();
        for entry in &self.files {
            check_file_name(&entry.name, entry.kind)?;
            if !is_hash(&entry.blake3) {
                return Err(format!("the hash of {} is none", entry.name));
            }
            if !names.insert(entry.name.as_str()) {
                return Err(format!("{} is listed twice", entry.name));
            }
        }
        Ok(())
    }
}

/// A file name is `[a-z0-9][a-z0-9._-]{0,63}`, is not the manifest's, and says whether it holds arrays.
pub(crate) fn check_file_name(name: &str, kind: FileKind) -> Result<(), String> {
    const MAX_BYTES: usize = 64;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_plain = name.len() <= MAX_BYTES
        && name.bytes().next().is_some_and(plain)
        && name
            .bytes()
            .all(|byte| plain(byte) || matches!(byte, b'.' | b'_' | b'-'));
    let shown: String = name.chars().take(MAX_BYTES).collect();
    if !is_plain || name == MANIFEST_NAME {
        return Err(format!(
            "`{}` is no name for a file of a snapshot",
            shown.escape_debug()
        ));
    }
    if name.ends_with(".safetensors") != (kind == FileKind::Arrays) {
        return Err(format!(
            "`{shown}` does not fit its kind: arrays, and only they, end in .safetensors"
        ));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn manifest(id: u64) -> Manifest {
        Manifest {
            format: FORMAT,
            id: SnapshotId::new(id),
            parent: None,
            note: None,
            created_ms: 1_700_000_000_000,
            created_by: Fingerprint::default(),
            cut: CheckpointMeta {
                positions: [("impressions[0]".to_owned(), 42)].into(),
                metrics: [("auc".to_owned(), Some(0.1 + 0.2)), ("ne".to_owned(), None)].into(),
                event_time_ms: i64::MIN,
                sample_seq: u64::MAX,
                ..CheckpointMeta::default()
            },
            files: vec![FileEntry {
                name: "rows.safetensors".to_owned(),
                kind: FileKind::Arrays,
                bytes: 9,
                blake3: "0".repeat(64),
            }],
        }
    }

    fn decode(bytes: &[u8]) -> Result<Manifest, Error> {
        Manifest::decode(bytes, Path::new("manifest.json"))
    }

    fn sealed(json: &serde_json::Value) -> Vec<u8> {
        PRETTY
            .close(&serde_json::to_string_pretty(json).unwrap())
            .into_bytes()
    }

    #[test]
    fn a_manifest_is_read_back_whole() {
        let manifest = manifest(3);
        assert_eq!(decode(&manifest.encode().unwrap()).unwrap(), manifest);
    }

    #[test]
    fn a_sealed_manifest_that_makes_no_sense_is_refused() {
        let good = serde_json::to_value(manifest(3)).unwrap();
        assert!(decode(&sealed(&good)).is_ok());
        for (pointer, value) in [
            ("/id", "3".into()),
            ("/parent", SnapshotId::new(3).to_string().into()),
            ("/extra", 1.into()),
            ("/cut/extra", 1.into()),
            ("/cut/batch_seq", (-1).into()),
            ("/files/0/name", "../rows.safetensors".into()),
            ("/files/0/name", "/etc/passwd".into()),
            ("/files/0/name", ".hidden.safetensors".into()),
            ("/files/0/name", "manifest.json".into()),
            ("/files/0/name", "rows.bin".into()),
            ("/files/0/kind", "pickle".into()),
            ("/files/0/blake3", "A".repeat(64).into()),
            ("/files/1", good["files"][0].clone()),
        ] {
            let mut bad = good.clone();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            match bad.pointer_mut(parent).unwrap() {
                serde_json::Value::Array(items) => items.push(value),
                object => object[key] = value,
            }
            assert!(decode(&sealed(&bad)).is_err(), "{pointer}");
        }
    }

    #[test]
    fn another_format_is_called_that() {
        let mut newer = serde_json::to_value(manifest(3)).unwrap();
        newer["format"] = 2.into();
        newer["surprise"] = true.into();
        assert!(matches!(
            decode(&sealed(&newer)),
            Err(Error::Format { found: 2, .. })
        ));
    }

    #[test]
    fn a_manifest_over_the_limit_is_not_written() {
        let mut large = manifest(3);
        large.note = Some("x".repeat(1 << 20));
        assert!(matches!(large.encode(), Err(Error::Invalid { .. })));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_never_a_manifest(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode(&noise).is_err());
        }

        #[test]
        fn arbitrary_sealed_text_never_panics(noise in "\\PC{0,100}") {
            decode(PRETTY.close(&noise).as_bytes()).ok();
        }

        #[test]
        fn no_flip_and_no_cut_of_a_manifest_passes(at in any::<prop::sample::Index>(), bit in 0u32..8) {
            let good = manifest(3).encode().unwrap();
            let at = at.index(good.len());
            let mut flipped = good.clone();
            flipped[at] ^= 1 << bit;
            prop_assert!(decode(&flipped).is_err());
            prop_assert!(decode(&good[..at]).is_err());
        }
    }
}
