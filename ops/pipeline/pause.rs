//! A pause of learning, which outlives the process: `paused.json` in the state directory.

use std::path::{Path, PathBuf};

use ouzel_snapshot::Store;
use serde::{Deserialize, Serialize};

use super::state_file;

/// A pause that an operator asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pause {
    /// Why, as the operator said.
    pub(crate) note: String,
    /// Since when, ms since the epoch.
    pub(crate) at_ms: i64,
}

impl Pause {
    /// The pause of a state directory; `None` while it learns.
    pub(crate) fn read(dir: &Path) -> anyhow::Result<Option<Self>> {
        state_file::read(&path(dir))
    }

    /// Makes every start on this state directory begin paused.
    pub(crate) fn begin(&self, store: &Store) -> anyhow::Result<()> {
        state_file::replace(store, &path(store.root()), self)
    }

    /// Makes every start on this state directory learn again.
    pub(crate) fn end(store: &Store) -> anyhow::Result<()> {
        state_file::remove(store, &path(store.root()))
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("paused.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_lasts_until_it_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(Pause::read(dir.path()).unwrap(), None);
        Pause::end(&store).unwrap();
        let pause = Pause {
            note: "bad feed".to_owned(),
            at_ms: 7,
        };
        pause.begin(&store).unwrap();
        assert_eq!(Pause::read(dir.path()).unwrap(), Some(pause));
        Pause::end(&store).unwrap();
        assert_eq!(Pause::read(dir.path()).unwrap(), None);
        std::fs::write(path(dir.path()), "{").unwrap();
        assert!(Pause::read(dir.path()).is_err());
    }
}
