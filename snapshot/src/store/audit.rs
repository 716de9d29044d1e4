//! The audit log: one line per action of a person or a policy on the store, chained by hash.
//!
//! A line is written before its action takes effect, so a crash can leave a line without its action, never the reverse. A
//! line torn by a crash is skipped, and the chain continues from the line before it. A changed or removed line breaks the
//! chain, and the break is reported.

use std::io::{self, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::IoResultExt;
use crate::format::seal::LINE;
use crate::{Error, Fs, SnapshotId};

pub(crate) const AUDIT_NAME: &str = "audit.log";

/// The kind of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditVerb {
    /// `latest` moved back, or forward again.
    Rollback,
    /// `pinned` was set.
    Pin,
    /// `pinned` was removed.
    Unpin,
    /// Old snapshots were removed.
    Gc,
    /// The model's base was frozen.
    FreezeBase,
    /// The adapters were merged into the base.
    Rebase,
    /// All contents were encoded again by other encoders.
    ReEncode,
    /// A snapshot was written for another configuration.
    Migrate,
    /// Events were excluded from learning.
    Quarantine,
    /// Learning was paused.
    Pause,
    /// Learning goes on after a pause, or after a gate stopped it.
    Resume,
    /// A snapshot got a tag.
    Tag,
    /// A tag was removed.
    Untag,
    /// A snapshot began to score a share of the traffic beside the served version.
    CandidateStart,
    /// It ended: stopped, withdrawn or promoted.
    CandidateStop,
    /// The candidate becomes what serves and learns; the rollback to it follows once its first snapshot is written.
    Promote,
    /// A standby has become the writer.
    TakeOver,
}

/// One line of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditLine {
    /// Number of the line, from 0.
    pub n: u64,
    /// Time of the action by the caller's clock, ms since the epoch.
    pub at_ms: i64,
    /// The kind of action.
    pub verb: AuditVerb,
    /// The snapshot concerned, if there is one.
    pub id: Option<SnapshotId>,
    /// The highest id given out by then.
    pub newest: Option<SnapshotId>,
    /// The snapshots that a garbage collection removed.
    pub removed: Vec<SnapshotId>,
    /// The reason given by the operator.
    pub note: String,
    /// Number of the writer, see [`Store::epoch`](crate::Store::epoch); 0 in lines of older versions.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u64,
    /// Hash of the previous line; empty for the first.
    pub prev: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(epoch: &u64) -> bool {
    *epoch == 0
}

/// The audit log as read from disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AuditLog {
    /// The lines with a correct seal.
    pub lines: Vec<AuditLine>,
    /// Number of other lines, torn by a crash or damaged.
    pub n_torn: usize,
    /// Number of lines that a former writer added beside those of its successor. They took no effect.
    pub n_superseded: usize,
    /// Number of the first line that does not continue the chain.
    pub broken_at: Option<u64>,
    /// Hash of each line.
    #[serde(skip)]
    hashes: Vec<String>,
    /// True when the last line has no newline.
    #[serde(skip)]
    ends_torn: bool,
}

impl AuditLog {
    /// Reads the log at `path`; a missing file is an empty log.
    pub(crate) fn read(fs: &dyn Fs, path: &Path) -> Result<Self, Error> {
        let mut bytes = Vec::new();
        match fs.open_file(path) {
            Ok((mut input, _)) => input.read_to_end(&mut bytes).attempt("read", path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).attempt("open", path),
        };
        Ok(Self::parse(&bytes))
    }

    fn parse(bytes: &[u8]) -> Self {
        let mut audit = Self {
            ends_torn: !bytes.is_empty() && !bytes.ends_with(b"\n"),
            ..Self::default()
        };
        for text in bytes.split(|byte| *byte == b'\n').filter(|text| !text.is_empty()) {
            let sealed = LINE.open(text).ok();
            let line = sealed.and_then(|(json, hash)| Some((serde_json::from_str(&json).ok()?, hash)));
            let Some((line, hash)): Option<(AuditLine, String)> = line else {
                audit.n_torn += 1;
                continue;
            };
            if !audit.drop_superseded(&line) {
                continue;
            }
            if audit.broken_at.is_none() && (line.prev != audit.last_hash() || line.n != audit.next_n()) {
                audit.broken_at = Some(line.n);
            }
            audit.hashes.push(hash);
            audit.lines.push(line);
        }
        audit
    }

    /// Drops the lines that the writer of `next` did not see when it added `next`. False when `next` itself is of a former
    /// writer.
    fn drop_superseded(&mut self, next: &AuditLine) -> bool {
        if self.lines.last().is_some_and(|last| next.epoch < last.epoch) {
            self.n_superseded += 1;
            return false;
        }
        let is_former = |line: &AuditLine| line.epoch < next.epoch;
        let n_former = self.lines.iter().rev().take_while(|line| is_former(line)).count();
        let n_kept = self.lines.len() - n_former;
        let seen = (n_kept..=self.lines.len())
            .rev()
            .find(|n| self.hash_before(*n) == next.prev);
        if let Some(seen) = seen {
            self.n_superseded += self.lines.len() - seen;
            self.lines.truncate(seen);
            self.hashes.truncate(seen);
        }
        true
    }

    /// Hash of the line before number `n`.
    fn hash_before(&self, n: usize) -> &str {
        let before = n.checked_sub(1).and_then(|n| self.hashes.get(n));
        before.map_or("", String::as_str)
    }

    fn last_hash(&self) -> &str {
        self.hash_before(self.hashes.len())
    }

    fn next_n(&self) -> u64 {
        self.lines.last().map_or(0, |line| line.n.saturating_add(1))
    }

    pub(crate) fn newest(&self) -> Option<SnapshotId> {
        self.lines.iter().filter_map(|line| line.newest).max()
    }

    /// Appends a line and fills in its number and chain.
    pub(crate) fn append(&self, fs: &dyn Fs, root: &Path, mut line: AuditLine) -> Result<(), Error> {
        let path = root.join(AUDIT_NAME);
        line.n = self.next_n();
        self.last_hash().clone_into(&mut line.prev);
        let json =
            serde_json::to_string(&line).map_err(|error| Error::invalid(AUDIT_NAME, error.to_string()))?;
        let start = if self.ends_torn { "\n" } else { "" };
        let text = format!("{start}{}\n", LINE.close(&json));
        let append = || {
            let mut file = fs.append_file(&path)?;
            file.write_all(text.as_bytes())?;
            file.sync()
        };
        append().attempt("append to", &path)?;
        // A new file's name must be durable too.
        if self.lines.is_empty() {
            fs.sync_dir(root).attempt("sync", root)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RealFs;

    fn line(note: &str) -> AuditLine {
        AuditLine {
            n: 0,
            at_ms: 5,
            verb: AuditVerb::Pin,
            id: Some(SnapshotId::new(1)),
            newest: Some(SnapshotId::new(2)),
            removed: Vec::new(),
            note: note.to_owned(),
            epoch: 0,
            prev: String::new(),
        }
    }

    fn log_of(n: usize) -> (tempfile::TempDir, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..n {
            let audit = AuditLog::read(&RealFs, &dir.path().join(AUDIT_NAME)).unwrap();
            audit
                .append(&RealFs, dir.path(), line(&format!("note {i}")))
                .unwrap();
        }
        let bytes = std::fs::read(dir.path().join(AUDIT_NAME)).unwrap();
        (dir, bytes)
    }

    #[test]
    fn lines_are_numbered_and_chained() {
        let (_dir, bytes) = log_of(3);
        let audit = AuditLog::parse(&bytes);
        assert_eq!(
            audit.lines.iter().map(|line| line.n).collect::<Vec<_>>(),
            [0, 1, 2]
        );
        assert_eq!((audit.n_torn, audit.broken_at), (0, None));
    }

    #[test]
    fn a_changed_removed_or_swapped_line_breaks_the_chain() {
        let (_dir, bytes) = log_of(4);
        let text = String::from_utf8(bytes).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for changed in [
            text.replace("note 1", "note X"),
            [lines[0], lines[2], lines[3]].join("\n"),
            [lines[0], lines[2], lines[1], lines[3]].join("\n"),
            [lines[1], lines[2], lines[3]].join("\n"),
        ] {
            assert!(
                AuditLog::parse(changed.as_bytes()).broken_at.is_some(),
                "{changed}"
            );
        }
    }

    #[test]
    fn lines_of_a_former_writer_beside_those_of_its_successor_take_no_effect() {
        let (dir, _) = log_of(2);
        let path = dir.path().join(AUDIT_NAME);
        let by = |epoch, note: &str| AuditLine { epoch, ..line(note) };
        let read = || AuditLog::read(&RealFs, &path).unwrap();
        // Both writers read the log before either writes, twice.
        let (former, successor) = (read(), read());
        former.append(&RealFs, dir.path(), by(1, "former")).unwrap();
        successor.append(&RealFs, dir.path(), by(2, "successor")).unwrap();
        former.append(&RealFs, dir.path(), by(1, "former again")).unwrap();
        read().append(&RealFs, dir.path(), by(2, "next")).unwrap();
        let audit = read();
        assert_eq!((audit.broken_at, audit.n_superseded), (None, 2));
        let notes: Vec<&str> = audit.lines.iter().map(|line| line.note.as_str()).collect();
        assert_eq!(notes, ["note 0", "note 1", "successor", "next"]);
        // A line that does not continue the chain is no excuse for the lines before it.
        read().append(&RealFs, dir.path(), by(3, "later")).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let without: Vec<&str> = text.lines().filter(|line| !line.contains("next")).collect();
        assert!(AuditLog::parse(without.join("\n").as_bytes()).broken_at.is_some());
    }

    #[test]
    fn a_torn_last_line_is_skipped_and_the_chain_continues() {
        let (dir, bytes) = log_of(2);
        let path = dir.path().join(AUDIT_NAME);
        let start_of_last = bytes[..bytes.len() - 1]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .unwrap()
            + 1;
        for n in start_of_last..bytes.len() {
            std::fs::write(&path, &bytes[..n]).unwrap();
            AuditLog::read(&RealFs, &path)
                .unwrap()
                .append(&RealFs, dir.path(), line("after"))
                .unwrap();
            let audit = AuditLog::read(&RealFs, &path).unwrap();
            assert_eq!(audit.broken_at, None, "cut at {n}");
            assert_eq!(audit.lines.last().unwrap().note, "after");
        }
    }
}
