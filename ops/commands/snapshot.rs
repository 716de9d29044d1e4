//! `ouzel snapshot`: lists, inspects and changes snapshots.
//!
//! Reading takes no lock and works beside a daemon. A running daemon owns the state directory, so it makes the changes,
//! by a request on its admin socket. Without a daemon this command makes them.

mod compare;
mod dry_run;
mod lineage;
mod migrate;
mod offline;
mod remote;
mod text;
mod transfer;
mod verdict;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{anyhow, bail};
use ouzel_ingest::{KafkaConfig, QuarantineRule};
use ouzel_snapshot::{Alias, Retention, SnapshotEntry, SnapshotId, Store};
use serde_json::json;

use super::data::state_config;
use super::output;
use crate::admin::{AdminReply, AdminRequest, Client, LearnFrom};
use crate::cli::{Note, Quarantine, SkipTo, SnapshotArgs, SnapshotChange, SnapshotVerb, StateArgs, Target};
use crate::config::Config;
use crate::error::{ErrorExt, Exit};
use crate::pipeline::go_back::ReadAgain;
use crate::pipeline::model_op::ModelOp;
use crate::telemetry::clock::{Clock, SystemClock};
use verdict::Verdict;

/// A state directory, with the admin socket of the daemon that may own it.
pub(super) struct StateDir {
    pub(super) dir: PathBuf,
    pub(super) socket: PathBuf,
    config: Config,
    /// True when a file states the configuration.
    is_configured: bool,
    /// The log, if a configuration file names it and its secrets are here.
    kafka: Option<KafkaConfig>,
}

/// Runs the command.
pub(super) fn run(args: &SnapshotArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let json = args.json;
    if let SnapshotVerb::List { remote: true } = &args.verb {
        return remote::list(&state_config(&args.state)?, json, out);
    }
    let state = StateDir::find(&args.state)?;
    let store = Store::inspect(&state.dir);
    match &args.verb {
        SnapshotVerb::List { .. } => list(&store, json, out),
        SnapshotVerb::Fetch { id } => {
            state.refuse_daemon("it owns the state directory")?;
            remote::fetch(&state.config, id, json, out)
        }
        SnapshotVerb::Show { id } => show(&store, resolve(&store, id)?, json, out),
        SnapshotVerb::Verify { id } => {
            let id = id.as_deref().map(|id| resolve(&store, id)).transpose()?;
            verify(&store, id, json, out)
        }
        SnapshotVerb::Diff { a, b } => {
            compare::diff(&store, resolve(&store, a)?, resolve(&store, b)?, json, out)
        }
        SnapshotVerb::Gc { keep, dry_run } => {
            let mut rules = Retention::from(&state.config.snapshot);
            rules.last = keep.unwrap_or(rules.last);
            match dry_run {
                true => plan_gc(&store, rules, json, out),
                false => gc(&state, rules, json, out),
            }
        }
        SnapshotVerb::Export { id, dir, format } => {
            transfer::export(&store.read(resolve(&store, id)?)?, dir, *format, json, out)
        }
        SnapshotVerb::Import { dir, note } => {
            state.refuse_daemon("it owns the state directory")?;
            transfer::import(&Store::open(&state.dir)?, dir, &note.note, json, out)
        }
        SnapshotVerb::Migrate { id, dry_run, note } => {
            let id = id.as_deref().map(|id| resolve(&store, id)).transpose()?;
            migrate::run(&state, id, (&note.note, *dry_run), json, out)
        }
        SnapshotVerb::ReEncode(Note { note }) => state.re_encode(note)?.write(json, out),
        SnapshotVerb::Change(verb) => change(&state, &store, verb, json, out),
    }
}

/// A completed change.
pub(super) struct Change {
    description: String,
    /// The snapshot that it created or names.
    snapshot: Option<SnapshotId>,
    /// What else has changed, a sentence each.
    also: Vec<String>,
    done_by: &'static str,
}

/// Makes one of the changes, or says what it would do.
fn change(
    state: &StateDir,
    store: &Store,
    verb: &SnapshotChange,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let (description, request, is_dry) = request(store, verb)?;
    if is_dry {
        return dry_run::write(state, store, &request, json, out);
    }
    state.change(description, &request)?.write(json, out)
}

/// The request that a change sends to a running daemon, with what it will have done, and whether it is only to be tried.
fn request(store: &Store, verb: &SnapshotChange) -> anyhow::Result<(String, AdminRequest, bool)> {
    let (description, request) = match verb {
        SnapshotChange::Create => ("written by request".to_owned(), AdminRequest::Snapshot),
        SnapshotChange::Pin(Target { id, note }) => {
            let (id, note) = (resolve(store, id)?, note.note.clone());
            let request = AdminRequest::Pin {
                id: id.to_string(),
                note,
            };
            (format!("pinned {id}"), request)
        }
        SnapshotChange::Rollback(rollback) => {
            let id = resolve(store, &rollback.target.id)?;
            let (from, how) = match rollback.skip_to {
                None => (LearnFrom::Rewind, "and in the log".to_owned()),
                Some(SkipTo::Now) => (LearnFrom::Now, "and skipped what was learned since".to_owned()),
                Some(SkipTo::TimeMs(ms)) => (
                    LearnFrom::Time(ms),
                    format!("and continued at {}", output::time(ms)),
                ),
            };
            let request = AdminRequest::Rollback {
                id: id.to_string(),
                from,
                note: rollback.target.note.note.clone(),
            };
            return Ok((format!("rolled back to {id} {how}"), request, rollback.dry_run));
        }
        SnapshotChange::Quarantine(quarantine) => {
            let (rule, again) = quarantine_of(store, quarantine)?;
            let description = format!("excluded {rule} from learning");
            let request = AdminRequest::Quarantine {
                rule,
                again,
                note: quarantine.note.note.clone(),
            };
            return Ok((description, request, quarantine.dry_run));
        }
        SnapshotChange::Unpin(Note { note }) => {
            ("unpinned".to_owned(), AdminRequest::Unpin { note: note.clone() })
        }
        SnapshotChange::Tag {
            id,
            name,
            note: Note { note },
        } => {
            let id = resolve(store, id)?;
            let request = AdminRequest::Tag {
                id: id.to_string(),
                name: name.clone(),
                note: note.clone(),
            };
            (format!("tagged {id} as {name}"), request)
        }
        SnapshotChange::Untag {
            name,
            note: Note { note },
        } => {
            let (name, note) = (name.clone(), note.clone());
            (
                format!("removed the tag {name}"),
                AdminRequest::Untag { name, note },
            )
        }
        SnapshotChange::FreezeBase(Note { note }) => (
            ModelOp::FreezeBase.done().to_owned(),
            AdminRequest::FreezeBase { note: note.clone() },
        ),
        SnapshotChange::Rebase(Note { note }) => (
            ModelOp::Rebase.done().to_owned(),
            AdminRequest::Rebase { note: note.clone() },
        ),
    };
    Ok((description, request, false))
}

/// The rule of a quarantine, and where it goes back to.
fn quarantine_of(store: &Store, args: &Quarantine) -> anyhow::Result<(QuarantineRule, ReadAgain)> {
    let (field, value) = args.condition.clone().unzip();
    let rule = QuarantineRule {
        user: args.user.clone(),
        item: args.item.clone(),
        from_ms: args.from,
        to_ms: args.to,
        field,
        value,
    };
    rule.check().map_err(|why| anyhow!(why)).exit(Exit::Usage)?;
    let again = match (&args.again, args.only_new) {
        (Some(id), _) => ReadAgain::From(resolve(store, id)?.to_string()),
        (None, true) => ReadAgain::Nothing,
        (None, false) => ReadAgain::BeforeIt,
    };
    Ok((rule, again))
}

impl StateDir {
    pub(super) fn find(args: &StateArgs) -> anyhow::Result<Self> {
        let config = state_config(args)?;
        let state = Self {
            socket: config.admin_socket(),
            dir: config.snapshot.dir.clone(),
            kafka: args.config.as_ref().and_then(|_| config.kafka_config().ok()),
            is_configured: args.config.is_some(),
            config,
        };
        if !state.dir.is_dir() {
            return Err(anyhow!("there is no state directory {}", state.dir.display()))
                .hint("name it with --state DIR, or name its configuration with --config FILE");
        }
        Ok(state)
    }

    /// Makes a change: by a running daemon, or by this command.
    pub(super) fn change(&self, description: String, request: &AdminRequest) -> anyhow::Result<Change> {
        let Some(mut daemon) = Client::connect(&self.socket)? else {
            let store = Store::open(&self.dir)?;
            let (snapshot, also) = offline::carry_out(&store, self, request, SystemClock.now_ms())?;
            return Ok(Change {
                description,
                snapshot,
                also,
                done_by: "this command",
            });
        };
        match daemon.send(request)? {
            AdminReply::Done { snapshot, also } => Ok(Change {
                description: match (request, &snapshot) {
                    (AdminRequest::FreezeBase { .. } | AdminRequest::Rebase { .. }, Some(id)) => {
                        format!("{description} in snapshot {id}")
                    }
                    (AdminRequest::Snapshot, Some(id)) => format!("snapshot {id} {description}"),
                    _ => description,
                },
                snapshot: snapshot.map(|id| id.parse()).transpose()?,
                also,
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
            also: Vec::new(),
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
    pub(super) fn write(self, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let (snapshot, done_by, also) = (self.snapshot, self.done_by, &self.also);
        if json {
            output::json(
                &json!({ "snapshot": snapshot, "done_by": done_by, "also": also }),
                out,
            )?;
        } else {
            writeln!(out, "{}, by {done_by}", self.description)?;
            also.iter().try_for_each(|sentence| writeln!(out, "{sentence}"))?;
        }
        Ok(Exit::Ok)
    }
}

/// The snapshot of an id, with or without leading zeros, of an alias, or of a tag.
pub(super) fn resolve(store: &Store, text: &str) -> anyhow::Result<SnapshotId> {
    if let Ok(number) = text.parse()
        && text.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Ok(SnapshotId::new(number));
    }
    if let Some(alias) = Alias::ALL.into_iter().find(|alias| alias.name() == text) {
        let id = store.alias(alias)?;
        return id
            .ok_or_else(|| anyhow!("no snapshot is called {alias} in {}", store.root().display()))
            .hint("`ouzel snapshot list` shows the snapshots");
    }
    let mut tags = store.tags()?;
    tags.remove(text)
        .ok_or_else(|| anyhow!("`{text}` is not a snapshot id, alias or tag"))
        .hint(
            "give the digits of an id or a tag, as `ouzel snapshot list` shows them, or latest, serving or pinned",
        )
        .exit(Exit::Usage)
}

fn list(store: &Store, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let listed = store.list()?;
    match json {
        true => output::json(&json!({ "snapshots": listed }), out)?,
        false if listed.is_empty() => writeln!(out, "no snapshots in {}", store.root().display())?,
        false => lineage::list(&listed, out)?,
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
    let verdicts = ids
        .into_iter()
        .map(|id| Verdict::of(store, id))
        .collect::<anyhow::Result<Vec<Verdict>>>()?;
    let audit = store.audit()?;
    let ok = verdicts.iter().all(Verdict::is_valid) && audit.broken_at.is_none();
    if json {
        let audit = json!({ "lines": audit.lines.len(), "torn": audit.n_torn, "broken_at": audit.broken_at });
        output::json(&json!({ "ok": ok, "snapshots": verdicts, "audit": audit }), out)?;
    } else {
        text::verify(&verdicts, &audit, out)?;
    }
    Ok(if ok { Exit::Ok } else { Exit::Check })
}

fn gc(state: &StateDir, rules: Retention, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    state.refuse_daemon(
        "it removes old snapshots itself, by the rules of its configuration; `--dry-run` shows what they keep",
    )?;
    let removed = Store::open(&state.dir)?.gc(rules, SystemClock.now_ms())?;
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

fn plan_gc(store: &Store, rules: Retention, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let decisions = store.retention(rules)?;
    match json {
        true => output::json(&json!({ "snapshots": decisions }), out)?,
        false => text::retention(&decisions, out)?,
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests;
