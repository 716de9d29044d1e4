//! The claim of a remote copy: which state directory may go on with it.

use serde::{Deserialize, Serialize};

use super::bucket::Remote;
use super::copy::RemoteCopy;
use super::index::RemoteIndex;
use crate::fs::read_small;
use crate::store::{hostname, unique};
use crate::{Error, Store};

/// Remembers the claims of a state directory.
pub(super) const CLAIM_NAME: &str = "remote.json";
const MAX_BYTES: u64 = 64 << 10;

/// What a state directory knows of its copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LocalClaim {
    /// The address of the copy.
    pub(super) url: String,
    /// The claim that was made last, and the one that it replaced: a crash between this file and the claim leaves the latter.
    pub(super) writers: Vec<String>,
    /// True while the snapshots of the copy are being fetched.
    pub(super) is_restoring: bool,
}

impl LocalClaim {
    pub(super) fn read(store: &Store) -> Result<Option<Self>, Error> {
        let path = store.root().join(CLAIM_NAME);
        let bytes = match read_small(&**store.fs(), &path, MAX_BYTES) {
            Err(error) if error.is_not_found() => return Ok(None),
            bytes => bytes?,
        };
        let claim =
            serde_json::from_slice(&bytes).map_err(|error| Error::damaged(&path, error.to_string()))?;
        Ok(Some(claim))
    }

    pub(super) fn write(&self, store: &Store) -> Result<(), Error> {
        let json =
            serde_json::to_vec_pretty(self).map_err(|error| Error::invalid(CLAIM_NAME, error.to_string()))?;
        store.place_file(CLAIM_NAME, |output| Ok(output.write_all(&json)))
    }
}

/// True for a state directory without snapshots, or in which a restore has not ended.
pub(super) fn is_new(store: &Store) -> Result<bool, Error> {
    let is_restoring = LocalClaim::read(store)?.is_some_and(|local| local.is_restoring);
    Ok(is_restoring || store.ids()?.is_empty())
}

/// Claims the copy, or begins one. Returns it, and whether the state directory has none of its snapshots yet.
pub(super) fn claim(store: &Store, remote: &Remote, now_ms: i64) -> Result<(RemoteCopy, bool), Error> {
    let local = LocalClaim::read(store)?.filter(|local| local.url == remote.url());
    let found = RemoteCopy::read(remote)?;
    let is_new = is_new(store)?;
    if let Some(copy) = &found {
        let is_ours = |local: &LocalClaim| local.writers.contains(&copy.index.writer);
        match &local {
            _ if is_new => {}
            Some(local) if is_ours(local) => {}
            Some(_) => {
                return Err(Error::RemoteTakenOver {
                    url: remote.url().to_owned(),
                    host: copy.index.host.clone(),
                });
            }
            None => {
                return Err(Error::RemoteForeign {
                    url: remote.url().to_owned(),
                    host: copy.index.host.clone(),
                });
            }
        }
    }
    let is_to_restore = is_new
        && found
            .as_ref()
            .is_some_and(|copy| !copy.index.snapshots.is_empty());
    let writer = format!("{} {} {now_ms}", hostname(), unique());
    let mut index = found
        .as_ref()
        .map_or_else(RemoteIndex::new, |copy| copy.index.clone());
    let before = found.as_ref().map(|copy| copy.index.writer.clone());
    LocalClaim {
        url: remote.url().to_owned(),
        writers: before.into_iter().chain([writer.clone()]).collect(),
        is_restoring: is_to_restore,
    }
    .write(store)?;
    index.writer = writer;
    index.host = hostname();
    index.generation += 1;
    index.sequence += 1;
    index.epoch = index.epoch.max(store.epoch().unwrap_or_default());
    index.next_id = index.next_id.max(store.next_id()?);
    let expected = found.as_ref().map(|copy| copy.tag.as_str());
    let tag = match index.write(remote, expected)? {
        Some(tag) => tag,
        None => match RemoteIndex::read(remote)? {
            // The answer to the write was lost and it was made again.
            Some((now, tag)) if now.writer == index.writer => tag,
            now => {
                return Err(Error::RemoteTakenOver {
                    url: remote.url().to_owned(),
                    host: now.map_or_else(String::new, |(now, _)| now.host),
                });
            }
        },
    };
    let copy = match found {
        Some(copy) => RemoteCopy { index, tag, ..copy },
        None => RemoteCopy::begun(remote, index, tag),
    };
    Ok((copy, is_to_restore))
}
