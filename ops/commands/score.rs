//! `ouzel score`: ranks requests with a snapshot, without a daemon.
//!
//! Weights and features are those of the snapshot, so the scores are those that the daemon returned at that point.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};

use ouzel_learner::Trainer;
use ouzel_sample::{EventTime, FeatureState};
use ouzel_serving::{Published, RankRequest, RankResponse, Ranker, Scorer, Version};
use ouzel_snapshot::{Alias, Snapshot, Store};

use crate::cli::ScoreArgs;
use crate::commands::data::state_config;
use crate::commands::snapshot::resolve;
use crate::config::Config;
use crate::error::{ErrorExt, Exit};
use crate::pipeline::contents::Contents;
use crate::pipeline::promoted::UsedConfig;
use crate::pipeline::resume::restore_vectors;

/// Runs the command.
pub(super) fn run(args: &ScoreArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let config = state_config(&args.state)?;
    let store = Store::inspect(&config.snapshot.dir);
    let snapshot = find(&store, args.snapshot.as_deref())?;
    let mut scorer = scorer(&snapshot, &config)?;
    let input: Box<dyn BufRead> = if args.requests == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let file =
            File::open(&args.requests).with_context(|| format!("cannot read {}", args.requests.display()))?;
        Box::new(BufReader::new(file))
    };
    for (number, line) in (1..).zip(input.lines()) {
        let line = line.with_context(|| format!("cannot read {}", args.requests.display()))?;
        if line.trim().is_empty() {
            continue;
        }
        let place = || format!("{}:{number}", args.requests.display());
        let request: RankRequest = serde_json::from_str(&line).with_context(place)?;
        let request_id = request.request_id.clone();
        let request = request.check(config.serving.max_candidates).with_context(place)?;
        let ranked = scorer.rank(&request).with_context(place)?;
        let response = RankResponse::new(&request, &ranked, request_id);
        serde_json::to_writer(&mut *out, &response)?;
        writeln!(out)?;
    }
    Ok(Exit::Ok)
}

/// The named snapshot, or the pinned one, or the latest.
fn find(store: &Store, name: Option<&str>) -> anyhow::Result<Snapshot> {
    let id = match name {
        Some(name) => Some(resolve(store, name)?),
        None => match store.alias(Alias::Pinned)? {
            Some(id) => Some(id),
            None => store.alias(Alias::Latest)?,
        },
    };
    let id = id
        .ok_or_else(|| anyhow!("there is no snapshot in {}", store.root().display()))
        .hint("name the state directory with --state, or run a daemon, which writes one")?;
    Ok(store.read(id)?)
}

fn scorer(snapshot: &Snapshot, config: &Config) -> anyhow::Result<Scorer> {
    let id = snapshot.id();
    let config = &UsedConfig::of(config, snapshot)?.config;
    let mut trainer = Trainer::load(snapshot, &config.model_config(), config.learner_config())
        .hint("name the configuration of the daemon with --config")?;
    let features = FeatureState::load(&snapshot.blob("features.bin")?, config.feature_config())
        .with_context(|| format!("cannot load snapshot {id}"))?;
    if !features.vectors().missing().is_empty()
        && let Some(contents) = Contents::open(config)?
    {
        restore_vectors(&contents, &features)?;
    }
    let published = Arc::new(Published::new());
    published.publish(Arc::new(Version::new(&id.to_string(), trainer.weights()?)?));
    let now = EventTime(snapshot.manifest().checkpoint.event_time_ms.saturating_add(1));
    let device = config.learner_config().device()?;
    let features = Arc::new(features);
    Ok(Scorer::new(
        published,
        Arc::new(move || Arc::clone(&features)),
        config.id_space(),
        Arc::new(move || now),
        device,
        config.score_expression()?,
    ))
}
