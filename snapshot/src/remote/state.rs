//! The files of a state directory besides its snapshots: aliases, tags, audit log, the operators' files, plan log.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use super::copy::TAGS;
use super::index::{RemoteIndex, StateFile};
use super::pieces::{Pieces, StoredFile};
use crate::fs::read_small;
use crate::store::{AliasTarget, MAX_ALIAS_BYTES};
use crate::{Alias, Error, FsKind, Store};

/// Files that are copied as they are.
pub(super) const PLAIN: [&str; 4] = ["audit.log", "paused.json", "quarantine.json", "candidate.json"];
/// Begins the names of the segments of the plan log.
pub(super) const PLAN: &str = "plan/";
const SEGMENT: (&str, &str) = ("plan-", ".log");
/// Digits of the number in the name of a segment.
const N_DIGITS: usize = 20;

/// A text that changes with the snapshots and files: without the plan log, and of that.
pub(super) fn stamp(store: &Store) -> Result<(String, String), Error> {
    let mut hasher = blake3::Hasher::new();
    for id in store.ids()? {
        hasher.update(&id.number().to_le_bytes());
    }
    let names = Alias::ALL.iter().map(|alias| alias.name().to_owned());
    let plain = PLAIN.iter().map(|name| (*name).to_owned());
    let mut names: Vec<String> = names.chain(plain).collect();
    names.extend(list(store, TAGS)?.into_iter().map(|(name, _)| name));
    for name in names {
        hasher.update(name.as_bytes());
        if name == PLAIN[0] {
            // It only grows.
            let n_bytes = store
                .fs()
                .stat(&store.root().join(&name))
                .map_or(0, |entry| entry.n_bytes);
            hasher.update(&n_bytes.to_le_bytes());
        } else if let Ok((mut input, _)) = store.fs().open_file(&store.root().join(&name)) {
            let mut bytes = Vec::new();
            // A file that cannot be read now is read again when it is copied.
            if input.read_to_end(&mut bytes).is_ok() {
                hasher.update(&bytes);
            }
        }
    }
    let state = hasher.finalize().to_hex().to_string();
    let plan = segments(store)?;
    let plan: String = plan
        .iter()
        .map(|(name, n_bytes)| format!("{name} {n_bytes}\n"))
        .collect();
    Ok((state, plan))
}

/// Sends the files that have changed. An alias or tag whose snapshot `index` does not name stays as it was.
pub(super) fn collect(
    store: &Store,
    pieces: &mut Pieces,
    index: &RemoteIndex,
    plan_from: u64,
) -> Result<BTreeMap<String, StateFile>, Error> {
    let mut files = BTreeMap::new();
    let aliases = Alias::ALL.iter().map(|alias| alias.name().to_owned());
    let tags = list(store, TAGS)?.into_iter().map(|(name, _)| name);
    for name in aliases.chain(tags) {
        let path = store.root().join(&name);
        let bytes = match read_small(&**store.fs(), &path, MAX_ALIAS_BYTES) {
            Err(error) if error.is_not_found() => continue,
            bytes => bytes?,
        };
        // The copy keeps what it was before a damage.
        let target = AliasTarget::parse(&bytes, &path).ok().map(|target| target.id);
        match target.filter(|target| index.snapshots.contains_key(target)) {
            Some(target) => {
                let stored = pieces.put(&bytes)?;
                let target = Some(target);
                files.insert(name, StateFile { target, stored });
            }
            None => {
                let before = index.files.get(&name).filter(|file| {
                    file.target
                        .is_some_and(|target| index.snapshots.contains_key(&target))
                });
                files.extend(before.map(|file| (name, file.clone())));
            }
        }
    }
    for name in PLAIN {
        let stored = put(store, pieces, &store.root().join(name), u64::MAX)?;
        files.extend(stored.map(|stored| (name.to_owned(), StateFile { target: None, stored })));
    }
    collect_plan(store, pieces, index, plan_from, &mut files)?;
    Ok(files)
}

/// Adds the segments of the plan log from entry `plan_from` on.
fn collect_plan(
    store: &Store,
    pieces: &mut Pieces,
    index: &RemoteIndex,
    plan_from: u64,
    files: &mut BTreeMap<String, StateFile>,
) -> Result<(), Error> {
    let mut segments: BTreeMap<String, Option<u64>> = index
        .files
        .keys()
        .filter(|name| first_of(name).is_some())
        .map(|name| (name.clone(), None))
        .collect();
    for (name, n_bytes) in self::segments(store)? {
        segments.insert(name, Some(n_bytes));
    }
    let firsts: Vec<u64> = segments.keys().filter_map(|name| first_of(name)).collect();
    let n = segments.len();
    for (place, (name, n_bytes)) in segments.into_iter().enumerate() {
        if firsts.get(place + 1).is_some_and(|next| *next <= plan_from) {
            continue;
        }
        let before = index.files.get(&name);
        // All but the newest are complete.
        let is_complete = place + 2 < n;
        let stored = match n_bytes {
            Some(n_bytes) if !is_complete || before.is_none_or(|file| file.stored.bytes != n_bytes) => {
                put(store, pieces, &store.root().join(&name), n_bytes)?
            }
            _ => before.map(|file| file.stored.clone()),
        };
        files.extend(stored.map(|stored| (name, StateFile { target: None, stored })));
    }
    Ok(())
}

/// Sends the first `limit` bytes of a file; `None` if there is none any more.
fn put(store: &Store, pieces: &mut Pieces, path: &Path, limit: u64) -> Result<Option<StoredFile>, Error> {
    match pieces.put_file(&**store.fs(), path, limit) {
        Ok((stored, _)) => Ok(Some(stored)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The segments of the plan log on disk with their sizes, in order.
fn segments(store: &Store) -> Result<Vec<(String, u64)>, Error> {
    let mut found = list(store, PLAN)?;
    found.retain(|(name, _)| first_of(name).is_some());
    Ok(found)
}

/// The number of the first entry of a segment, by its name.
pub(super) fn first_of(name: &str) -> Option<u64> {
    let number = name
        .strip_prefix(PLAN)?
        .strip_prefix(SEGMENT.0)?
        .strip_suffix(SEGMENT.1)?;
    number.parse().ok().filter(|_| number.len() == N_DIGITS)
}

/// The files in a folder of the state directory with their sizes, in order.
fn list(store: &Store, folder: &str) -> Result<Vec<(String, u64)>, Error> {
    let dir = store.root().join(folder);
    let entries = match store.fs().list(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            return Err(Error::Io {
                action: "list",
                path: dir,
                error,
            });
        }
        Ok(entries) => entries,
    };
    let files = entries.into_iter().filter(|entry| entry.kind == FsKind::File);
    Ok(files
        .map(|entry| (format!("{folder}{}", entry.name), entry.n_bytes))
        .collect())
}
