//! `ouzel snapshot`: lists, inspects and changes snapshots.
//!
//! Reading takes no lock and works beside a daemon. A running daemon owns the state directory, so it makes the changes,
//! by a request on its admin socket. Without a daemon this command makes them.

mod offline;
mod text;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{anyhow, bail};
use ouzel_snapshot::{Alias, SnapshotEntry, SnapshotId, Store, VerificationReport};
use serde_json::json;

use super::data::state_config;
use super::output;
use crate::admin::{AdminReply, AdminRequest, Client};
use crate::cli::{Note, SnapshotArgs, SnapshotChange, SnapshotVerb, StateArgs, Target};
use crate::config::Config;
use crate::error::{ErrorExt, Exit};
use crate::pipeline::model_op::ModelOp;
use crate::telemetry::clock::{Clock, SystemClock};

/// A state directory, with the admin socket of the daemon that may own it.
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
                true => output::json(&diff, out)?,
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

/// A completed change.
struct Change {
    description: String,
    /// The snapshot that it created or names.
    snapshot: Option<SnapshotId>,
    done_by: &'static str,
}

/// Makes one of the changes.
fn change(state: &StateDir, store: &Store, verb: &SnapshotChange) -> anyhow::Result<Change> {
    let (description, request) = match verb {
        SnapshotChange::Pin(Target { id, note }) => {
            let (id, note) = (resolve(store, id)?, note.note.clone());
            (
                format!("pinned {id}"),
                AdminRequest::Pin {
                    id: id.to_string(),
                    note,
                },
            )
        }
        SnapshotChange::Rollback(Target { id, note }) => {
            let (id, note) = (resolve(store, id)?, note.note.clone());
            (
                format!("rolled back to {id}"),
                AdminRequest::Rollback {
                    id: id.to_string(),
                    note,
                },
            )
        }
        SnapshotChange::Unpin(Note { note }) => {
            ("unpinned".to_owned(), AdminRequest::Unpin { note: note.clone() })
        }
        SnapshotChange::FreezeBase(Note { note }) => (
            ModelOp::FreezeBase.done().to_owned(),
            AdminRequest::FreezeBase { note: note.clone() },
        ),
        SnapshotChange::Rebase(Note { note }) => (
            ModelOp::Rebase.done().to_owned(),
            AdminRequest::Rebase { note: note.clone() },
        ),
        SnapshotChange::ReEncode(Note { note }) => return state.re_encode(note),
    };
    let mut change = state.change(description, &request)?;
    if let (AdminRequest::FreezeBase { .. } | AdminRequest::Rebase { .. }, Some(id)) =
        (&request, change.snapshot)
    {
        change.description = format!("{} in snapshot {id}", change.description);
    }
    Ok(change)
}

impl StateDir {
    fn find(args: &StateArgs) -> anyhow::Result<Self> {
        let config = state_config(args)?;
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

    /// Makes a change: by a running daemon, or by this command.
    fn change(&self, description: String, request: &AdminRequest) -> anyhow::Result<Change> {
        let Some(mut daemon) = Client::connect(&self.socket)? else {
            let store = Store::open(&self.dir)?;
            return Ok(Change {
                description,
                snapshot: offline::carry_out(&store, &self.config, request, SystemClock.now_ms())?,
                done_by: "this command",
            });
        };
        match daemon.send(request)? {
            AdminReply::Done { snapshot } => Ok(Change {
                description,
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
            AdminReply::Status(_) => bail!("the reply of the running daemon does not fit the request"),
        }
    }

    fn re_encode(&self, note: &str) -> anyhow::Result<Change> {
        self.refuse_daemon("vectors of one encoder are never compared with those of another")?;
        let store = Store::open(&self.dir)?;
        let (id, n_vectors) = offline::re_encode(&store, &self.config, note, SystemClock.now_ms())?;
        Ok(Change {
            description: format!("{n_vectors} sets of vectors encoded again in snapshot {id}"),
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
        let (snapshot, done_by) = (self.snapshot, self.done_by);
        match json {
            true => output::json(&json!({ "snapshot": snapshot, "done_by": done_by }), out)?,
            false => writeln!(out, "{}, by {done_by}", self.description)?,
        }
        Ok(Exit::Ok)
    }
}

/// Parses an id, with or without leading zeros, or an alias.
pub(super) fn resolve(store: &Store, text: &str) -> anyhow::Result<SnapshotId> {
    if let Ok(number) = text.parse()
        && text.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Ok(SnapshotId::new(number));
    }
    let Some(alias) = Alias::ALL.into_iter().find(|alias| alias.name() == text) else {
        return Err(anyhow!("`{text}` is not a snapshot id or alias"))
            .hint(
                "give the digits of an id, as `ouzel snapshot list` shows them, or latest, serving or pinned",
            )
            .exit(Exit::Usage);
    };
    let id = store.alias(alias)?;
    id.ok_or_else(|| anyhow!("no snapshot is called {alias} in {}", store.root().display()))
        .hint("`ouzel snapshot list` shows the snapshots")
}

fn list(store: &Store, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let listed = store.list()?;
    match json {
        true => output::json(&json!({ "snapshots": listed }), out)?,
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
        .hint("`ouzel snapshot list` shows the snapshots");
    };
    let Some(manifest) = &entry.manifest else {
        bail!(
            "snapshot {id} has no manifest to show: {}",
            entry.fault.as_deref().unwrap_or("it is damaged")
        );
    };
    match json {
        true => output::json(entry, out)?,
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
        output::json(&json!({ "ok": ok, "snapshots": reports, "audit": audit }), out)?;
    } else {
        text::verify(&reports, &audit, out)?;
    }
    Ok(if ok { Exit::Ok } else { Exit::Check })
}

fn gc(state: &StateDir, keep: usize, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    state.refuse_daemon("it removes old snapshots itself, down to snapshot.keep of its configuration")?;
    let removed = Store::open(&state.dir)?.gc(keep, SystemClock.now_ms())?;
    if json {
        output::json(&json!({ "removed": removed }), out)?;
    } else {
        writeln!(out, "removed {} snapshots", removed.len())?;
        for id in removed {
            writeln!(out, "{id}")?;
        }
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests;
