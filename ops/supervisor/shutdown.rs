//! The shutdown token, and the Unix signals that trigger it.
//!
//! Only the tasks with input from outside react to the token: poll and the listeners. All others end when their input
//! closes, so nothing that was read is lost.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use tokio::sync::watch;

/// A token that stops the process, shared by cloning. It is triggered once and for all.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Read without a lock, because poll reads it often.
    triggered: AtomicBool,
    /// The Unix signal that triggered the token; 0 for none.
    signal: AtomicI32,
    lock: Mutex<()>,
    condvar: Condvar,
    watch: watch::Sender<bool>,
}

impl Shutdown {
    /// A token that is not triggered.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Triggers the token.
    pub fn trigger(&self) {
        let guard = self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.triggered.store(true, Ordering::Release);
        drop(guard);
        self.shared.condvar.notify_all();
        self.shared.watch.send_replace(true);
    }

    /// True once the token is triggered.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        self.shared.triggered.load(Ordering::Acquire)
    }

    /// The Unix signal that triggered the token.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        match self.shared.signal.load(Ordering::Acquire) {
            0 => None,
            signal => Some(signal),
        }
    }

    /// Waits at most `limit` for the trigger. Returns true if the token is triggered.
    pub fn wait_timeout(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut guard = self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.is_triggered() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            guard = self
                .shared
                .condvar
                .wait_timeout(guard, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    /// Resolves once the token is triggered; for async tasks.
    pub async fn triggered(&self) {
        let mut watch = self.shared.watch.subscribe();
        // Never an error: `self` holds the sender.
        let _is_triggered = watch.wait_for(|triggered| *triggered).await.is_ok();
    }

    fn trigger_by(&self, signal: i32) {
        self.shared.signal.store(signal, Ordering::Release);
        self.trigger();
    }
}

/// Handles SIGTERM and SIGINT: the first triggers the shutdown, the second exits at once with code 143 or 130.
#[derive(Debug)]
pub struct UnixSignals {
    signals: Signals,
    shutdown: Shutdown,
}

impl UnixSignals {
    /// Installs the signal handlers. The second signal exits in its handler, whatever the threads do.
    pub fn install(shutdown: Shutdown) -> io::Result<Self> {
        let is_first_seen = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // Handlers run in order of registration: the first signal finds the flag false and then sets it.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&is_first_seen))?;
            flag::register(signal, Arc::clone(&is_first_seen))?;
        }
        // A write beyond the limit on file sizes then fails, as on a full disk, instead of ending the process.
        flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
        let signals = Signals::new([SIGTERM, SIGINT])?;
        Ok(Self { signals, shutdown })
    }

    /// Triggers the shutdown at the first signal. Returns once it is triggered, by a signal or otherwise.
    pub fn run(mut self) {
        while !self.shutdown.wait_timeout(super::SHUTDOWN_POLL) {
            if let Some(signal) = self.signals.pending().next() {
                tracing::info!(
                    signal,
                    "stopping: draining and writing the last snapshot; a second signal exits at once"
                );
                self.shutdown.trigger_by(signal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Output};
    use std::thread;

    use super::*;

    #[test]
    fn a_trigger_wakes_threads_and_futures_and_stays() {
        let shutdown = Shutdown::new();
        assert!(!shutdown.wait_timeout(Duration::from_millis(1)));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| shutdown.wait_timeout(Duration::from_secs(30)));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            shutdown.clone().trigger();
            runtime.block_on(shutdown.triggered());
            assert!(waiting.join().unwrap());
        });
        assert!(shutdown.is_triggered());
        assert_eq!(shutdown.signal(), None);
    }

    /// Runs one of the tests below in a child process, which alone gets the signals.
    fn in_child(test: &str) -> Output {
        Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                &format!("supervisor::shutdown::tests::{test}"),
                "--nocapture",
            ])
            .env("OUZEL_TEST_CHILD", test)
            .output()
            .unwrap()
    }

    fn is_child(test: &str) -> bool {
        std::env::var("OUZEL_TEST_CHILD").is_ok_and(|name| name == test)
    }

    #[test]
    fn the_first_signal_drains() {
        if !is_child("the_first_signal_drains") {
            let output = in_child("the_first_signal_drains");
            assert!(output.status.success());
            assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
            return;
        }
        let shutdown = Shutdown::new();
        let signals = UnixSignals::install(shutdown.clone()).unwrap();
        signal_hook::low_level::raise(SIGTERM).unwrap();
        signals.run();
        assert!(shutdown.is_triggered());
        assert_eq!(shutdown.signal(), Some(SIGTERM));
    }

    #[test]
    fn the_second_signal_exits_at_once() {
        if !is_child("the_second_signal_exits_at_once") {
            assert_eq!(
                in_child("the_second_signal_exits_at_once").status.code(),
                Some(130)
            );
            return;
        }
        // No thread handles signals, as in a process that hangs; the second signal ends it all the same.
        let _signals = UnixSignals::install(Shutdown::new()).unwrap();
        signal_hook::low_level::raise(SIGTERM).unwrap();
        signal_hook::low_level::raise(SIGINT).unwrap();
        panic!("still here after the second signal");
    }
}
