//! The parts of every long-running process besides its stages: the HTTP port, the metrics page, signals.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use ouzel_serving::events::EventsCall;
use ouzel_serving::{Queue, ServedModel, ServingConfig, http};

use crate::error::ErrorExt;
use crate::supervisor::{Shutdown, Supervisor, Task, UnixSignals};
use crate::telemetry::Metrics;

/// Time between two updates of the gauges.
const GAUGES_EVERY: Duration = Duration::from_millis(500);

/// A bound HTTP port that is not served yet.
pub struct HttpPort {
    runtime: Runtime,
    listener: TcpListener,
    /// The address listened on.
    pub address: SocketAddr,
}

/// What the status routes of a port report.
pub struct ServedState {
    /// Returns the served model.
    pub model: Arc<dyn Fn() -> Option<ServedModel> + Send + Sync>,
    /// Returns the state of the process as a JSON object.
    pub status: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
}

/// The threads of a process, with its shutdown and metrics.
pub struct Process {
    /// Starts the threads.
    pub supervisor: Supervisor,
    /// Stops them.
    pub shutdown: Shutdown,
    metrics: Metrics,
}

impl HttpPort {
    /// Binds `address`; port 0 is any free port.
    pub fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .thread_name("ouzel-http")
            .build()
            .context("cannot start the HTTP runtime")?;
        let listener = match runtime.block_on(http::bind(&address.to_string())) {
            Ok(listener) => listener,
            Err(error) => {
                let hint = error.hint();
                return Err(error).hint(hint);
            }
        };
        let address = listener
            .local_addr()
            .context("cannot read the address listened on")?;
        Ok(Self {
            runtime,
            listener,
            address,
        })
    }
}

impl Process {
    /// A process without threads, stopped by `shutdown`.
    pub fn new(shutdown: &Shutdown, metrics: Metrics) -> Self {
        Self {
            supervisor: Supervisor::new(shutdown.clone()),
            shutdown: shutdown.clone(),
            metrics,
        }
    }

    /// Serves the port until the shutdown. Rank requests go to `queue`; `events` also takes events on this port.
    pub fn serve(
        &mut self,
        port: HttpPort,
        queue: Arc<Queue>,
        state: ServedState,
        events: Option<http::EventsApp>,
        config: ServingConfig,
    ) -> anyhow::Result<()> {
        let recorder = self.metrics.clone();
        let app = http::App {
            queue,
            model: state.model,
            status: state.status,
            metrics: Arc::new(move || recorder.render()),
            events,
            config,
        };
        let shutdown = self.shutdown.clone();
        self.supervisor.spawn(Task::Http, move || {
            let stop = async move { shutdown.triggered().await };
            Ok(port.runtime.block_on(http::serve(port.listener, app, stop))?)
        })
    }

    /// What a port needs to take events, which it sends to `calls`.
    pub fn events_app(&self, calls: SyncSender<EventsCall>, config: &ServingConfig) -> http::EventsApp {
        let recorder = self.metrics.clone();
        http::EventsApp {
            calls,
            metrics: Arc::new(move || recorder.render()),
            config: config.clone(),
        }
    }

    /// Takes events on a port of their own until the shutdown.
    pub fn serve_events(&mut self, port: HttpPort, app: http::EventsApp) -> anyhow::Result<()> {
        let shutdown = self.shutdown.clone();
        self.supervisor.spawn(Task::EventsHttp, move || {
            let stop = async move { shutdown.triggered().await };
            Ok(port
                .runtime
                .block_on(http::serve_events(port.listener, app, stop))?)
        })
    }

    /// Calls `update`, which sets the gauges, at intervals until the shutdown.
    pub fn report(&mut self, update: impl Fn() + Send + 'static) -> anyhow::Result<()> {
        let (shutdown, metrics) = (self.shutdown.clone(), self.metrics.clone());
        self.supervisor.spawn(Task::Telemetry, move || {
            while !shutdown.wait_timeout(GAUGES_EVERY) {
                update();
                metrics.upkeep();
            }
            Ok(())
        })
    }

    /// Triggers the shutdown at the first signal.
    pub fn watch(&mut self, signals: UnixSignals) -> anyhow::Result<()> {
        self.supervisor.spawn(Task::Signals, move || {
            signals.run();
            Ok(())
        })
    }

    /// Waits until every thread has ended. Fails if a failed thread stopped the process.
    pub fn wait(self) -> anyhow::Result<()> {
        self.supervisor.wait().into_result()
    }
}
