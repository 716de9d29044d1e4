//! `--dry-run` of a rollback or a quarantine: how far back, how much to learn again, how long, and whether it can be done.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, bail};
use ouzel_sample::settings::Period;
use ouzel_snapshot::{Alias, Manifest, SnapshotId, Store};
use serde::Serialize;

use super::{StateDir, offline};
use crate::admin::{AdminReply, AdminRequest, Client, LearnFrom};
use crate::commands::output;
use crate::error::Exit;
use crate::pipeline::go_back::snapshot_before;
use crate::pipeline::skip::{by_stream, gap};
use crate::telemetry::clock::{Clock, SystemClock};

/// What a rollback would do.
#[derive(Debug, Serialize)]
struct Forecast {
    /// The snapshot gone back to.
    snapshot: SnapshotId,
    /// The newest snapshot, from which the figures count; a running daemon has learned more.
    newest: SnapshotId,
    /// Event time from `snapshot` to `newest`, ms; absent where `snapshot` is from before the first event.
    event_time_ms: Option<i64>,
    /// Whether the log is read again.
    reads_again: bool,
    /// Records after `snapshot`, by stream.
    records: BTreeMap<String, i64>,
    /// Samples learned after `snapshot`.
    samples: u64,
    /// Time to learn them again at the rate of the running daemon, s.
    seconds: Option<f64>,
    /// What could not be found out, a sentence each.
    notes: Vec<String>,
}

/// Writes what `request` would do. Refuses as the request would.
pub(super) fn write(
    state: &StateDir,
    store: &Store,
    request: &AdminRequest,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let (id, reads_again) = match request {
        AdminRequest::Rollback { id, from, .. } => (Some(id.parse()?), *from == LearnFrom::Rewind),
        AdminRequest::Quarantine { rule, again, .. } => (snapshot_before(store, rule, again)?, true),
        _ => bail!("this command cannot be tried"),
    };
    if let (
        Some(id),
        AdminRequest::Rollback {
            from: LearnFrom::Time(ms),
            ..
        },
    ) = (id, request)
    {
        write_skip(state, store, (id, *ms), json, out)?;
        return Ok(Exit::Ok);
    }
    let Some(id) = id else {
        writeln!(out, "nothing would be read again")?;
        return Ok(Exit::Ok);
    };
    let forecast = forecast(state, store, id, reads_again)?;
    match json {
        true => output::json(&forecast, out)?,
        false => forecast.write(out)?,
    }
    Ok(Exit::Ok)
}

/// Writes what a rollback would skip that continues at a time.
fn write_skip(
    state: &StateDir,
    store: &Store,
    (id, ms): (SnapshotId, i64),
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let kafka = offline::known_log(state.kafka.as_ref())?;
    let gap = gap(&store.read(id)?, kafka, ms, SystemClock.now_ms())?;
    let skipped = by_stream(&gap);
    let ranges: Vec<String> = gap.iter().map(ToString::to_string).collect();
    if json {
        let document = serde_json::json!({ "snapshot": id, "skipped": skipped, "ranges": ranges });
        return output::json(&document, out);
    }
    writeln!(out, "from snapshot {id}, with its join state and features")?;
    for range in ranges {
        writeln!(out, "skips {range}")?;
    }
    let counts: Vec<String> = skipped
        .iter()
        .map(|(stream, n)| format!("{n} {stream}"))
        .collect();
    writeln!(
        out,
        "skips in all: {}; everything later is read and learned",
        counts.join(", ")
    )?;
    writeln!(out, "nothing was changed")?;
    Ok(())
}

fn forecast(state: &StateDir, store: &Store, id: SnapshotId, reads_again: bool) -> anyhow::Result<Forecast> {
    let newest = store.alias(Alias::Latest)?.context("there is no snapshot yet")?;
    let (before, now) = (store.read(id)?, store.read(newest)?);
    let (before, now) = (before.manifest(), now.manifest());
    let mut notes = Vec::new();
    if reads_again {
        notes = offline::note_unchecked_log(store, state.kafka.as_ref(), id)?;
    }
    let samples = now
        .checkpoint
        .sample_seq
        .saturating_sub(before.checkpoint.sample_seq);
    let rate = running_rate(state)?;
    if rate.is_none() && reads_again {
        notes.push("how long that takes is not known: no daemon runs that has learned a batch".to_owned());
    }
    Ok(Forecast {
        snapshot: id,
        newest,
        event_time_ms: now
            .checkpoint
            .event_time_ms
            .checked_sub(before.checkpoint.event_time_ms),
        reads_again,
        records: records_between(before, now),
        samples,
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        seconds: rate.filter(|_| reads_again).map(|rate| samples as f64 / rate),
        notes,
    })
}

/// Samples per second of the running daemon, if one runs and has learned.
fn running_rate(state: &StateDir) -> anyhow::Result<Option<f64>> {
    let Some(mut daemon) = Client::connect(&state.socket)? else {
        return Ok(None);
    };
    match daemon.send(&AdminRequest::Status)? {
        AdminReply::Status(status) => Ok(Some(status.samples_per_second).filter(|rate| *rate > 0.0)),
        _ => Ok(None),
    }
}

/// Records between two snapshots, by stream.
fn records_between(before: &Manifest, now: &Manifest) -> BTreeMap<String, i64> {
    let mut records = BTreeMap::new();
    for (partition, next) in &now.checkpoint.positions {
        let stream = partition.split('[').next().unwrap_or(partition);
        let from = before.checkpoint.positions.get(partition).copied().unwrap_or(0);
        *records.entry(stream.to_owned()).or_default() += next - from;
    }
    records
}

impl Forecast {
    fn write(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let Self {
            snapshot,
            newest,
            samples,
            ..
        } = self;
        let back = match self.event_time_ms {
            Some(ms) => format!("{} of event time", Period::from_ms(ms.max(0) / 1000 * 1000)),
            None => "to before the first event".to_owned(),
        };
        writeln!(out, "from snapshot {newest} back to {snapshot}: {back}")?;
        let records: Vec<String> = self
            .records
            .iter()
            .map(|(stream, n)| format!("{n} {stream}"))
            .collect();
        match self.reads_again {
            true => writeln!(out, "reads again: {}", records.join(", "))?,
            false => writeln!(out, "reads nothing again; skips: {}", records.join(", "))?,
        }
        match (self.reads_again, self.seconds) {
            (false, _) => writeln!(out, "gives up what was learned from {samples} samples")?,
            (true, None) => writeln!(out, "learns {samples} samples again")?,
            (true, Some(seconds)) => {
                writeln!(out, "learns {samples} samples again, in about {seconds:.0} s")?
            }
        }
        self.notes
            .iter()
            .try_for_each(|note| writeln!(out, "note: {note}"))?;
        writeln!(out, "nothing was changed")?;
        Ok(())
    }
}
