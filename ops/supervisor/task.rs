//! The table of tasks: every thread of the process, and what its end and its error mean.

use std::fmt;

/// A thread's job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// Reads the sources. Hears the shutdown.
    Poll,
    /// Decodes, orders, joins. Ends when poll's channel closes.
    Join,
    /// Encodes items' contents. Ends when join's channel closes.
    Encode,
    /// Learns. Ends when join's channel closes.
    Learner,
    /// Writes snapshots. Ends when the learner's channel closes.
    Snapshot,
    /// Scores requests, by number. Ends when HTTP's queue closes.
    Scorer(u16),
    /// Answers on the scoring port. Hears the shutdown.
    Http,
    /// Answers on the admin socket. Hears the shutdown.
    Admin,
    /// Writes the demo's events to its own broker.
    Feeder,
    /// Sends the demo's rank requests.
    Caller,
    /// Waits for SIGTERM and SIGINT. Hears the shutdown.
    Signals,
    /// Keeps metrics and the progress bar fresh. Hears the shutdown.
    Telemetry,
}

/// What it means that a task returned without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnEnd {
    /// Its input is finished; the tasks after it drain and end in turn.
    Drain,
    /// It should have run until the shutdown: before that, its end counts as its error.
    Unexpected,
}

/// What it means that a task returned an error or panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The process drains and exits with 1.
    Stop,
    /// It is logged and counted, and everything else goes on.
    Continue,
    /// As `Continue` while another task of the same kind lives, then as `Stop`.
    StopWithLast,
}

impl Task {
    /// The task's name in thread names, logs, messages and metric labels.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Task::Poll => "poll",
            Task::Join => "join",
            Task::Encode => "encode",
            Task::Learner => "learner",
            Task::Snapshot => "snapshot",
            Task::Scorer(_) => "scorer",
            Task::Http => "http",
            Task::Admin => "admin",
            Task::Feeder => "feeder",
            Task::Caller => "caller",
            Task::Signals => "signals",
            Task::Telemetry => "telemetry",
        }
    }

    /// The table.
    #[must_use]
    pub fn policy(self) -> (OnEnd, OnError) {
        match self {
            // Without its log the process is a scorer that grows stale in silence.
            Task::Poll => (OnEnd::Drain, OnError::Stop),
            // A state machine does not go on after a broken invariant.
            Task::Join | Task::Learner => (OnEnd::Drain, OnError::Stop),
            // Items rank without their content, and a restart tries again.
            Task::Encode => (OnEnd::Drain, OnError::Continue),
            // The newest good snapshot is still there; serving and learning matter more.
            Task::Snapshot => (OnEnd::Drain, OnError::Continue),
            Task::Scorer(_) => (OnEnd::Drain, OnError::StopWithLast),
            Task::Http => (OnEnd::Unexpected, OnError::Stop),
            Task::Admin => (OnEnd::Unexpected, OnError::Continue),
            Task::Feeder => (OnEnd::Drain, OnError::Stop),
            Task::Caller | Task::Signals | Task::Telemetry => (OnEnd::Drain, OnError::Continue),
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Task::Scorer(number) => write!(f, "scorer-{number}"),
            task => f.write_str(task.name()),
        }
    }
}
