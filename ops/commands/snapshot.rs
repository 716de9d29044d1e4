//! `ouzel snapshot ...`: lists, inspects and changes what is on disk, served and resumed from.
//!
//! Reading needs no lock and works beside a daemon. A change is made by the daemon if one answers on the admin socket,
//! because it owns the state directory; otherwise it is made here.

mod offline;
mod text;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{anyhow, bail};
use ouzel_snapshot::{Alias, SnapshotEntry, SnapshotId, Store, VerificationReport};
use serde_json::json;

use crate::admin::{AdminReply, AdminRequest, Client};
use crate::cli::{SnapshotArgs, SnapshotChange, SnapshotVerb, StateArgs};
use crate::config::Config;
use crate::error::{ErrorExt, Exit};
use crate::pipeline::model_op::ModelOp;
use crate::telemetry::clock::{Clock, SystemClock};

/// A state directory, and the admin socket of the daemon that may own it.
struct StateDir {
    dir: PathBuf,
    socket: PathBuf,
    config: Config,
}

/// Runs the command.
pub(super) fn run(args: &SnapshotArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let state = StateDir::find(&args.state)?;
    let store = Store::inspect(&state.dir);
    let json = args.json;
    match &args.verb {
        SnapshotVerb::List => list(&store, json, out),
        SnapshotVerb::Show { id } => show(&store, resolve(&store, id)?, json, out),
        SnapshotVerb::Verify { id } => {
            let id = id.as_deref().map(|id| resolve(&store, id)).transpose()?;
            verify(&store, id, json, out)
        }
        SnapshotVerb::Diff { a, b } => {
            let diff = store.diff(resolve(&store, a)?, resolve(&store, b)?)?;
            match json {
                true => write_json(&diff, out)?,
                false => text::diff(&diff, out)?,
            }
            Ok(Exit::Ok)
        }
        SnapshotVerb::Gc { keep } => {
            let keep = keep.unwrap_or(state.config.snapshot.keep);
            gc(&state, keep, json, out)
        }
        SnapshotVerb::Change(verb) => change(&state, &store, verb)?.write(json, out),
    }
}

/// A change that was made.
struct Change {
    what: String,
    /// The snapshot that it made or names.
    snapshot: Option<SnapshotId>,
    done_by: &'static str,
}

/// Makes one of the changes.
fn change(state: &StateDir, store: &Store, verb: &SnapshotChange) -> anyhow::Result<Change> {
    let op = |op: ModelOp, request: AdminRequest, note: &str| {
        let mut change = state.change(op.done().to_owned(), &request, |store, now_ms| {
            offline::apply(store, &state.config, op, note, now_ms).map(Some)
        })?;
        if let Some(id) = change.snapshot {
            change.what = format!("{} in snapshot {id}", change.what);
        }
        Ok(change)
    };
    match verb {
        SnapshotChange::Pin { id, note } => {
            let (id, note) = (resolve(store, id)?, note.clone());
            let request = AdminRequest::Pin {
                id: id.to_string(),
                note: note.clone(),
            };
            state.change(format!("pinned {id}"), &request, |store, now_ms| {
                store.pin(id, &note, now_ms)?;
                Ok(Some(id))
            })
        }
        SnapshotChange::Rollback { id, note } => {
            let (id, note) = (resolve(store, id)?, note.clone());
            let request = AdminRequest::Rollback {
                id: id.to_string(),
                note: note.clone(),
            };
            state.change(format!("rolled back to {id}"), &request, |store, now_ms| {
                store.rollback(id, &note, now_ms)?;
                // It is to be served, whatever was pinned before.
                store.unpin(&note, now_ms)?;
                Ok(Some(id))
            })
        }
        SnapshotChange::Unpin { note } => {
            let request = AdminRequest::Unpin { note: note.clone() };
            state.change("unpinned".to_owned(), &request, |store, now_ms| {
                store.unpin(note, now_ms)?;
                Ok(None)
            })
        }
        SnapshotChange::FreezeBase { note } => {
            let request = AdminRequest::FreezeBase { note: note.clone() };
            op(ModelOp::FreezeBase, request, note)
        }
        SnapshotChange::Rebase { note } => {
            op(ModelOp::Rebase, AdminRequest::Rebase { note: note.clone() }, note)
        }
        SnapshotChange::ReEncode { note } => state.re_encode(note),
    }
}

impl StateDir {
    fn find(args: &StateArgs) -> anyhow::Result<Self> {
        let config = args.config.as_deref().map(Config::load).transpose()?;
        let mut config = config.unwrap_or_default();
        if let Some(dir) = &args.state {
            config.snapshot.dir.clone_from(dir);
        }
        let state = Self {
            socket: config.admin_socket(),
            dir: config.snapshot.dir.clone(),
            config,
        };
        if !state.dir.is_dir() {
            return Err(anyhow!("there is no state directory {}", state.dir.display()))
                .hint("name it with --state DIR, or name its configuration with --config FILE");
        }
        Ok(state)
    }

    /// Makes a change: the daemon by `request`, or this command by `offline`.
    fn change(
        &self,
        what: String,
        request: &AdminRequest,
        offline: impl FnOnce(&Store, i64) -> anyhow::Result<Option<SnapshotId>>,
    ) -> anyhow::Result<Change> {
        let Some(mut daemon) = Client::connect(&self.socket)? else {
            return Ok(Change {
                what,
                snapshot: offline(&Store::open(&self.dir)?, SystemClock.now_ms())?,
                done_by: "this command",
            });
        };
        match daemon.ask(request)? {
            AdminReply::Done { snapshot } => Ok(Change {
                what,
                snapshot: snapshot.map(|id| id.parse()).transpose()?,
                done_by: "the running daemon",
            }),
            AdminReply::Refused { error, hint } => {
                let refused = Err(anyhow!("the running daemon refused: {error}"));
                match hint {
                    Some(hint) => refused.hint(hint),
                    None => refused,
                }
            }
            AdminReply::Status(_) => bail!("the running daemon answered another request"),
        }
    }

    fn re_encode(&self, note: &str) -> anyhow::Result<Change> {
        self.refuse_daemon("vectors of one encoder are never compared with those of another")?;
        let store = Store::open(&self.dir)?;
        let (id, n_vectors) = offline::re_encode(&store, &self.config, note, SystemClock.now_ms())?;
        Ok(Change {
            what: format!("{n_vectors} sets of vectors encoded anew in snapshot {id}"),
            snapshot: Some(id),
            done_by: "this command",
        })
    }

    /// Fails while a daemon runs on the state directory.
    fn refuse_daemon(&self, reason: &str) -> anyhow::Result<()> {
        if Client::connect(&self.socket)?.is_some() {
            return Err(anyhow!("a daemon is running on {}", self.dir.display()))
                .hint(format!("stop it: {reason}"));
        }
        Ok(())
    }
}

impl Change {
    fn write(self, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
        match json {
            true => write_json(
                &json!({ "snapshot": self.snapshot, "done_by": self.done_by }),
                out,
            )?,
            false => writeln!(out, "{}, by {}", self.what, self.done_by)?,
        }
        Ok(Exit::Ok)
    }
}

/// Parses an id, an id without its zeros, or an alias.
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

fn gc(state: &StateDir, keep: usize, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    state.refuse_daemon("it removes old snapshots itself, down to snapshot.keep of its configuration")?;
    let removed = Store::open(&state.dir)?.gc(keep, SystemClock.now_ms())?;
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

fn write_json(value: &impl serde::Serialize, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "{}", serde_json::to_string_pretty(value)?)?;
    Ok(())
}

#[cfg(test)]
mod tests;
