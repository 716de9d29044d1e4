//! `ouzel snapshot ...`: what is on disk, and what is served and resumed from.
//!
//! Reading needs no lock and goes on beside a daemon. Changing asks the daemon if one answers on the admin
//! socket, because it owns the state directory; otherwise it is done here.

mod reencode;
mod text;
mod turn;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{anyhow, bail};
use ouzel_snapshot::{Alias, SnapshotEntry, SnapshotId, Store, VerificationReport};
use serde_json::json;

use crate::admin::{AdminReply, AdminRequest, Client};
use crate::cli::{ErrorExt, Exit, SnapshotArgs, SnapshotVerb, StateArgs};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::turn::ModelOp;

/// Where the state is and who may own it.
struct Place {
    dir: PathBuf,
    socket: PathBuf,
    config: Config,
}

/// Runs the command.
pub fn run(args: &SnapshotArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let place = Place::find(&args.state)?;
    let store = Store::inspect(&place.dir);
    match &args.verb {
        SnapshotVerb::List => list(&store, args.json, out),
        SnapshotVerb::Show { id } => show(&store, resolve(&store, id)?, args.json, out),
        SnapshotVerb::Verify { id } => {
            let id = id.as_deref().map(|id| resolve(&store, id)).transpose()?;
            verify(&store, id, args.json, out)
        }
        SnapshotVerb::Diff { a, b } => {
            let diff = store.diff(resolve(&store, a)?, resolve(&store, b)?)?;
            match args.json {
                true => write_json(&diff, out)?,
                false => text::diff(&diff, out)?,
            }
            Ok(Exit::Ok)
        }
        SnapshotVerb::Pin { id, note } => {
            let id = resolve(&store, id)?;
            let request = AdminRequest::Pin {
                id: id.to_string(),
                note: note.clone(),
            };
            let by = place.change(&request, |store, now_ms| {
                store.pin(id, note, now_ms)?;
                Ok(Some(id))
            })?;
            done(&format!("pinned {id}"), by, args.json, out)
        }
        SnapshotVerb::Unpin { note } => {
            let request = AdminRequest::Unpin { note: note.clone() };
            let by = place.change(&request, |store, now_ms| {
                store.unpin(note, now_ms)?;
                Ok(None)
            })?;
            done("unpinned", by, args.json, out)
        }
        SnapshotVerb::Rollback { id, note } => {
            let id = resolve(&store, id)?;
            let request = AdminRequest::Rollback {
                id: id.to_string(),
                note: note.clone(),
            };
            let by = place.change(&request, |store, now_ms| {
                store.rollback(id, note, now_ms)?;
                // It is to be served, whatever was pinned before.
                store.unpin(note, now_ms)?;
                Ok(Some(id))
            })?;
            done(&format!("rolled back to {id}"), by, args.json, out)
        }
        SnapshotVerb::FreezeBase { note } => {
            let request = AdminRequest::FreezeBase { note: note.clone() };
            take(&place, &request, ModelOp::FreezeBase, note, args.json, out)
        }
        SnapshotVerb::Rebase { note } => {
            let request = AdminRequest::Rebase { note: note.clone() };
            take(&place, &request, ModelOp::Rebase, note, args.json, out)
        }
        SnapshotVerb::ReEncode { note } => reencode(&place, note, args.json, out),
        SnapshotVerb::Gc { keep } => {
            let keep = keep.unwrap_or(place.config.snapshot.keep);
            gc(&place, keep, args.json, out)
        }
    }
}

impl Place {
    fn find(args: &StateArgs) -> anyhow::Result<Self> {
        let mut config = args
            .config
            .as_deref()
            .map(Config::load)
            .transpose()?
            .unwrap_or_default();
        if let Some(dir) = &args.state {
            config.snapshot.dir.clone_from(dir);
        }
        let place = Self {
            socket: config.admin_socket(),
            dir: config.snapshot.dir.clone(),
            config,
        };
        if !place.dir.is_dir() {
            return Err(anyhow!("there is no state directory {}", place.dir.display()))
                .hint("name it with --state DIR, or the configuration that does with --config FILE");
        }
        Ok(place)
    }

    /// Has the daemon do `request`, or does it here. Returns who did it, and what snapshot it was about.
    fn change(
        &self,
        request: &AdminRequest,
        offline: impl FnOnce(&Store, i64) -> anyhow::Result<Option<SnapshotId>>,
    ) -> anyhow::Result<By> {
        let Some(mut daemon) = Client::connect(&self.socket)? else {
            let snapshot = offline(&Store::open(&self.dir)?, SystemClock.now_ms())?;
            return Ok(By {
                who: "this command",
                snapshot,
            });
        };
        match daemon.ask(request)? {
            AdminReply::Done { snapshot } => Ok(By {
                who: "the running daemon",
                snapshot: snapshot.map(|id| id.parse()).transpose()?,
            }),
            AdminReply::Refused {
                error,
                hint: Some(hint),
            } => Err(anyhow!("the running daemon refused: {error}")).hint(hint),
            AdminReply::Refused { error, hint: None } => bail!("the running daemon refused: {error}"),
            AdminReply::Status(_) => bail!("the running daemon answered another question"),
        }
    }
}

/// Who changed something, and the snapshot it was about.
struct By {
    who: &'static str,
    snapshot: Option<SnapshotId>,
}

/// Freezes or re-bases, and says in which snapshot that is.
fn take(
    place: &Place,
    request: &AdminRequest,
    turn: ModelOp,
    note: &str,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let by = place.change(request, |store, now_ms| {
        turn::offline(store, &place.config, turn, note, now_ms).map(Some)
    })?;
    let what = match by.snapshot {
        Some(id) => format!("{} in snapshot {id}", turn.done()),
        None => turn.done().to_owned(),
    };
    done(&what, by, json, out)
}

/// Encodes everything anew, and says in which snapshot that is.
fn reencode(place: &Place, note: &str, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    if Client::connect(&place.socket)?.is_some() {
        return Err(anyhow!("a daemon runs in {}", place.dir.display()))
            .hint("stop it: vectors of one encoder are never compared with those of another");
    }
    let store = Store::open(&place.dir)?;
    let (id, n_vectors) = reencode::offline(&store, &place.config, note, SystemClock.now_ms())?;
    let by = By {
        who: "this command",
        snapshot: Some(id),
    };
    done(
        &format!("{n_vectors} sets of vectors encoded anew in snapshot {id}"),
        by,
        json,
        out,
    )
}

/// An id, its number without the zeros, or an alias.
pub(super) fn resolve(store: &Store, text: &str) -> anyhow::Result<SnapshotId> {
    let number = text
        .parse::<u64>()
        .ok()
        .filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    if let Some(number) = number {
        return Ok(SnapshotId::new(number));
    }
    let Some(alias) = Alias::ALL.into_iter().find(|alias| alias.name() == text) else {
        return Err(anyhow!("`{text}` is no snapshot"))
            .hint("an id is digits as `ouzel snapshot list` shows them, or one of latest, serving, pinned")
            .exit(Exit::Usage);
    };
    let id = store.alias(alias)?;
    id.ok_or_else(|| anyhow!("no snapshot is called {alias} in {}", store.root().display()))
        .hint("`ouzel snapshot list` shows what there is")
}

fn list(store: &Store, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let listed = store.list()?;
    match json {
        true => write_json(&json!({ "snapshots": listed }), out)?,
        false if listed.is_empty() => writeln!(out, "no snapshots in {}", store.root().display())?,
        false => text::list(&listed, out)?,
    }
    Ok(Exit::Ok)
}

fn show(store: &Store, id: SnapshotId, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let listed: Vec<SnapshotEntry> = store.list()?.into_iter().filter(|entry| entry.id == id).collect();
    let Some(entry) = listed.first() else {
        return Err(ouzel_snapshot::Error::NoSnapshot {
            id,
            root: store.root().to_owned(),
        })
        .hint("`ouzel snapshot list` shows what there is");
    };
    let Some(manifest) = &entry.manifest else {
        bail!(
            "snapshot {id} has no manifest to show: {}",
            entry.fault.as_deref().unwrap_or("it is damaged")
        );
    };
    match json {
        true => write_json(entry, out)?,
        false => text::show(entry, manifest, out)?,
    }
    Ok(Exit::Ok)
}

fn verify(store: &Store, id: Option<SnapshotId>, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let ids = match id {
        Some(id) => vec![id],
        None => store.list()?.into_iter().map(|entry| entry.id).collect(),
    };
    let reports = ids
        .into_iter()
        .map(|id| store.verify(id))
        .collect::<Result<Vec<VerificationReport>, _>>()?;
    let audit = store.audit()?;
    let ok = reports.iter().all(VerificationReport::is_valid) && audit.broken_at.is_none();
    if json {
        let audit = json!({ "lines": audit.lines.len(), "torn": audit.n_torn, "broken_at": audit.broken_at });
        write_json(&json!({ "ok": ok, "snapshots": reports, "audit": audit }), out)?;
    } else {
        text::verify(&reports, &audit, out)?;
    }
    Ok(if ok { Exit::Ok } else { Exit::Check })
}

fn gc(place: &Place, keep: usize, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    if Client::connect(&place.socket)?.is_some() {
        return Err(anyhow!(
            "a daemon is running on {} and collects by itself",
            place.dir.display()
        ))
        .hint("set snapshot.keep in its configuration, or stop it first");
    }
    let removed = Store::open(&place.dir)?.gc(keep, SystemClock.now_ms())?;
    if json {
        write_json(&json!({ "removed": removed }), out)?;
    } else {
        writeln!(out, "removed {} snapshots", removed.len())?;
        for id in removed {
            writeln!(out, "{id}")?;
        }
    }
    Ok(Exit::Ok)
}

fn done(what: &str, by: By, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let By { who, snapshot } = by;
    match json {
        true => write_json(&json!({ "snapshot": snapshot, "done_by": who }), out)?,
        false => writeln!(out, "{what}, by {who}")?,
    }
    Ok(Exit::Ok)
}

fn write_json(value: &impl serde::Serialize, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "{}", serde_json::to_string_pretty(value)?)?;
    Ok(())
}

#[cfg(test)]
mod tests;
