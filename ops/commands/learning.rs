//! `ouzel status`, `pause` and `resume`: whether a daemon learns, and what it serves.

use std::io::Write;

use anyhow::anyhow;
use ouzel_sample::settings::Period;
use ouzel_snapshot::Store;
use serde_json::json;

use super::snapshot::StateDir;
use super::{candidate, output};
use crate::admin::{AdminReply, AdminRequest, Client, Status};
use crate::cli::{LearningArgs, StatusArgs};
use crate::error::{ErrorExt, Exit};
use crate::pipeline::pause::Pause;
use crate::pipeline::remote::RemoteReport;

/// Pauses learning, or goes on: by a running daemon, or for the next start.
pub(super) fn run(args: &LearningArgs, request: &AdminRequest, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let state = StateDir::find(&args.state)?;
    let description = match request {
        AdminRequest::Pause { .. } => "learning is paused; serving goes on, and Kafka keeps what is not read",
        _ => "learning goes on",
    };
    state
        .change(description.to_owned(), request)?
        .write(args.json, out)
}

/// Prints what a daemon serves and whether it learns; exit code 3 if it does not learn or holds a version back.
pub(super) fn status(args: &StatusArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let state = StateDir::find(&args.state)?;
    let Some(mut daemon) = Client::connect(&state.socket)? else {
        return without_daemon(&state, args.json, out);
    };
    let AdminReply::Status(status) = daemon.send(&AdminRequest::Status)? else {
        return Err(anyhow!(
            "the reply of the running daemon does not fit the request"
        ));
    };
    match args.json {
        true => output::json(&status, out)?,
        false => output::table(&rows(&status), out)?,
    }
    let is_well =
        status.learning == "running" && status.not_learning.is_none() && status.gates.held.is_none();
    Ok(if is_well { Exit::Ok } else { Exit::Check })
}

fn without_daemon(state: &StateDir, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let paused = Pause::read(&state.dir)?;
    if json {
        let latest = Store::inspect(&state.dir).alias(ouzel_snapshot::Alias::Latest)?;
        output::json(
            &json!({ "running": false, "latest": latest, "paused": paused }),
            out,
        )?;
    } else if let Some(Pause { note, .. }) = &paused {
        writeln!(out, "paused: the next start serves and does not learn ({note})")?;
    }
    Err(anyhow!("no daemon runs on {}", state.dir.display()))
        .hint("start one with `ouzel daemon`, or name its state directory with --config or --state")
}

/// Where event time is, and what it waits for.
fn times(status: &Status) -> Vec<(&'static str, String)> {
    let shown = |ms: Option<i64>| ms.map_or("none yet".to_owned(), output::time);
    let mut rows = vec![("event time", shown(status.event_time_ms))];
    let behind = match (status.event_time_ms, status.watermark_ms) {
        (Some(newest), Some(watermark)) => {
            format!(
                ", {} behind",
                Period::from_ms(newest.saturating_sub(watermark).max(0))
            )
        }
        _ => String::new(),
    };
    rows.push(("watermark", shown(status.watermark_ms) + &behind));
    rows.extend(status.watermark_held_by.as_ref().map(|held| {
        let newest = held.event_time_ms.map_or("no event yet".to_owned(), output::time);
        ("held by", format!("{}: {newest}", held.partition))
    }));
    rows
}

fn rows(status: &Status) -> Vec<Vec<String>> {
    let named = |id: &Option<String>| id.clone().unwrap_or_else(|| "none".to_owned());
    let why = status.stopped_because.as_ref().or(status.not_learning.as_ref());
    let learning = match why {
        Some(why) => format!("{}: {why}", status.learning),
        None => status.learning.clone(),
    };
    let mut rows = vec![
        ("version", status.version.clone()),
        ("process", status.pid.to_string()),
        ("uptime", format!("{} s", status.uptime_seconds)),
        ("role", role(status)),
        ("serving", named(&status.serving)),
        ("latest", named(&status.latest)),
        ("pinned", named(&status.pinned)),
        ("learning", learning),
    ];
    rows.extend(status.remote.as_ref().map(|copy| ("remote", remote(copy))));
    rows.extend(status.gates.held.clone().map(|why| ("held", why)));
    rows.extend(
        status
            .gates
            .last_breach
            .clone()
            .map(|breach| ("last breach", breach)),
    );
    rows.extend(times(status));
    rows.extend([
        ("events", status.events.to_string()),
        ("rejected", status.rejected.to_string()),
        ("not needed", status.unneeded.to_string()),
        ("samples", status.samples.to_string()),
        ("batches", status.batches.to_string()),
        ("pending", status.pending.to_string()),
    ]);
    let rows = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]);
    let candidate = status.candidate.iter().flat_map(candidate::rows);
    rows.chain(candidate).collect()
}

/// The newest snapshot of the remote copy, and why nothing newer can be sent.
fn remote(copy: &RemoteReport) -> String {
    let newest = match (&copy.newest, copy.newest_ms) {
        (Some(id), Some(ms)) => format!("{}, snapshot {id} of {}", copy.url, output::time(ms)),
        _ => format!("{}, no snapshot yet", copy.url),
    };
    match &copy.failing {
        Some(why) => format!("{newest}; behind: {why}"),
        None => newest,
    }
}

/// Whether a daemon writes to its state directory or follows the one that does.
fn role(status: &Status) -> String {
    match status.epoch {
        Some(epoch) => format!("{}, epoch {epoch}", status.role),
        None => format!("{}, {} batches behind", status.role, status.behind),
    }
}
