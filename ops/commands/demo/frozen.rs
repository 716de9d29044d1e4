//! Scores the second half of a log with the snapshot from half time, as if learning had stopped there.

use std::collections::HashMap;
use std::sync::Arc;

use ouzel_ingest::{DataDir, Decoder};
use ouzel_learner::Trainer;
use ouzel_learner::validation::{Known, ScoreLog, Scored};
use ouzel_sample::{Event, EventTime, FeatureQuery, FeatureState, Id, ShownSlate, Stream};
use ouzel_snapshot::Snapshot;

use crate::config::Config;
use crate::pipeline::spec::contract_decoder;

/// Scores every impression from `from` on with the weights, counters and histories of `snapshot`. Only the clock
/// advances.
pub(super) fn score(
    snapshot: &Snapshot,
    config: &Config,
    data: &DataDir,
    from: EventTime,
) -> anyhow::Result<ScoreLog> {
    let mut trainer = Trainer::load(snapshot, &config.model_config(), config.learner_config())?;
    let features = FeatureState::load(&snapshot.blob("features.bin")?, config.feature_config())?;
    let decoder = contract_decoder(config)?;
    let clicks = clicks(&decoder, data);
    let window_ms = config.join.tasks.first().map_or(0, |task| task.window.ms());

    let mut shown = Vec::new();
    for record in data.records(Stream::Impressions) {
        let Ok(Event::Impression(impression)) = decoder.decode(&record).event else {
            continue;
        };
        if impression.ts < from {
            continue;
        }
        let (request, candidates) = features.read(&FeatureQuery::of(&impression));
        shown.push(ShownSlate {
            request: Arc::new(request),
            candidates: candidates.into_iter().map(Arc::new).collect(),
        });
    }
    let requests = shown.iter().map(|slate| &*slate.request);
    let candidates = shown
        .iter()
        .flat_map(|slate| slate.candidates.iter().map(|c| &**c));
    let vectors = features.vectors_of(requests, candidates);
    trainer.predict_shown(&shown, &vectors)?;
    let mut log = ScoreLog::default();
    for slate in &shown {
        for candidate in &slate.candidates {
            let clicked = clicks.get(&(slate.request.id, candidate.item));
            log.push(Scored {
                ts: slate.request.ts,
                request: slate.request.id.0,
                logit: candidate.predicted.get(0).unwrap_or(f32::NAN),
                popularity: 0.0,
                label: clicked.is_some_and(|at| at.since_ms(slate.request.ts) <= window_ms),
                known: Known::of(candidate),
            });
        }
    }
    Ok(log)
}

/// The first action of the primary task on each shown item, of those that name their request.
fn clicks(decoder: &Decoder, data: &DataDir) -> HashMap<(Id, Id), EventTime> {
    let mut clicks = HashMap::new();
    for record in data.records(Stream::Actions) {
        if let Ok(Event::Action(action)) = decoder.decode(&record).event
            && action.task == 0
            && let Some(request) = action.request
        {
            let first = clicks.entry((request, action.item)).or_insert(action.ts);
            *first = action.ts.min(*first);
        }
    }
    clicks
}
