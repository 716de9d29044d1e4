//! A bucket in memory whose requests fail when a test says so.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::{Bucket, Object};

/// When a request fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fault {
    /// Before it has taken effect.
    #[default]
    Before,
    /// After it has taken effect: the connection is cut before the answer.
    After,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, (Vec<u8>, u64)>,
    n_writes: u64,
    n_calls: u64,
    n_puts: u64,
    /// One of so many requests fails; 0: none.
    every: u64,
    fault: Fault,
    /// Every request after so many fails; 0: none.
    after: u64,
    deletes_fail: bool,
    puts_fail: bool,
}

/// The bucket, shared by cloning.
#[derive(Clone, Debug, Default)]
pub(super) struct TestBucket {
    state: Arc<Mutex<State>>,
    is_reliable: bool,
}

impl TestBucket {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The same bucket over a connection without faults.
    pub(super) fn without_faults(&self) -> Self {
        Self {
            state: Arc::clone(&self.state),
            is_reliable: true,
        }
    }

    pub(super) fn fail_every(&self, every: u64, fault: Fault) {
        let mut state = self.state();
        (state.every, state.fault, state.n_calls) = (every, fault, 0);
    }

    pub(super) fn fail_after(&self, n: u64) {
        let mut state = self.state();
        (state.after, state.n_calls) = (n, 0);
    }

    pub(super) fn fail_deletes(&self, fail: bool) {
        self.state().deletes_fail = fail;
    }

    pub(super) fn fail_puts(&self, fail: bool) {
        self.state().puts_fail = fail;
    }

    pub(super) fn n_puts(&self) -> u64 {
        self.state().n_puts
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    pub(super) fn damage(&self, key: &str) {
        let mut state = self.state();
        let object = state.objects.get_mut(key).unwrap();
        object.0[0] ^= 1;
    }

    fn call<T>(&self, effect: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state();
        if self.is_reliable {
            return effect(&mut state);
        }
        state.n_calls += 1;
        // Scattered, so that no request is always the one that fails.
        let scattered = state.n_calls.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let is_nth = state.every > 0 && scattered.is_multiple_of(state.every);
        let fails = is_nth || (state.after > 0 && state.n_calls > state.after);
        let cut = || Err(io::ErrorKind::ConnectionReset.into());
        match (fails, state.fault) {
            (false, _) => effect(&mut state),
            (true, Fault::Before) => cut(),
            (true, Fault::After) => {
                effect(&mut state)?;
                cut()
            }
        }
    }
}

fn write(state: &mut State, key: &str, bytes: &[u8]) -> String {
    state.n_writes += 1;
    let n = state.n_writes;
    state.objects.insert(key.to_owned(), (bytes.to_vec(), n));
    n.to_string()
}

impl Bucket for TestBucket {
    fn get(&self, key: &str) -> io::Result<Option<Object>> {
        self.call(|state| {
            Ok(state.objects.get(key).map(|(bytes, tag)| Object {
                bytes: bytes.clone(),
                tag: tag.to_string(),
            }))
        })
    }

    fn put(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        self.call(|state| {
            if state.puts_fail {
                return Err(io::ErrorKind::TimedOut.into());
            }
            state.n_puts += 1;
            write(state, key, bytes);
            Ok(())
        })
    }

    fn put_if(&self, key: &str, bytes: &[u8], expected: Option<&str>) -> io::Result<Option<String>> {
        self.call(|state| {
            let found = state.objects.get(key).map(|(_, tag)| tag.to_string());
            state.n_puts += 1;
            Ok((found.as_deref() == expected).then(|| write(state, key, bytes)))
        })
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<String>> {
        self.call(|state| {
            let keys = state.objects.keys().filter(|key| key.starts_with(prefix));
            Ok(keys.cloned().collect())
        })
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        self.call(|state| match state.deletes_fail {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => {
                state.objects.remove(key);
                Ok(())
            }
        })
    }
}
