//! `ouzel candidate` and `ouzel promote`: a snapshot, or a second learner, that scores a share of the traffic beside the
//! served version.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
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
use crate::error::{ErrorExt, Exit};
use crate::pipeline::candidate::choice::CandidateChoice;
use crate::pipeline::candidate::{CandidateReport, TaskReport, load_candidate, no_candidate};
use crate::pipeline::promoted::UsedConfig;
use crate::pipeline::schema::check_schema;
use crate::pipeline::second::SecondReport;
use crate::pipeline::second::states::remove_states;

/// Largest file of settings: it travels in one line of the admin socket.
const MAX_SETTINGS_BYTES: usize = 32 * 1024;

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
    let store = Store::inspect(&state.dir);
    let (variant, share) = start.role();
    let describe = |subject: &str| match variant {
        Variant::Shadow => format!("{subject} scores {share} of the users as a shadow"),
        Variant::Canary => format!("{subject} answers {share} of the users as a canary"),
    };
    let Some(id) = &start.id else {
        let path = start
            .learn
            .as_ref()
            .context("name a snapshot, or the file of a second learner with --learn")?;
        let file = path.display().to_string();
        let from = start.from.as_deref().map(|id| resolve(&store, id)).transpose()?;
        let request = AdminRequest::CandidateLearn {
            settings: read_settings(path)?,
            file,
            from: from.map(|id| id.to_string()),
            variant,
            share,
            note: start.note.note.clone(),
        };
        return Ok((describe("the second learner"), request));
    };
    let id = resolve(&store, id)?;
    let description = describe(&format!("snapshot {id}"));
    let request = AdminRequest::CandidateStart {
        id: id.to_string(),
        variant,
        share,
        note: start.note.note.clone(),
    };
    Ok((description, request))
}

/// Reads the settings of a second learner.
fn read_settings(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path)
        .with_context(|| {
            format!(
                "cannot read the settings of the second learner, {}",
                path.display()
            )
        })
        .exit(Exit::Usage)?;
    if text.len() > MAX_SETTINGS_BYTES {
        return Err(anyhow!(
            "{} has {} bytes, more than {MAX_SETTINGS_BYTES}",
            path.display(),
            text.len()
        ))
        .hint("state only what differs from the configuration of the daemon")
        .exit(Exit::Usage);
    }
    Ok(text)
}

fn show(state: &StateDir, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let Some(mut daemon) = Client::connect(&state.socket)? else {
        let choice = CandidateChoice::read(&Store::inspect(&state.dir))?;
        if json {
            output::json(&json!({ "running": false, "candidate": choice }), out)?;
        } else if let Some(choice) = &choice {
            let (subject, variant, share) = (choice.subject(), choice.variant.name(), choice.share);
            writeln!(
                out,
                "no daemon runs; the next start scores {share} of the users by {subject} as a {variant}"
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
        let differences = [
            ("log loss", figures.difference, "below"),
            ("AUC", figures.auc_difference, "above"),
            ("GAUC", figures.gauc_difference, "above"),
        ];
        for (name, difference, better) in differences {
            if let Some(Difference { mean, low, high }) = difference {
                writeln!(
                    out,
                    "{name} {mean:+.5} (95 % interval {low:+.5} to {high:+.5}); {better} 0 the candidate is better"
                )?;
            }
        }
    }
    Ok(())
}

/// The rows of a candidate, also for `ouzel status`.
pub(super) fn rows(report: &CandidateReport) -> Vec<Vec<String>> {
    let CandidateReport {
        snapshot,
        learner,
        variant,
        share,
        requests,
        ..
    } = report;
    let subject = match (learner, snapshot) {
        (None, Some(snapshot)) => format!("snapshot {snapshot}"),
        (_, None) => "a second learner".to_owned(),
        (_, Some(snapshot)) => format!("a second learner that started from snapshot {snapshot}"),
    };
    let what = format!("{subject}, {} for {share} of the users", variant.name());
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
    let mut rows = vec![("candidate", what)];
    if let Some(SecondReport {
        settings,
        batches,
        behind,
        skipped,
        memory,
    }) = learner
    {
        let settings = match settings.is_empty() {
            true => "those of the serving learner".to_owned(),
            false => settings.clone(),
        };
        let learned = format!("up to batch {batches}, {behind} behind, {skipped} skipped; {memory}");
        rows.extend([("settings", settings), ("learned", learned)]);
    }
    rows.push(("requests", counts.join(", ")));
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
    let id = choice.fixed().context("the candidate names no snapshot")?;
    let snapshot = store.read(id)?;
    let config = &UsedConfig::of(config, &snapshot)?.config;
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
        snapshot: Some(id.parse()?),
        learns: None,
        variant,
        share,
        note: note.to_owned(),
        at_ms: now_ms,
    })
}

/// Ends the candidate of a state directory.
pub(super) fn stop_offline(store: &Store, config: &Config, note: &str, now_ms: i64) -> anyhow::Result<()> {
    if CandidateChoice::read(store)?.is_none() {
        return no_candidate();
    }
    CandidateChoice::end(store, note, now_ms)?;
    remove_states(config.local_dir())
}

/// Refuses a second learner without a daemon.
pub(super) fn refuse_learner<T>() -> anyhow::Result<T> {
    Err(anyhow!(
        "no daemon runs: a second learner starts with the batch that a running daemon learns next"
    ))
    .hint("start the daemon and repeat this command")
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
    let id = choice.fixed().context("a second learner is no snapshot")?;
    let colon = if note.is_empty() { "" } else { ": " };
    let reason = format!("promoted {id} over {}{colon}{note}", latest.id());
    store.record_action(AuditVerb::Promote, id, &reason, now_ms)?;
    Ok((id, reason))
}
