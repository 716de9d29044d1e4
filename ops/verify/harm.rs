//! The ways in which a daemon is brought down, and what is broken behind its back while it is down.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use serde::Serialize;

use ouzel_ingest::plan::PlanLog;
use ouzel_snapshot::{Alias, MANIFEST_NAME};

use super::daemon::Home;
use super::dice::Dice;

/// One way to bring a daemon down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Harm {
    /// At a random instant.
    Random,
    /// While it starts up.
    StartUp,
    /// While it writes a snapshot.
    SnapshotWrite,
    /// At a random instant, and again while it starts up.
    Twice,
    /// At a random instant; then the last bytes of the plan log are lost, as a power cut loses what was not
    /// synced.
    TornPlan,
    /// At a random instant; then the newest snapshot is damaged.
    DamagedSnapshot,
    /// At a random instant, and then SIGTERM while it catches up.
    Stop,
}

impl Harm {
    /// Every one, in the order of the first round.
    pub const ALL: [Harm; 7] = [
        Harm::SnapshotWrite,
        Harm::StartUp,
        Harm::DamagedSnapshot,
        Harm::TornPlan,
        Harm::Twice,
        Harm::Stop,
        Harm::Random,
    ];

    /// In reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Harm::Random => "at random",
            Harm::StartUp => "while starting up",
            Harm::SnapshotWrite => "while writing a snapshot",
            Harm::Twice => "twice in a row",
            Harm::TornPlan => "then the plan log torn",
            Harm::DamagedSnapshot => "then the newest snapshot damaged",
            Harm::Stop => "then SIGTERM while catching up",
        }
    }

    /// SIGKILLs that it takes.
    #[must_use]
    pub fn n_kills(self) -> u64 {
        if self == Harm::Twice { 2 } else { 1 }
    }

    /// How many of a round of twenty it is.
    fn share(self) -> usize {
        match self {
            Harm::Random => 8,
            _ => 2,
        }
    }
}

/// What comes next: each once at first, so that even a short run has seen all, then in proportion.
#[derive(Debug)]
pub struct Deck {
    cards: Vec<Harm>,
    dice: Dice,
}

impl Deck {
    /// A deck shuffled by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            cards: Harm::ALL.into_iter().rev().collect(),
            dice: Dice::new(seed, "harm"),
        }
    }

    /// The next card.
    pub fn draw(&mut self) -> Harm {
        loop {
            if let Some(harm) = self.cards.pop() {
                return harm;
            }
            for harm in Harm::ALL {
                self.cards.extend([harm].repeat(harm.share()));
            }
            self.dice.shuffle(&mut self.cards);
        }
    }

    /// Puts a card back that could not be played.
    pub fn put_back(&mut self, harm: Harm) {
        self.cards.push(harm);
    }
}

/// Cuts bytes off the end of the plan log, none of which a snapshot vouches for. Says what it did, or `None`
/// when there was nothing to cut.
pub fn tear_plan(home: &Home, dice: &mut Dice) -> anyhow::Result<Option<String>> {
    let needed = home
        .store()
        .list()?
        .iter()
        .filter_map(|listed| Some(listed.manifest.as_ref()?.cut.plan_position))
        .max()
        .unwrap_or(0);
    let Some(last) = segments(&home.plan())?.pop() else {
        return Ok(None);
    };
    let bytes = fs::metadata(&last)
        .with_context(|| format!("cannot examine {}", last.display()))?
        .len();
    // What is kept must still hold every entry before the position of the newest snapshot: those were synced.
    let trial = home.dir().join("trial");
    let mut most = bytes;
    let cut = loop {
        let cut = 1 + dice.below(most);
        copy_plan(&home.plan(), &trial)?;
        let name = last.file_name().context("a segment has a name")?;
        truncate(&trial.join(name), bytes.saturating_sub(cut))?;
        let is_kept = PlanLog::open(&trial, needed).is_ok();
        fs::remove_dir_all(&trial).with_context(|| format!("cannot remove {}", trial.display()))?;
        if is_kept {
            break cut;
        }
        most = cut - 1;
        if most == 0 {
            return Ok(None);
        }
    };
    truncate(&last, bytes - cut)?;
    Ok(Some(format!("plan log cut by {cut} of {bytes} bytes")))
}

/// Damages a file of the snapshot that a restart would begin from, or the alias that names it. Says what it
/// did, or `None` when no other is left to begin from.
pub fn damage_snapshot(home: &Home, dice: &mut Dice) -> anyhow::Result<Option<String>> {
    let store = home.store();
    let Some(newest) = store.newest_valid()?.snapshot else {
        return Ok(None);
    };
    let mut is_expendable = false;
    for older in store.list()?.iter().filter(|listed| listed.id < newest.id()) {
        is_expendable |= store.verify(older.id)?.is_valid();
    }
    if !is_expendable {
        return Ok(None);
    }
    let mut paths: Vec<PathBuf> = newest
        .manifest()
        .files
        .iter()
        .map(|file| newest.dir().join(&file.name))
        .collect();
    paths.push(newest.dir().join(MANIFEST_NAME));
    // The alias that says which snapshot counts is a file like the others.
    paths.push(home.state().join(Alias::Latest.name()));
    let path = paths.swap_remove(dice.index(paths.len()));
    let fail = |source| anyhow::Error::new(source).context(format!("cannot damage {}", path.display()));
    let what = match dice.below(4) {
        0 => {
            fs::remove_file(&path).map_err(fail)?;
            "deleted"
        }
        1 => {
            let bytes = fs::metadata(&path).map_err(fail)?.len();
            truncate(&path, dice.below(bytes))?;
            "truncated"
        }
        _ => {
            let mut bytes = fs::read(&path).map_err(fail)?;
            let at = dice.index(bytes.len());
            let byte = bytes
                .get_mut(at)
                .ok_or_else(|| anyhow!("{} is empty", path.display()))?;
            *byte ^= 1 << dice.below(8);
            fs::write(&path, bytes).map_err(fail)?;
            "flipped a bit of"
        }
    };
    let name = path.strip_prefix(home.state()).unwrap_or(&path);
    Ok(Some(format!("{what} {}", name.display())))
}

/// The segments of a plan log, oldest first.
pub fn segments(plan: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(plan) else {
        return Ok(Vec::new());
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot list {}", plan.display()))?
            .path();
        if path.extension().is_some_and(|extension| extension == "log") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Copies the segments of a plan log into a new folder.
pub fn copy_plan(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for path in segments(from)? {
        let name = path.file_name().context("a segment has a name")?;
        fs::copy(&path, to.join(name)).with_context(|| format!("cannot copy {}", path.display()))?;
    }
    Ok(())
}

fn truncate(path: &Path, bytes: u64) -> anyhow::Result<()> {
    File::options()
        .write(true)
        .open(path)
        .and_then(|file| file.set_len(bytes))
        .with_context(|| format!("cannot truncate {}", path.display()))
}

#[cfg(test)]
mod tests {
    use ouzel_snapshot::{CheckpointMeta, Draft, Fingerprint, Store};

    use super::super::settings::settings;
    use ouzel_ingest::plan::PlanEntry;

    use super::*;

    #[test]
    fn every_harm_is_drawn_early_and_then_in_proportion() {
        let mut deck = Deck::new(1);
        let first: Vec<Harm> = (0..Harm::ALL.len()).map(|_| deck.draw()).collect();
        assert_eq!(first, Harm::ALL);
        let later: Vec<Harm> = (0..20).map(|_| deck.draw()).collect();
        for harm in Harm::ALL {
            assert_eq!(later.iter().filter(|drawn| **drawn == harm).count(), harm.share());
        }
        deck.put_back(Harm::Stop);
        assert_eq!(deck.draw(), Harm::Stop);
    }

    #[test]
    fn a_torn_plan_log_still_opens_and_lost_only_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(dir.path(), &settings()).unwrap();
        let mut dice = Dice::new(1, "tear");
        assert_eq!(tear_plan(&home, &mut dice).unwrap(), None, "there is no log yet");
        let (mut log, _) = PlanLog::open(&home.plan(), 0).unwrap();
        for n in 0..40 {
            let entry = PlanEntry {
                seq: n,
                flush: true,
                ..PlanEntry::default()
            };
            log.append(&entry).unwrap();
            if n == 30 {
                log.roll().unwrap();
            }
        }
        drop(log);
        assert!(tear_plan(&home, &mut dice).unwrap().is_some());
        let (log, recovery) = PlanLog::open(&home.plan(), 0).unwrap();
        assert!((31..40).contains(&log.position()), "{recovery:?}");
    }

    #[test]
    fn the_only_snapshot_is_never_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(dir.path(), &settings()).unwrap();
        let store = Store::open(home.state()).unwrap();
        let mut dice = Dice::new(1, "damage");
        for n in 0..2 {
            assert_eq!(damage_snapshot(&home, &mut dice).unwrap(), None);
            let mut draft = Draft::new(None, n, Fingerprint::default(), CheckpointMeta::default());
            draft.add_blob("join.bin", vec![1, 2, 3]).unwrap();
            let id = store.write(&draft).unwrap();
            store.set_alias(Alias::Latest, id).unwrap();
        }
        let before = store.newest_valid().unwrap().snapshot.unwrap().id();
        let what = damage_snapshot(&home, &mut dice).unwrap().unwrap();
        let after = store.newest_valid().unwrap().snapshot.unwrap().id();
        if what.ends_with("latest") {
            assert_eq!(after, before, "{what}: the snapshot itself is whole");
        } else {
            assert!(after < before, "{what}");
            assert_eq!(damage_snapshot(&home, &mut dice).unwrap(), None);
        }
    }
}
