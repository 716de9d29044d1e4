//! The table of tasks: all threads of the process, and what their ends and errors mean.

use std::fmt;

/// The task of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// Reads the source until the shutdown.
    Poll,
    /// Orders and joins records. Ends when the channel from poll closes.
    Join,
    /// Encodes the contents of items. Ends when the channel from join closes.
    Encode,
    /// Learns batches. Ends when the channel from join closes.
    Learner,
    /// Learns the same batches by a second learner, if there is one. Ends when the learner ends.
    Second,
    /// Writes snapshots. Ends when the channel from the learner closes.
    Snapshot,
    /// Scores requests; one of several, by number. Ends when the request queue closes.
    Scorer(u16),
    /// Scores requests as a shadow. Ends with the last scorer.
    Shadow,
    /// Computes the vectors of the catalog for each version until the shutdown.
    Index,
    /// Serves the scoring port until the shutdown.
    Http,
    /// Takes posted events on a port of their own until the shutdown.
    EventsHttp,
    /// Writes posted events. Ends when the ports that take them close.
    Events,
    /// Serves the admin socket until the shutdown.
    Admin,
    /// Keeps or watches the lease of the state directory until all others have ended.
    Lease,
    /// Copies the state directory to a remote place until all others have ended.
    Remote,
    /// Writes the events of the demo to its broker.
    Feeder,
    /// Sends the rank requests of the demo.
    Caller,
    /// Waits for SIGTERM and SIGINT until the shutdown.
    Signals,
    /// Updates metrics and the progress bar until the shutdown.
    Telemetry,
}

/// What the end of a task without an error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnEnd {
    /// The input is finished; the tasks behind drain and end in turn.
    Drain,
    /// Before the shutdown, the end counts as an error.
    Unexpected,
}

/// What an error or a panic of a task means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The process drains and exits with 1.
    Stop,
    /// It is logged and counted; all other tasks continue.
    Continue,
    /// `Continue` while another task of the same name runs, then `Stop`.
    StopWithLast,
}

impl Task {
    /// The name in thread names, logs, messages and metric labels.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Task::Poll => "poll",
            Task::Join => "join",
            Task::Encode => "encode",
            Task::Learner => "learner",
            Task::Second => "second",
            Task::Snapshot => "snapshot",
            Task::Scorer(_) => "scorer",
            Task::Shadow => "shadow",
            Task::Index => "index",
            Task::Http => "http",
            Task::EventsHttp => "events-http",
            Task::Events => "events",
            Task::Admin => "admin",
            Task::Lease => "lease",
            Task::Remote => "remote",
            Task::Feeder => "feeder",
            Task::Caller => "caller",
            Task::Signals => "signals",
            Task::Telemetry => "telemetry",
        }
    }

    /// True if it ends after all others.
    #[must_use]
    pub fn ends_last(self) -> bool {
        matches!(self, Task::Lease | Task::Remote)
    }

    /// What an end and an error mean.
    #[must_use]
    pub fn policy(self) -> (OnEnd, OnError) {
        match self {
            // Without records the process would serve an ever older model.
            Task::Poll => (OnEnd::Drain, OnError::Stop),
            // A state machine must not continue after a broken invariant.
            Task::Join | Task::Learner => (OnEnd::Drain, OnError::Stop),
            // Items are ranked without their content, and a restart tries again.
            Task::Encode => (OnEnd::Drain, OnError::Continue),
            // The serving learner withdraws what ran there; it depends on nothing of it.
            Task::Second => (OnEnd::Drain, OnError::Continue),
            // The newest valid snapshot is still there, and serving and learning matter more.
            Task::Snapshot => (OnEnd::Drain, OnError::Continue),
            Task::Scorer(_) => (OnEnd::Drain, OnError::StopWithLast),
            // Requests use the last index.
            Task::Index => (OnEnd::Drain, OnError::Continue),
            // No reply depends on it; its requests are counted as dropped.
            Task::Shadow => (OnEnd::Drain, OnError::Continue),
            Task::Http | Task::EventsHttp => (OnEnd::Unexpected, OnError::Stop),
            // Posts are refused; what the topics hold is still learned and served.
            Task::Events => (OnEnd::Drain, OnError::Continue),
            Task::Admin => (OnEnd::Unexpected, OnError::Continue),
            // Another daemon has taken over, or will.
            Task::Lease | Task::Remote => (OnEnd::Unexpected, OnError::Stop),
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
