//! The manifest: a snapshot's identity, its origin, and the files of its directory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::hashing::is_hash;
use super::seal::PRETTY;
use crate::{Error, SnapshotId};

/// The format that this version writes.
pub const FORMAT: u32 = 2;

/// The oldest format that this version reads. Format 1 has no branch, no gates and no interval.
pub const OLDEST_FORMAT: u32 = 1;

/// File name of the manifest.
pub const MANIFEST_NAME: &str = "manifest.json";

/// Largest manifest written or read, bytes.
pub const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// The content of `manifest.json`, whose last field on disk is a hash of the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the layout of this file and its directory.
    pub format: u32,
    /// The snapshot's id, which is also the name of its directory.
    pub id: SnapshotId,
    /// The snapshot that training continued from; `None` for the first of a lineage.
    pub parent: Option<SnapshotId>,
    /// Number of its branch; a snapshot whose parent had a child already starts a new one.
    #[serde(default)]
    pub branch: u64,
    /// An event of the lineage worth a sentence: a rollback, an accepted gap, an import.
    pub note: Option<String>,
    /// Time of the checkpoint by the caller's clock, ms since the epoch.
    pub created_ms: i64,
    /// The program and the machine that made it.
    pub created_by: Fingerprint,
    /// The point of the log that the state belongs to.
    #[serde(rename = "cut")]
    pub checkpoint: CheckpointMeta,
    /// The checks that its weights went through, by name; empty in format 1.
    #[serde(default)]
    pub gates: BTreeMap<String, GateResult>,
    /// All other files of the directory, in order of name.
    pub files: Vec<FileEntry>,
}

/// The result of one check of a snapshot's weights or figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateResult {
    /// True when the snapshot may be resumed from and served.
    pub passed: bool,
    /// The figure that was judged; `None` while undefined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figure: Option<f64>,
    /// The limit that it was compared with, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
}

/// The point of the log where the interval of a snapshot began: that of the snapshot before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntervalStart {
    /// Number of batches trained on by then.
    pub batch_seq: u64,
    /// Number of samples trained on by then.
    pub sample_seq: u64,
    /// Newest event time by then, ms since the epoch.
    pub event_time_ms: i64,
}

/// The program and machine of a run.
///
/// Equal logs give equal bits under equal fingerprints, and results within 1e-5 otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// Version of ouzel.
    pub ouzel: String,
    /// Commit of the build, if known.
    pub git: Option<String>,
    /// Version of libtorch; `None` when it was not used.
    pub libtorch: Option<String>,
    /// Device type and name.
    pub device: String,
    /// Instruction set that libtorch chose, such as `AVX2`.
    pub cpu_capability: String,
    /// Threads per operation.
    pub n_threads: u32,
}

/// The learner's position at a batch boundary: everything but arrays and blobs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointMeta {
    /// Hash of the effective configuration.
    pub config_hash: String,
    /// Fingerprint of the feature schema.
    pub schema_fingerprint: String,
    /// Version of each modality's encoder; weights and histories are meaningful with its vectors only.
    #[serde(default)]
    pub encoders: BTreeMap<String, String>,
    /// Events that the operator had excluded from learning by then, a rule each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantine: Vec<String>,
    /// Number of batches trained on.
    pub batch_seq: u64,
    /// Number of samples trained on.
    pub sample_seq: u64,
    /// Hash over all samples in order.
    pub ledger_hash: String,
    /// Hash over weights and optimizer state.
    pub weights_hash: String,
    /// Identity of the frozen base, once there is one: equal texts mean equal bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<String>,
    /// Next offset to read, by `stream[partition]`.
    pub positions: BTreeMap<String, i64>,
    /// Next offset not yet trained on, by `stream[partition]`, where it differs from `positions`.
    #[serde(default)]
    pub trained_positions: BTreeMap<String, i64>,
    /// Number of plan log entries included in the state.
    pub plan_position: u64,
    /// Newest event time, ms since the epoch.
    pub event_time_ms: i64,
    /// The join's outcome counters, for the conservation checks.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
    /// Where the interval began that the `interval_` metrics are about; `None` at the start of the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_start: Option<IntervalStart>,
    /// The snapshot that this one replaces by the promotion of its parent, a candidate: its other parent, from which it has
    /// features, join state and positions. `None` for any other snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted_over: Option<SnapshotId>,
    /// Progressive metrics; `None` while undefined.
    pub metrics: BTreeMap<String, Option<f64>>,
}

/// One file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its name in the directory.
    pub name: String,
    /// Its kind of content.
    pub kind: FileKind,
    /// Its size, bytes.
    pub bytes: u64,
    /// Its blake3 hash, hexadecimal.
    pub blake3: String,
    /// The snapshot whose file of this name has the rows that this one does not; `None` for a whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<SnapshotId>,
    /// The blake3 hash of the whole file that base and changed rows make, hexadecimal; `None` for a whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<String>,
}

impl FileEntry {
    /// The hash of the whole file: equal hashes mean equal content, stored whole or not.
    pub fn content_hash(&self) -> &str {
        self.whole.as_deref().unwrap_or(&self.blake3)
    }
}

/// Kind of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// Named arrays as safetensors.
    Arrays,
    /// Bytes whose format only their owner knows.
    Blob,
}

impl FileKind {
    /// The kind in messages.
    pub fn name(self) -> &'static str {
        match self {
            FileKind::Arrays => "arrays",
            FileKind::Blob => "blob",
        }
    }
}

/// Decoded first, so that another format is reported as such and not as an unknown field.
#[derive(Deserialize)]
struct FormatOnly {
    format: u64,
}

impl Manifest {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, Error> {
        self.check().map_err(|why| Error::invalid(MANIFEST_NAME, why))?;
        let json = serde_json::to_string_pretty(self)
            .map_err(|error| Error::invalid(MANIFEST_NAME, error.to_string()))?;
        let bytes = PRETTY.close(&json).into_bytes();
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            let why = format!(
                "it has {} bytes, at most {MAX_MANIFEST_BYTES} are allowed",
                bytes.len()
            );
            return Err(Error::invalid(MANIFEST_NAME, why));
        }
        Ok(bytes)
    }

    /// Parses the file's bytes; refuses whatever [`Manifest::encode`] could not have written.
    pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<Self, Error> {
        let damaged = |why: String| Error::damaged(path, why);
        let (json, _) = PRETTY.open(bytes).map_err(|why| damaged(why.to_owned()))?;
        let FormatOnly { format } =
            serde_json::from_str(&json).map_err(|error| damaged(error.to_string()))?;
        if !(u64::from(OLDEST_FORMAT)..=u64::from(FORMAT)).contains(&format) {
            return Err(Error::Format {
                path: path.to_owned(),
                found: format,
                oldest: OLDEST_FORMAT,
                newest: FORMAT,
            });
        }
        let manifest: Manifest = serde_json::from_str(&json).map_err(|error| damaged(error.to_string()))?;
        manifest.check().map_err(damaged)?;
        Ok(manifest)
    }

    /// The entry of the file called `name`.
    pub fn file(&self, name: &str) -> Option<&FileEntry> {
        self.files.iter().find(|entry| entry.name == name)
    }

    /// The snapshots whose files it needs.
    pub fn bases(&self) -> BTreeSet<SnapshotId> {
        self.files.iter().filter_map(|file| file.base).collect()
    }

    /// The first check that it failed, by name.
    pub fn failed_gate(&self) -> Option<&str> {
        let failed = self.gates.iter().find(|(_, gate)| !gate.passed);
        failed.map(|(name, _)| name.as_str())
    }

    /// Total size of the files without the manifest, bytes.
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
                return Err(format!("the hash of {} is not 64 hexadecimal digits", entry.name));
            }
            match (entry.base, &entry.whole) {
                (None, None) => {}
                (Some(base), Some(whole))
                    if base < self.id && is_hash(whole) && entry.kind == FileKind::Arrays => {}
                _ => return Err(format!("the base of {} is no older file of arrays", entry.name)),
            }
            if !names.insert(entry.name.as_str()) {
                return Err(format!("{} is listed twice", entry.name));
            }
        }
        Ok(())
    }
}

/// Checks a file name: `[a-z0-9][a-z0-9._-]{0,63}`, not the manifest's, `.safetensors` exactly for arrays.
pub(crate) fn check_file_name(name: &str, kind: FileKind) -> Result<(), String> {
    const MAX_BYTES: usize = 64;
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_valid = name.len() <= MAX_BYTES
        && name.bytes().next().is_some_and(is_alphanumeric)
        && name
            .bytes()
            .all(|byte| is_alphanumeric(byte) || matches!(byte, b'.' | b'_' | b'-'));
    let shown: String = name.chars().take(MAX_BYTES).collect();
    if !is_valid || name == MANIFEST_NAME {
        Err(format!(
            "`{}` is no name for a file of a snapshot",
            shown.escape_debug()
        ))
    } else if name.ends_with(".safetensors") != (kind == FileKind::Arrays) {
        Err(format!(
            "`{shown}` does not match its kind: files of arrays, and only they, end in .safetensors"
        ))
    } else {
        Ok(())
    }
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
            branch: 0,
            note: None,
            created_ms: 1_700_000_000_000,
            created_by: Fingerprint::default(),
            checkpoint: CheckpointMeta {
                positions: [("impressions[0]".to_owned(), 42)].into(),
                metrics: [("auc".to_owned(), Some(0.1 + 0.2)), ("ne".to_owned(), None)].into(),
                event_time_ms: i64::MIN,
                sample_seq: u64::MAX,
                ..CheckpointMeta::default()
            },
            gates: BTreeMap::new(),
            files: vec![FileEntry {
                name: "rows.safetensors".to_owned(),
                kind: FileKind::Arrays,
                bytes: 9,
                blake3: "0".repeat(64),
                base: None,
                whole: None,
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
    fn a_manifest_is_read_back_unchanged() {
        let manifest = manifest(3);
        assert_eq!(decode(&manifest.encode().unwrap()).unwrap(), manifest);
    }

    #[test]
    fn a_sealed_but_inconsistent_manifest_is_refused() {
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
            ("/files/0/base", SnapshotId::new(1).to_string().into()),
            ("/files/0/whole", "0".repeat(64).into()),
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
    fn another_format_is_reported_as_such() {
        let mut newer = serde_json::to_value(manifest(3)).unwrap();
        newer["format"] = 3.into();
        newer["surprise"] = true.into();
        let error = decode(&sealed(&newer)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "manifest.json has format 3, this version reads formats 1 to 2: use the ouzel that wrote it, or a newer one"
        );
    }

    #[test]
    fn a_manifest_of_format_1_is_read() {
        let mut older = serde_json::to_value(manifest(3)).unwrap();
        older["format"] = 1.into();
        for added in ["branch", "gates"] {
            assert!(older.as_object_mut().unwrap().remove(added).is_some(), "{added}");
        }
        let read = decode(&sealed(&older)).unwrap();
        assert_eq!(
            read,
            Manifest {
                format: 1,
                ..manifest(3)
            }
        );
    }

    #[test]
    fn a_manifest_over_the_limit_is_not_written() {
        let mut large = manifest(3);
        large.note = Some("x".repeat(1 << 20));
        assert!(matches!(large.encode(), Err(Error::Invalid { .. })));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode(&noise).is_err());
        }

        #[test]
        fn arbitrary_sealed_text_never_panics(noise in "\\PC{0,100}") {
            decode(PRETTY.close(&noise).as_bytes()).ok();
        }

        #[test]
        fn no_flipped_bit_and_no_truncation_passes(at in any::<prop::sample::Index>(), bit in 0u32..8) {
            let good = manifest(3).encode().unwrap();
            let at = at.index(good.len());
            let mut flipped = good.clone();
            flipped[at] ^= 1 << bit;
            prop_assert!(decode(&flipped).is_err());
            prop_assert!(decode(&good[..at]).is_err());
        }
    }
}
