//! Starts all threads of the process and handles their ends.
//!
//! [`Task::policy`] is the table of what the end and the error of each task mean. Only poll and the listeners react to
//! the [`Shutdown`] token; every other task ends when its input closes. [`Supervisor::wait`] returns when all tasks
//! have ended.

mod shutdown;
mod task;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use tracing::{error, info, warn};

pub use shutdown::{Shutdown, UnixSignals};
pub use task::{OnEnd, OnError, Task};

/// Time between two log lines about a long drain.
const DRAIN_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Time between two looks at the shutdown token, which no channel announces.
const SHUTDOWN_POLL: Duration = Duration::from_millis(50);

/// Owns the threads of the process.
#[derive(Debug)]
pub struct Supervisor {
    shutdown: Shutdown,
    running: BTreeMap<Task, JoinHandle<anyhow::Result<()>>>,
    failures: Vec<TaskFailure>,
    /// Index of the failure that stops the process.
    fatal: Option<usize>,
    ends: (Sender<Task>, Receiver<Task>),
    last: Shutdown,
}

/// A task that failed.
#[derive(Debug)]
pub struct TaskFailure {
    /// The task.
    pub task: Task,
    /// Its error or panic, or that it ended too early.
    pub error: anyhow::Error,
}

/// The result of [`Supervisor::wait_for`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// All the tasks have ended.
    Ended,
    /// The time limit has passed.
    TimedOut,
    /// The shutdown was triggered, by a failure or from outside.
    Stopping,
}

/// How the process ended.
#[derive(Debug)]
pub struct ProcessOutcome {
    /// The failure that stopped the process.
    pub fatal: Option<TaskFailure>,
    /// All other failures in order of time. Later ones than the fatal failure follow from it.
    pub others: Vec<TaskFailure>,
    /// The Unix signal that triggered the shutdown.
    pub signal: Option<i32>,
}

impl ProcessOutcome {
    /// Returns the fatal failure as an error.
    pub fn into_result(self) -> anyhow::Result<()> {
        match self.fatal {
            None => Ok(()),
            Some(TaskFailure { task, error }) => Err(error.context(format!("the {task} task failed"))),
        }
    }
}

/// Reports the end of a task when it is dropped, even by a panic.
struct EndReport {
    task: Task,
    ends: Sender<Task>,
}

impl Drop for EndReport {
    fn drop(&mut self) {
        // Only a test drops the supervisor, which receives, before its tasks end.
        let _is_received = self.ends.send(self.task).is_ok();
    }
}

impl Supervisor {
    /// A supervisor without tasks. It triggers `shutdown` when a failure stops the process.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        Self {
            shutdown,
            running: BTreeMap::new(),
            failures: Vec::new(),
            fatal: None,
            ends: mpsc::channel(),
            last: Shutdown::new(),
        }
    }

    /// The token that stops the process.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// The token that stops the tasks that end after all others. [`Supervisor::wait`] triggers it.
    #[must_use]
    pub fn last(&self) -> &Shutdown {
        &self.last
    }

    /// Starts `task` on a new thread. A task runs once at a time.
    pub fn spawn(
        &mut self,
        task: Task,
        body: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        if self.running.contains_key(&task) {
            bail!("the {task} task runs already");
        }
        let report = EndReport {
            task,
            ends: self.ends.0.clone(),
        };
        let handle = thread::Builder::new()
            .name(format!("ouzel-{task}"))
            .spawn(move || {
                // Dropped after `body`, so that its channels are closed when the supervisor learns of the end.
                let _report = report;
                body()
            })
            .with_context(|| format!("cannot start a thread for the {task} task"))?;
        self.running.insert(task, handle);
        Ok(())
    }

    /// True while `task` runs.
    #[must_use]
    pub fn is_running(&self, task: Task) -> bool {
        self.running.contains_key(&task)
    }

    /// Waits at most `limit` until none of `tasks` runs. Handles the ends of all tasks meanwhile.
    pub fn wait_for(&mut self, tasks: &[Task], limit: Duration) -> Waited {
        let deadline = Instant::now() + limit;
        loop {
            if self.shutdown.is_triggered() {
                return Waited::Stopping;
            }
            if !tasks.iter().any(|task| self.is_running(*task)) {
                return Waited::Ended;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Waited::TimedOut;
            }
            if let Ok(task) = self.ends.1.recv_timeout(left.min(SHUTDOWN_POLL)) {
                self.on_end(task);
            }
        }
    }

    /// Waits until every task has ended.
    #[must_use]
    pub fn wait(mut self) -> ProcessOutcome {
        while !self.running.is_empty() {
            if self.running.keys().all(|task| task.ends_last()) {
                self.last.trigger();
            }
            match self.ends.1.recv_timeout(DRAIN_LOG_INTERVAL) {
                Ok(task) => self.on_end(task),
                Err(RecvTimeoutError::Timeout) if self.shutdown.is_triggered() => {
                    let waiting: Vec<_> = self.running.keys().map(Task::to_string).collect();
                    info!(tasks = %waiting.join(", "), "still draining");
                }
                // The supervisor holds a sender itself, so the channel is never disconnected.
                Err(_) => {}
            }
        }
        ProcessOutcome {
            fatal: self.fatal.map(|index| self.failures.remove(index)),
            others: self.failures,
            signal: self.shutdown.signal(),
        }
    }

    /// Records the end of `task` and applies its policy.
    fn on_end(&mut self, task: Task) {
        let Some(handle) = self.running.remove(&task) else {
            return;
        };
        let (on_end, on_error) = task.policy();
        let is_early = on_end == OnEnd::Unexpected && !self.shutdown.is_triggered();
        let error = match handle.join() {
            Ok(Ok(())) if is_early => anyhow!("ended before the shutdown"),
            Ok(Ok(())) => return info!(%task, "task ended"),
            Ok(Err(error)) => error,
            Err(panic) => anyhow!("panicked: {}", panic_text(panic.as_ref())),
        };
        metrics::counter!(crate::telemetry::metrics::TASK_FAILURES, "task" => task.name()).increment(1);
        let is_fatal = match on_error {
            OnError::Stop => true,
            OnError::Continue => false,
            OnError::StopWithLast => !self.running.keys().any(|other| other.name() == task.name()),
        };
        if !is_fatal {
            warn!(%task, error = format!("{error:#}"), "task failed; the others continue");
        } else if self.fatal.is_some() || self.shutdown.is_triggered() {
            error!(%task, error = format!("{error:#}"), "task failed while stopping");
        } else {
            error!(%task, error = format!("{error:#}"), "task failed; stopping");
        }
        if is_fatal && self.fatal.is_none() {
            self.fatal = Some(self.failures.len());
            self.shutdown.trigger();
        }
        self.failures.push(TaskFailure { task, error });
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let literal = panic.downcast_ref::<&'static str>().copied();
    literal
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("with a value that is not text")
}

#[cfg(test)]
mod tests;
