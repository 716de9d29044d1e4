//! An in-process server on a free loopback port, with worker threads and a fake model.

use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ouzel_sample::settings::Period;
use ouzel_serving::client::RankClient;
use ouzel_serving::http::{App, bind, serve};
use ouzel_serving::{
    CheckedRequest, LoadedVersion, Published, Queue, RankError, RankRequest, Ranked, Ranker, ServedModel,
    ServingConfig, run_worker,
};
use tokio::sync::oneshot;

/// A version with scores that a test can compute from its seed.
pub(crate) struct Version {
    pub(crate) seed: u64,
    on_drop: Option<Box<dyn Fn() + Send + Sync>>,
}

impl Version {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { seed, on_drop: None })
    }

    pub(crate) fn with_drop(seed: u64, on_drop: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            seed,
            on_drop: Some(Box::new(on_drop)),
        })
    }

    /// The score of an item: in `[0, 1)`, different for nearly every pair of version and item.
    pub(crate) fn score(seed: u64, item: &str) -> f32 {
        let hash = item.bytes().fold(seed.wrapping_mul(0x9e37_79b9), |hash, byte| {
            (hash ^ u64::from(byte))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29)
        });
        f32::from(u16::try_from(hash >> 48).unwrap()) / 65_536.0
    }
}

impl Drop for Version {
    fn drop(&mut self) {
        if let Some(on_drop) = &self.on_drop {
            on_drop();
        }
    }
}

/// Keeps its version between requests, as the production scorer keeps its tensors.
struct FakeRanker {
    published: Arc<Published<Version>>,
    held: Option<LoadedVersion<Version>>,
}

impl Ranker for FakeRanker {
    fn rank(&mut self, request: &CheckedRequest) -> Result<Ranked, RankError> {
        self.refresh();
        let held = self.held.as_ref().ok_or(RankError::NotReady)?;
        let scores: Vec<f32> = request
            .items
            .iter()
            .map(|item| match item.as_str() {
                "nan" => f32::NAN,
                tied if tied.starts_with("tie") => 0.5,
                item => {
                    std::thread::yield_now();
                    Version::score(held.value.seed, item)
                }
            })
            .collect();
        if request.items[0] == "panic" {
            panic!("the request asks the fake model to panic");
        }
        let probabilities = scores.iter().flat_map(|score| [*score, score / 2.0]).collect();
        Ok(Ranked {
            version: held.version,
            snapshot: format!("snapshot-{}", held.value.seed).into(),
            tasks: Arc::from([Arc::from("click"), Arc::from("order")]),
            scores,
            probabilities,
            ..Ranked::default()
        })
    }

    fn refresh(&mut self) {
        let version = self.held.as_ref().map_or(0, |held| held.version);
        if let Some(newer) = self.published.load_if_newer(version) {
            self.held = Some(newer);
        }
    }
}

/// Blocks in every request: signals its start on `entered`, then waits for a message on `go_on`.
pub(crate) struct GatedRanker {
    pub(crate) entered: mpsc::Sender<()>,
    pub(crate) go_on: mpsc::Receiver<()>,
}

impl Ranker for GatedRanker {
    fn rank(&mut self, request: &CheckedRequest) -> Result<Ranked, RankError> {
        self.entered.send(()).ok();
        self.go_on.recv().ok();
        Ok(Ranked {
            version: 1,
            snapshot: "gated".into(),
            scores: vec![0.5; request.items.len()],
            ..Ranked::default()
        })
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) published: Arc<Published<Version>>,
    pub(crate) queue: Arc<Queue>,
    stop: Option<oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts two fake workers without a version, and with a deadline that no test reaches.
    pub(crate) fn start() -> Self {
        Self::start_with(
            ServingConfig {
                deadline: Period::from_secs(60),
                ..ServingConfig::default()
            },
            2,
        )
    }

    pub(crate) fn start_with(config: ServingConfig, n_workers: usize) -> Self {
        let published = Arc::new(Published::new());
        let rankers = (0..n_workers)
            .map(|_| {
                Box::new(FakeRanker {
                    published: Arc::clone(&published),
                    held: None,
                }) as Box<dyn Ranker>
            })
            .collect();
        Self::start_rankers(config, published, rankers)
    }

    /// Starts one [`GatedRanker`] with a published version, so that the server is ready.
    pub(crate) fn start_gated(config: ServingConfig) -> (Self, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let (entered, has_entered) = mpsc::channel();
        let (open, go_on) = mpsc::channel();
        let published = Arc::new(Published::new());
        published.publish(Version::new(1));
        let server = Self::start_rankers(config, published, vec![Box::new(GatedRanker { entered, go_on })]);
        (server, has_entered, open)
    }

    fn start_rankers(
        config: ServingConfig,
        published: Arc<Published<Version>>,
        rankers: Vec<Box<dyn Ranker>>,
    ) -> Self {
        let n_workers = rankers.len();
        let queue = Arc::new(Queue::new(config.queue_capacity));
        let mut threads: Vec<_> = rankers
            .into_iter()
            .map(|mut ranker| {
                let queue = Arc::clone(&queue);
                thread(move || run_worker(&queue, &mut ranker))
            })
            .collect();
        let probe = Arc::clone(&published);
        let app = App {
            queue: Arc::clone(&queue),
            model: Arc::new(move || {
                let LoadedVersion { version, value } = probe.load()?;
                let tasks = Arc::from([Arc::from("click"), Arc::from("order")]);
                Some(ServedModel {
                    version,
                    snapshot: format!("snapshot-{}", value.seed).into(),
                    tasks,
                })
            }),
            status: Arc::new(|| serde_json::json!({ "learning": "running" })),
            metrics: Arc::new(|| "ouzel_test_metric 1\n".to_owned()),
            events: None,
            config,
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let (bound, address) = mpsc::channel();
        threads.push(thread(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = bind("127.0.0.1:0").await.unwrap();
                bound.send(listener.local_addr().unwrap()).unwrap();
                serve(listener, app, async { stopped.await.unwrap_or(()) })
                    .await
                    .unwrap();
            });
        }));
        let address = address.recv().unwrap();
        eventually("the workers run", || queue.n_workers() == n_workers);
        Self {
            address,
            published,
            queue,
            stop: Some(stop),
            threads,
        }
    }

    pub(crate) fn client(&self) -> RankClient {
        RankClient::connect(self.address).unwrap()
    }

    /// Signals shutdown and returns without waiting for it.
    pub(crate) fn begin_stop(&mut self) {
        self.stop.take().map(|stop| stop.send(()).ok());
    }

    /// Waits until the server and every worker have ended; a panic in one fails the test.
    pub(crate) fn join(mut self) {
        self.begin_stop();
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.begin_stop();
    }
}

pub(crate) fn thread(body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().spawn(body).unwrap()
}

pub(crate) fn request(items: &[&str]) -> RankRequest {
    RankRequest {
        user_id: "u1".to_owned(),
        items: items.iter().map(|&item| item.to_owned().into()).collect(),
        ..RankRequest::default()
    }
}

/// Polls until `holds`, at most a minute.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < give_up, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
