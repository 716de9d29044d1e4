//! The one signal to stop, and the Unix signals that give it.
//!
//! Only those who take something in from outside hear it: poll and the listeners. Everyone else ends when
//! their input closes, so nothing taken in is lost.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use tokio::sync::watch;

/// A token to stop, shared by cloning. Once triggered it stays so.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Read on every loop of poll, so it takes no lock.
    triggered: AtomicBool,
    /// The Unix signal that triggered it; 0 for none.
    signal: AtomicI32,
    lock: Mutex<()>,
    condvar: Condvar,
    watch: watch::Sender<bool>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            triggered: AtomicBool::new(false),
            signal: AtomicI32::new(0),
            lock: Mutex::new(()),
            condvar: Condvar::new(),
            watch: watch::Sender::new(false),
        }
    }
}

impl Shutdown {
    /// A token that nobody has triggered.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells everyone to stop.
    pub fn trigger(&self) {
        let guard = self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.triggered.store(true, Ordering::Release);
        drop(guard);
        self.shared.condvar.notify_all();
        self.shared.watch.send_replace(true);
    }

    /// True once triggered.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        self.shared.triggered.load(Ordering::Acquire)
    }

    /// The Unix signal that triggered it, if one did.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        match self.shared.signal.load(Ordering::Acquire) {
            0 => None,
            signal => Some(signal),
        }
    }

    /// Waits until triggered, at most `limit`. Returns whether it is.
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

    /// Resolves once triggered; for the sockets.
    pub async fn triggered(&self) {
        let mut watch = self.shared.watch.subscribe();
        // An error says that the sender is gone, and it is in `self`.
        let _ended = watch.wait_for(|triggered| *triggered).await.is_ok();
    }

    fn trigger_by(&self, signal: i32) {
        self.shared.signal.store(signal, Ordering::Release);
        self.trigger();
    }
}

/// SIGTERM and SIGINT: the first triggers the shutdown, the second ends the process at once with 143 or 130.
#[derive(Debug)]
pub struct UnixSignals {
    signals: Signals,
    shutdown: Shutdown,
}

impl UnixSignals {
    /// Takes the two signals over. The second one works from here on, whatever the threads do: it exits in
    /// the signal handler itself.
    pub fn install(shutdown: Shutdown) -> io::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // Handlers run in order of registration: the first signal finds `asked` false and then sets it.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&asked))?;
            flag::register(signal, Arc::clone(&asked))?;
        }
        // A limit on the size of files is to fail the write, as a full disk does, and not to end the process.
        flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
        let signals = Signals::new([SIGTERM, SIGINT])?;
        Ok(Self { signals, shutdown })
    }

    /// Waits for the first signal and triggers the shutdown; returns then, or when something else triggered it.
    pub fn run(mut self) {
        const LOOK: Duration = Duration::from_millis(50);
        while !self.shutdown.wait_timeout(LOOK) {
            if let Some(signal) = self.signals.pending().next() {
                tracing::info!(
                    signal,
                    "stopping: draining and writing the last snapshot; once more to exit at once"
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

    /// Runs one of the tests below in a process of its own, which signals would otherwise hit as well.
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
        // Nobody runs the signals: the process is stuck, and still the second one ends it.
        let _signals = UnixSignals::install(Shutdown::new()).unwrap();
        signal_hook::low_level::raise(SIGTERM).unwrap();
        signal_hook::low_level::raise(SIGINT).unwrap();
        panic!("still here after the second signal");
    }
}
