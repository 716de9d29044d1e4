//! `ouzel candidate` and `ouzel promote`: a snapshot that scores a share of the traffic beside the served version.

use std::io::Write;

use anyhow::{anyhow, bail};
use ouzel_learner::validation::{Difference, Figures};
use ouzel_sample::UserShare;
use ouzel_serving::Variant;
use ouzel_snapshot::{AuditVerb, SnapshotId, Store};
use serde_json::json;

use super::output;
use super::snapshot::{StateDir, resolve};
use crate::admin::{AdminReply, AdminRequest, Client};
use crate::cli::{CandidateArgs, CandidateStart, CandidateVerb, LearningArgs, Note};
use crate::config::Config;
use crate::error::Exit;
use crate::pipeline::candidate::choice::CandidateChoice;
use crate::pipeline::candidate::{CandidateReport, TaskReport, load_candidate, no_candidate};
use crate::pipeline::schema::check_schema;

/// Starts, shows or stops the candidate.
pub(super) fn run(args: &CandidateArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let state = StateDir::find(&args.state)?;
    match &args.verb {
        CandidateVerb::Start(start) => {
            let (description, request) = start_request(&state, start)?;
            state.change(description, &request)?.write(args.json, out)
        }
        CandidateVerb::Show => show(&state, args.json, out),
        CandidateVerb::Stop(Note { note }) => {
            let request = AdminRequest::CandidateStop { note: note.clone() };
            state
                .change("the candidate has ended".to_owned(), &request)?
                .write(args.json, out)
        }
    }
}

/// Makes the candidate what serves and learns.
pub(super) fn promote(args: &LearningArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let state = StateDir::find(&args.state)?;
    let request = AdminRequest::Promote {
        note: args.note.note.clone(),
    };
    state
        .change(
            "promoted: learning goes on from the candidate".to_owned(),
            &request,
        )?
        .write(args.json, out)
}

fn start_request(state: &StateDir, start: &CandidateStart) -> anyhow::Result<(String, AdminRequest)> {
    let id = resolve(&Store::inspect(&state.dir), &start.id)?;
    let (variant, share) = start.role();
    let description = match variant {
        Variant::Shadow => format!("snapshot {id} scores {share} of the users as a shadow"),
        Variant::Canary => format!("snapshot {id} answers {share} of the users as a canary"),
    };
    let request = AdminRequest::CandidateStart {
        id: id.to_string(),
        variant,
        share,
        note: start.note.note.clone(),
    };
    Ok((description, request))
}

fn show(state: &StateDir, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let Some(mut daemon) = Client::connect(&state.socket)? else {
        let choice = CandidateChoice::read(&Store::inspect(&state.dir))?;
        if json {
            output::json(&json!({ "running": false, "candidate": choice }), out)?;
        } else if let Some(choice) = &choice {
            let (id, variant, share) = (choice.snapshot, choice.variant.name(), choice.share);
            writeln!(
                out,
                "no daemon runs; the next start scores {share} of the users by snapshot {id} as a {variant}"
            )?;
        }
        return match choice {
            Some(_) => Ok(Exit::Ok),
            None => no_candidate(),
        };
    };
    let AdminReply::Status(status) = daemon.send(&AdminRequest::Status)? else {
        bail!("the reply of the running daemon does not fit the request");
    };
    let Some(report) = status.candidate else {
        return no_candidate();
    };
    match json {
        true => output::json(&report, out)?,
        false => write_report(&report, out)?,
    }
    Ok(Exit::Ok)
}

fn write_report(report: &CandidateReport, out: &mut dyn Write) -> anyhow::Result<()> {
    output::table(&rows(report), out)?;
    for TaskReport { task, figures } in &report.tasks {
        writeln!(out)?;
        let row = |name: &str, figures: &Figures| {
            let Figures {
                judged,
                auc,
                gauc,
                log_loss,
                ne,
                calibration,
                ..
            } = figures;
            let values = [auc, gauc, log_loss, ne, calibration].map(|value| output::figure(*value));
            [vec![name.to_owned(), judged.to_string()], values.to_vec()].concat()
        };
        let header = output::row([
            task.as_str(),
            "items",
            "AUC",
            "GAUC",
            "log loss",
            "NE",
            "calibration",
        ]);
        let rows = [
            header,
            row("serving", &figures.serving),
            row("candidate", &figures.candidate),
        ];
        output::table(&rows, out)?;
        if let Some(Difference { mean, low, high }) = figures.difference {
            writeln!(
                out,
                "log loss {mean:+.5} (95 % interval {low:+.5} to {high:+.5}); below 0 the candidate is better"
            )?;
        }
    }
    Ok(())
}

/// The rows of a candidate, also for `ouzel status`.
pub(super) fn rows(report: &CandidateReport) -> Vec<Vec<String>> {
    let CandidateReport {
        snapshot,
        variant,
        share,
        requests,
        ..
    } = report;
    let what = format!("snapshot {snapshot}, {} for {share} of the users", variant.name());
    let mut counts = vec![format!("{} scored", requests.scored)];
    match variant {
        Variant::Shadow => counts.extend([
            format!("{} with the same first item", requests.same_first),
            format!("{} dropped", requests.dropped),
            format!("{} failed", requests.failed),
        ]),
        Variant::Canary => counts.push(format!(
            "{} answered by the served version instead",
            requests.failed
        )),
    }
    let mut rows = vec![("candidate", what), ("requests", counts.join(", "))];
    rows.extend(report.withdrawn.clone().map(|why| ("withdrawn", why)));
    rows.push(("compared", report.summary.clone()));
    rows.into_iter()
        .map(|(name, value)| vec![name.to_owned(), value])
        .collect()
}

/// Lets a snapshot take part from the next start on. Returns what else is to say.
pub(super) fn start_offline(
    store: &Store,
    config: &Config,
    choice: &CandidateChoice,
) -> anyhow::Result<Vec<String>> {
    CandidateChoice::refuse_second(store)?;
    let snapshot = store.read(choice.snapshot)?;
    check_schema(&snapshot, config)?;
    load_candidate(&snapshot, &config.model_config(), config.learner_config())?;
    choice.begin(store)?;
    Ok(vec!["it takes part from the next start on".to_owned()])
}

/// The choice of a request.
pub(super) fn choice(
    id: &str,
    variant: Variant,
    share: UserShare,
    note: &str,
    now_ms: i64,
) -> anyhow::Result<CandidateChoice> {
    Ok(CandidateChoice {
        snapshot: id.parse()?,
        variant,
        share,
        note: note.to_owned(),
        at_ms: now_ms,
    })
}

/// Ends the candidate of a state directory.
pub(super) fn stop_offline(store: &Store, note: &str, now_ms: i64) -> anyhow::Result<()> {
    if CandidateChoice::read(store)?.is_none() {
        return no_candidate();
    }
    CandidateChoice::end(store, note, now_ms)
}

/// Records the promotion of the candidate, which the caller makes the newest snapshot, in the audit log. Returns the
/// candidate and the reason.
pub(super) fn begin_promotion(
    store: &Store,
    note: &str,
    now_ms: i64,
) -> anyhow::Result<(SnapshotId, String)> {
    let Some(choice) = CandidateChoice::read(store)? else {
        return no_candidate();
    };
    let latest = store
        .newest_valid()?
        .snapshot
        .ok_or_else(|| anyhow!("no snapshot in {} can be used", store.root().display()))?;
    let id = choice.snapshot;
    let colon = if note.is_empty() { "" } else { ": " };
    let reason = format!("promoted {id} over {}{colon}{note}", latest.id());
    store.record_action(AuditVerb::Promote, id, &reason, now_ms)?;
    Ok((id, reason))
}
