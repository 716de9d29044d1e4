//! `ouzel demo`: learns a data folder live and serves the model, without a broker to set up.
//!
//! It runs the pipeline of a daemon on the mock broker of librdkafka, inside the process. A feeder writes the log, and a
//! caller sends rank requests.

mod caller;
mod feeder;
mod frozen;
mod summary;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};

use ouzel_ingest::{DataDir, DeadLetters, EmbeddedBroker, KafkaConfig, KafkaSource};
use ouzel_sample::{EventTime, Stream};

use crate::cli::DemoArgs;
use crate::commands::data::{JoinFigures, open_data, seed_histories, temporary_dir};
use crate::commands::streams::{Sources, StreamReport};
use crate::config::{Config, Period};
use crate::error::{ErrorExt, Exit};
use crate::pipeline::learner::SharedScores;
use crate::pipeline::lock;
use crate::pipeline::spec::{PipelineSpec, contract_decoder};
use crate::pipeline::threads::{self, Running};
use crate::supervisor::{Shutdown, Task, UnixSignals, Waited};
use crate::telemetry::clock::SystemClock;
use crate::telemetry::progress::{Figures, Progress, Style};
use crate::telemetry::{self, Metrics, float, seconds};
use caller::{Calls, quantile};
use feeder::Feed;
use summary::Summary;

/// Where `make data` puts MovieLens-100K.
const MOVIELENS: &str = ".data/movielens100k";
/// The script that downloads it and its module, for a binary that runs without make.
const SCRIPTS: [(&str, &str); 2] = [
    ("wheels.py", include_str!("../setup/wheels.py")),
    ("movielens.py", include_str!("../setup/movielens.py")),
];
/// Time between two updates of the progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Runs the command.
pub(super) fn run(args: &DemoArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let path = match &args.data {
        Some(path) => path.clone(),
        None => movielens()?,
    };
    let mut config = settings(args)?;
    telemetry::init_logs(&config.log)?;
    let data = Arc::new(open_data(&path, &config, false, &mut DeadLetters::discard())?);
    if data.summary().n_requests == 0 {
        let account = data.accounts().of(Stream::Impressions);
        let first = account
            .rejected
            .values()
            .map(|rejected| rejected.first.as_str())
            .next()
            .unwrap_or_default();
        bail!("no impression of {} can be used: {first}", path.display());
    }
    if data.accounts().of(Stream::Users).used > 0 {
        Stream::Users.name().clone_into(&mut config.kafka.topics.users);
    }
    let broker = EmbeddedBroker::start(1, &config.topics().all())?;
    let kafka = kafka(&broker, &config)?;
    let shutdown = Shutdown::new();
    let signals = UnixSignals::install(shutdown.clone())?;
    let scores = SharedScores::default();
    let ends = feeder::ends(&data);
    let spec = PipelineSpec {
        config: &config,
        open_source: Box::new(|from| {
            if !from.is_empty() {
                bail!(
                    "{} holds the state of an earlier run, and the broker of a demo starts empty: give another --state",
                    config.snapshot.dir.display()
                );
            }
            Ok(Box::new(KafkaSource::open(&kafka, from, Some(&ends))?))
        }),
        decoder: contract_decoder(&config)?,
        dead_letters: DeadLetters::kafka(&kafka)?,
        late: None,
        seed: Box::new(|features| seed_histories(features, &config, &data)),
        accept_loss: None,
        scores: Some(Arc::clone(&scores)),
    };
    let state = threads::open_store(&config, false)?;
    let mut running = threads::start(
        spec,
        state,
        None,
        Arc::new(SystemClock),
        Metrics::install()?,
        &shutdown,
    )?;
    running.process.watch(signals)?;
    running.refuse_restarts();
    let demo = Demo::start(&data, &kafka, &mut running)?;
    let mut progress = Progress::new(
        "events",
        u64::try_from(data.events().len()).ok(),
        Style::detect(args.json),
    );
    let address = running.address;
    progress.note(&format!(
        "learning {} and serving on http://{address}",
        path.display()
    ));
    let is_stopped = demo.follow(&mut running, progress);
    let wall_seconds = demo.started.elapsed().as_secs_f64();
    demo.stop_calling.trigger();
    if is_stopped {
        running.process.wait()?;
        bail!("stopped before the whole log was learned");
    }
    let summary = demo.summary(&path, &config, &running, &scores, wall_seconds)?;
    if args.json {
        writeln!(out, "{}", summary.json())?;
    } else {
        summary.write(out)?;
    }
    out.flush()?;
    if args.keep_serving {
        writeln!(
            out,
            "\nserving on http://{address} until a signal; try:\n  curl -s http://{address}/v1/rank -d '{}'",
            example(&data)
        )?;
        out.flush()?;
        while !shutdown.wait_timeout(Duration::from_secs(3600)) {}
    }
    shutdown.trigger();
    running.process.wait()?;
    Ok(Exit::Ok)
}

/// A running demo.
struct Demo {
    data: Arc<DataDir>,
    feed: Arc<Feed>,
    calls: Arc<Calls>,
    stop_calling: Shutdown,
    started: Instant,
}

impl Demo {
    /// Starts the feeder and the caller.
    fn start(data: &Arc<DataDir>, kafka: &KafkaConfig, running: &mut Running<'_>) -> anyhow::Result<Self> {
        let demo = Self {
            data: Arc::clone(data),
            feed: Arc::new(Feed::connect(kafka, running)?),
            calls: Arc::new(Calls::default()),
            stop_calling: Shutdown::new(),
            started: Instant::now(),
        };
        let supervisor = &mut running.process.supervisor;
        let (events, feed) = (Arc::clone(data), Arc::clone(&demo.feed));
        let stop = running.process.shutdown.clone();
        supervisor.spawn(Task::Feeder, move || feed.run(&events, &SystemClock, &stop))?;
        let (events, calls, address) = (Arc::clone(data), Arc::clone(&demo.calls), running.address);
        let stop = demo.stop_calling.clone();
        supervisor.spawn(Task::Caller, move || caller::run(address, &events, &calls, &stop))?;
        Ok(demo)
    }

    /// Shows progress until the log is learned. Returns true if the demo was stopped before.
    fn follow(&self, running: &mut Running<'_>, mut progress: Progress) -> bool {
        let pipeline = [
            Task::Feeder,
            Task::Poll,
            Task::Join,
            Task::Learner,
            Task::Snapshot,
        ];
        let n_events = |running: &Running<'_>| running.run.get().status.events.load(Ordering::Relaxed);
        let mut waited = Waited::TimedOut;
        while waited == Waited::TimedOut {
            progress.update(n_events(running), &self.figures(running));
            waited = running.process.supervisor.wait_for(&pipeline, PROGRESS_EVERY);
        }
        progress.finish(n_events(running), &self.figures(running));
        waited == Waited::Stopping
    }

    fn figures(&self, running: &Running<'_>) -> Figures {
        let run = running.run.get();
        let status = &run.status;
        let samples = status.samples.load(Ordering::Relaxed);
        let freshness = status.freshness_ms();
        let newest = &freshness[freshness.len().saturating_sub(2000)..];
        let mut newest: Vec<f64> = newest.iter().map(|ms| seconds(*ms)).collect();
        let window = status.window();
        Figures {
            samples,
            samples_per_second: Some(float(samples) / self.started.elapsed().as_secs_f64()),
            auc: window.auc,
            ne: window.ne,
            freshness_seconds: quantile(&mut newest, 0.5),
            snapshots: Some(run.control.snapshots().len() as u64),
            requests: Some(self.calls.figures().requests),
        }
    }

    fn summary(
        &self,
        path: &Path,
        config: &Config,
        running: &Running<'_>,
        scores: &SharedScores,
        wall_seconds: f64,
    ) -> anyhow::Result<Summary> {
        let log = std::mem::take(&mut *lock(scores));
        let run = running.run.get();
        let half = self
            .feed
            .half_time_snapshot()
            .context("the log has no second half: all its impressions have the same time")?;
        let middle = EventTime(self.data.summary().mid_ts);
        let frozen = frozen::score(&running.store.read(half)?, config, &self.data, middle)?;
        let freshness = run.status.freshness_ms();
        let mut freshness: Vec<f64> = freshness.iter().map(|ms| seconds(*ms)).collect();
        let snapshots = run.control.snapshots();
        Ok(Summary {
            data: path
                .file_name()
                .unwrap_or(path.as_os_str())
                .to_string_lossy()
                .into_owned(),
            join: JoinFigures::new(&run.status.counters()),
            streams: StreamReport::new(&Sources {
                config,
                accounts: self.data.accounts(),
                counters: &run.status.counters(),
                items: run.status.item_counts(),
                users: run.status.user_counts(),
                histories: Some(self.data.history_account()),
                immediate: None,
            })?,
            n_samples: run.status.samples.load(Ordering::Relaxed),
            all: log.figures(EventTime::MIN),
            second_half: log.figures(middle),
            frozen: frozen.figures(middle),
            popularity: log.popularity(EventTime::MIN),
            popularity_half: log.popularity(middle),
            freshness: (quantile(&mut freshness, 0.5), quantile(&mut freshness, 0.99)),
            snapshots: snapshots.iter().map(ToString::to_string).collect(),
            calls: self.calls.figures(),
            wall_seconds,
            state: config.snapshot.dir.clone(),
        })
    }
}

/// The default configuration with the changes for a demo on one machine.
fn settings(args: &DemoArgs) -> anyhow::Result<Config> {
    let mut config = Config::default();
    config.serving.listen = args
        .listen
        .unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    // A recorded log may have pauses of hours, and its times are as true as they will be.
    config.join.max_time_jump = Period::TEN_YEARS;
    // One machine runs broker, feeder, caller and pipeline, so scoring may be slow.
    config.serving.deadline = Period::from_secs(2);
    // Slates of one item without content give the blocks over history little to learn from.
    config.optimizer.block_rate = 3e-4;
    config.snapshot.every = Period::from_secs(0);
    config.snapshot.every_batches = 200;
    config.snapshot.keep = 100;
    config.log.level = "warn".to_owned();
    config.snapshot.dir = match &args.state {
        Some(state) => state.clone(),
        None => temporary_dir("demo")?,
    };
    Ok(config)
}

fn kafka(broker: &EmbeddedBroker, config: &Config) -> anyhow::Result<KafkaConfig> {
    Ok(KafkaConfig {
        bootstrap: broker.bootstrap()?,
        topics: config.topics(),
        is_whole_log_expected: true,
        streams: config.topics().events(),
        // A real broker answers a waiting fetch when a record arrives; the embedded broker answers when the wait ends.
        properties: BTreeMap::from([("fetch.wait.max.ms".to_owned(), "10".to_owned())]),
        ..KafkaConfig::default()
    })
}

/// The folder of MovieLens-100K, which is downloaded if it does not exist.
fn movielens() -> anyhow::Result<PathBuf> {
    let path = PathBuf::from(MOVIELENS);
    if path.join("impressions.jsonl.gz").is_file() {
        return Ok(path);
    }
    let folder = temporary_dir("demo")?;
    for (name, text) in SCRIPTS {
        let script = folder.join(name);
        std::fs::write(&script, text).with_context(|| format!("cannot write {}", script.display()))?;
    }
    let status = Command::new("python3")
        .arg(folder.join("movielens.py"))
        .arg(&path)
        .stdout(Stdio::null())
        .status()
        .context("cannot run python3")
        .hint("the data of the demo is downloaded with pip; or name a folder of your own with --data DIR")?;
    if !status.success() {
        return Err(anyhow!("cannot download MovieLens-100K into {}", path.display()))
            .hint("name a folder of your own with --data DIR");
    }
    Ok(path)
}

fn example(data: &DataDir) -> String {
    let items = data.events().iter().filter(|event| event.stream == Stream::Items);
    let items: Vec<&str> = items.take(3).map(|event| event.key.as_str()).collect();
    serde_json::json!({ "user_id": "1", "items": items }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_data_folder_is_named() {
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
