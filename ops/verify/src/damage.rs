//! Damage to a state directory while no daemon runs: a truncated plan log, a broken snapshot.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use ouzel_ingest::plan::PlanLog;
use ouzel_snapshot::{Alias, MANIFEST_NAME};

use crate::lineage_dir::{LineageDir, copy_plan, plan_segments};
use crate::rng::SeededRng;

/// Removes bytes from the end of the plan log that no snapshot needs. Returns what it did, or `None` if all are needed.
pub(crate) fn truncate_plan(dir: &LineageDir, rng: &mut SeededRng) -> anyhow::Result<Option<String>> {
    let listed = dir.store().list()?;
    let positions = listed
        .iter()
        .filter_map(|listed| Some(listed.manifest.as_ref()?.checkpoint.plan_position));
    let n_needed = positions.max().unwrap_or(0);
    let Some(last) = plan_segments(&dir.plan())?.pop() else {
        return Ok(None);
    };
    let len = size(&last)?;
    let name = last.file_name().context("a segment has a name")?;
    // Entries before the position of the newest snapshot were synced, so the rest must still hold them.
    let trial = dir.path.join("trial");
    let mut max_cut = len;
    while max_cut > 0 {
        let cut = 1 + rng.below(max_cut);
        copy_plan(&dir.plan(), &trial)?;
        truncate(&trial.join(name), len - cut)?;
        let holds_needed = PlanLog::open(&trial, n_needed).is_ok();
        fs::remove_dir_all(&trial).with_context(|| format!("cannot remove {}", trial.display()))?;
        if holds_needed {
            truncate(&last, len - cut)?;
            return Ok(Some(format!("{cut} of {len} bytes of the plan log removed")));
        }
        max_cut = cut - 1;
    }
    Ok(None)
}

/// Damages a file of the snapshot that a restart would load, or the alias `latest`. Returns what it did, or `None`
/// without an older valid snapshot.
pub(crate) fn damage_snapshot(dir: &LineageDir, rng: &mut SeededRng) -> anyhow::Result<Option<String>> {
    let store = dir.store();
    let Some(newest) = store.newest_valid()?.snapshot else {
        return Ok(None);
    };
    let mut has_older = false;
    for older in store.list()?.iter().filter(|listed| listed.id < newest.id()) {
        has_older |= store.verify(older.id)?.is_valid();
    }
    if !has_older {
        return Ok(None);
    }
    let files = newest.manifest().files.iter();
    let mut paths: Vec<PathBuf> = files.map(|file| newest.dir().join(&file.name)).collect();
    paths.push(newest.dir().join(MANIFEST_NAME));
    paths.push(dir.state.join(Alias::Latest.name()));
    let path = paths.swap_remove(rng.index(paths.len()));
    let done = damage_file(&path, rng).with_context(|| format!("cannot damage {}", path.display()))?;
    let name = path.strip_prefix(&dir.state).unwrap_or(&path);
    Ok(Some(format!("{} {done}", name.display())))
}

/// Deletes or truncates a file or flips a bit of it.
fn damage_file(path: &Path, rng: &mut SeededRng) -> anyhow::Result<&'static str> {
    match rng.below(4) {
        0 => {
            fs::remove_file(path)?;
            Ok("deleted")
        }
        1 => {
            truncate(path, rng.below(size(path)?))?;
            Ok("truncated")
        }
        _ => {
            let mut bytes = fs::read(path)?;
            let index = rng.index(bytes.len());
            let Some(byte) = bytes.get_mut(index) else {
                bail!("the file is empty")
            };
            *byte ^= 1 << rng.below(8);
            fs::write(path, bytes)?;
            Ok("changed by one bit")
        }
    }
}

fn size(path: &Path) -> anyhow::Result<u64> {
    let metadata = fs::metadata(path).with_context(|| format!("cannot examine {}", path.display()))?;
    Ok(metadata.len())
}

fn truncate(path: &Path, len: u64) -> anyhow::Result<()> {
    File::options()
        .write(true)
        .open(path)
        .and_then(|file| file.set_len(len))
        .with_context(|| format!("cannot truncate {}", path.display()))
}

#[cfg(test)]
mod tests {
    use ouzel_ingest::plan::PlanEntry;
    use ouzel_snapshot::{CheckpointMeta, Draft, Fingerprint, Store};

    use super::*;
    use crate::settings::DaemonSettings;

    fn lineage_dir(path: &Path) -> LineageDir {
        LineageDir::create(path, &DaemonSettings::new("127.0.0.1:9092")).unwrap()
    }

    #[test]
    fn a_truncated_plan_log_still_opens_and_lost_only_its_end() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = lineage_dir(temporary.path());
        let mut rng = SeededRng::new(1, "truncate");
        assert_eq!(
            truncate_plan(&dir, &mut rng).unwrap(),
            None,
            "there is no log yet"
        );
        let (mut log, _) = PlanLog::open(&dir.plan(), 0).unwrap();
        for seq in 0..40 {
            let entry = PlanEntry {
                seq,
                flush: true,
                ..PlanEntry::default()
            };
            log.append(&entry).unwrap();
            if seq == 30 {
                log.roll().unwrap();
            }
        }
        drop(log);
        assert!(truncate_plan(&dir, &mut rng).unwrap().is_some());
        let (log, recovery) = PlanLog::open(&dir.plan(), 0).unwrap();
        assert!((31..40).contains(&log.position()), "{recovery:?}");
    }

    #[test]
    fn the_only_snapshot_is_never_damaged() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = lineage_dir(temporary.path());
        let store = Store::open(&dir.state).unwrap();
        let mut rng = SeededRng::new(1, "damage");
        for now_ms in 0..2 {
            assert_eq!(damage_snapshot(&dir, &mut rng).unwrap(), None);
            let mut draft = Draft::new(None, now_ms, Fingerprint::default(), CheckpointMeta::default());
            draft.add_blob("join.bin", vec![1, 2, 3]).unwrap();
            let id = store.write(&draft).unwrap();
            store.set_alias(Alias::Latest, id).unwrap();
        }
        let before = store.newest_valid().unwrap().snapshot.unwrap().id();
        let done = damage_snapshot(&dir, &mut rng).unwrap().unwrap();
        let after = store.newest_valid().unwrap().snapshot.unwrap().id();
        if done.starts_with("latest") {
            assert_eq!(after, before, "{done}: the snapshot itself is whole");
        } else {
            assert!(after < before, "{done}");
            assert_eq!(damage_snapshot(&dir, &mut rng).unwrap(), None);
        }
    }
}
