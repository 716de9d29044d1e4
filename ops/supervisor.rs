//! Starts every thread, and knows what it means when one ends.
//!
//! The only place that starts threads. [`Task::policy`] is the table of what each task's end and error mean;
//! this file carries it out. Shutdown is data flow: the [`Shutdown`] token is heard by poll and the
//! listeners alone, every other task ends when its input closes, and [`Supervisor::wait`] returns when all
//! have. It knows nothing of what the tasks do.

mod shutdown;
mod task;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use tracing::{error, info, warn};

pub use shutdown::{Shutdown, UnixSignals};
pub use task::{OnEnd, OnError, Task};

/// How often a long drain says what it is waiting for.
const DRAIN_REPORT: Duration = Duration::from_secs(10);

/// Owns the threads of the process.
#[derive(Debug)]
pub struct Supervisor {
    shutdown: Shutdown,
    running: BTreeMap<Task, JoinHandle<anyhow::Result<()>>>,
    ended: Vec<Task>,
    failures: Vec<Failure>,
    /// The failure that stops the process.
    fatal: Option<usize>,
    ends: (Sender<Task>, Receiver<Task>),
}

/// A task that ended in a way it should not have.
#[derive(Debug)]
pub struct Failure {
    /// Which task.
    pub task: Task,
    /// Its error, or its panic, or that it ended too early.
    pub error: anyhow::Error,
}

/// What came of waiting for some tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// They have all ended.
    Ended,
    /// Time was up.
    TimedOut,
    /// The shutdown was asked for, by a failure or from outside.
    Stopping,
}

/// How it all ended.
#[derive(Debug)]
pub struct Outcome {
    /// The failure that stopped the process, if one did.
    pub fatal: Option<Failure>,
    /// Every other failure, in order of time: those before it did no harm, those after it follow from it.
    pub others: Vec<Failure>,
    /// The Unix signal that asked for the end, if one did.
    pub signal: Option<i32>,
}

impl Outcome {
    /// Fails when a task stopped the process.
    pub fn into_result(self) -> anyhow::Result<()> {
        match self.fatal {
            None => Ok(()),
            Some(Failure { task, error }) => Err(error.context(format!("the {task} task failed"))),
        }
    }
}

/// Reports the end of a task when it is dropped, even by a panic.
struct Bell {
    task: Task,
    ends: Sender<Task>,
}

impl Drop for Bell {
    fn drop(&mut self) {
        // Only a test drops the supervisor first; then nobody waits for the report.
        let _is_received = self.ends.send(self.task).is_ok();
    }
}

impl Supervisor {
    /// A supervisor without tasks. It triggers `shutdown` when a task fails in a way that stops the process.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        Self {
            shutdown,
            running: BTreeMap::new(),
            ended: Vec::new(),
            failures: Vec::new(),
            fatal: None,
            ends: mpsc::channel(),
        }
    }

    /// The token that stops everything.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Starts `task` on a thread of its own. Each task runs at most once in a process.
    pub fn spawn(
        &mut self,
        task: Task,
        body: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        if self.running.contains_key(&task) || self.ended.contains(&task) {
            return Err(anyhow!("the {task} task was started before"));
        }
        let bell = Bell {
            task,
            ends: self.ends.0.clone(),
        };
        let handle = thread::Builder::new()
            .name(format!("ouzel-{task}"))
            .spawn(move || {
                // Dropped after `body` and all it owns: when the bell rings, its channels are closed.
                let _bell = bell;
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

    /// Waits, at most `limit`, until none of `tasks` runs, watching over all the others meanwhile.
    pub fn wait_for(&mut self, tasks: &[Task], limit: Duration) -> Waited {
        // A signal rings no bell, so the token is looked at now and then.
        const LOOK: Duration = Duration::from_millis(50);
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
            if let Ok(task) = self.ends.1.recv_timeout(left.min(LOOK)) {
                self.on_end(task);
            }
        }
    }

    /// Waits until every task has ended and says how it went.
    #[must_use]
    pub fn wait(mut self) -> Outcome {
        while !self.running.is_empty() {
            match self.ends.1.recv_timeout(DRAIN_REPORT) {
                Ok(task) => self.on_end(task),
                Err(RecvTimeoutError::Timeout) if self.shutdown.is_triggered() => {
                    let waiting: Vec<_> = self.running.keys().map(Task::to_string).collect();
                    info!(tasks = %waiting.join(", "), "still draining");
                }
                // The supervisor holds a sender itself, so the channel is never disconnected.
                Err(_) => {}
            }
        }
        let signal = self.shutdown.signal();
        let fatal = self.fatal.map(|i| self.failures.remove(i));
        Outcome {
            fatal,
            others: self.failures,
            signal,
        }
    }

    /// Records that `task` has ended, and acts as the table says.
    fn on_end(&mut self, task: Task) {
        let Some(handle) = self.running.remove(&task) else {
            return;
        };
        self.ended.push(task);
        let (on_end, on_error) = task.policy();
        let early = on_end == OnEnd::Unexpected && !self.shutdown.is_triggered();
        let error = match handle.join() {
            Ok(Ok(())) if early => anyhow!("ended before the shutdown"),
            Ok(Ok(())) => return info!(%task, "task ended"),
            Ok(Err(error)) => error,
            Err(panic) => anyhow!("panicked: {}", panic_text(panic.as_ref())),
        };
        metrics::counter!(crate::telemetry::metrics::TASK_FAILURES, "task" => task.name()).increment(1);
        let stops = match on_error {
            OnError::Stop => true,
            OnError::Continue => false,
            OnError::StopWithLast => !self.running.keys().any(|other| other.name() == task.name()),
        };
        if !stops {
            warn!(%task, error = format!("{error:#}"), "task failed; the others go on");
        } else if self.fatal.is_some() || self.shutdown.is_triggered() {
            error!(%task, error = format!("{error:#}"), "task failed while stopping");
        } else {
            error!(%task, error = format!("{error:#}"), "task failed; stopping");
        }
        if stops && self.fatal.is_none() {
            self.fatal = Some(self.failures.len());
            self.shutdown.trigger();
        }
        self.failures.push(Failure { task, error });
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("with a value that is not text")
}

#[cfg(test)]
mod tests;
