//! Hot swap under load: no request fails, none mixes versions, and replaced versions are freed by the publisher.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

use crate::server::{Server, Version, eventually, request};

const N_SWAPS: u64 = 200;
const N_CLIENTS: usize = 4;

#[test]
fn every_reply_under_200_swaps_is_computed_by_exactly_the_version_it_names() {
    let server = Server::start();
    let freed: Arc<Mutex<Vec<(u64, ThreadId)>>> = Arc::default();
    let version = |seed: u64| {
        let freed = Arc::clone(&freed);
        Version::with_drop(seed, move || {
            freed.lock().unwrap().push((seed, std::thread::current().id()));
        })
    };
    // The seed of version n is n, so the number in a reply is enough to check its scores.
    assert_eq!(server.published.publish(version(1)), 1);

    let (newest_seen, n_replies, is_done) = (AtomicU64::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let mut most_live = 0;
    std::thread::scope(|scope| {
        for client in 0..N_CLIENTS {
            let mut connection = server.client();
            let names: Vec<String> = (0..50).map(|item| format!("{client}-{item}")).collect();
            let ranking = request(&names.iter().map(String::as_str).collect::<Vec<_>>());
            let (newest_seen, n_replies, is_done) = (&newest_seen, &n_replies, &is_done);
            scope.spawn(move || {
                let mut last = 0;
                while !is_done.load(Ordering::Acquire) {
                    let reply = connection.rank(&ranking).unwrap();
                    assert_eq!(reply.snapshot, format!("snapshot-{}", reply.version));
                    assert_eq!(reply.items.len(), names.len());
                    for item in &reply.items {
                        let expected = Version::score(reply.version, &item.item_id);
                        assert_eq!(
                            item.score.to_bits(),
                            expected.to_bits(),
                            "version {}",
                            reply.version
                        );
                    }
                    assert!(reply.version >= last, "a client never goes back in versions");
                    last = reply.version;
                    newest_seen.fetch_max(reply.version, Ordering::AcqRel);
                    n_replies.fetch_add(1, Ordering::AcqRel);
                }
            });
        }
        let is_done = StopOnDrop(&is_done);
        for seed in 2..=N_SWAPS {
            assert_eq!(server.published.publish(version(seed)), seed);
            eventually("the new version is served", || {
                newest_seen.load(Ordering::Acquire) >= seed
            });
            most_live = most_live.max(server.published.sweep());
        }
        drop(is_done);
    });

    assert!(n_replies.into_inner() >= usize::try_from(N_SWAPS).unwrap());
    // Each of the two workers may hold one older version for as long as it computes or until its next check.
    assert!(most_live <= 3, "{most_live} versions were in memory at once");
    eventually("idle workers drop old versions", || server.published.sweep() == 1);
    let freed = freed.lock().unwrap();
    let mut seeds: Vec<u64> = freed.iter().map(|(seed, _)| *seed).collect();
    seeds.sort_unstable();
    assert_eq!(
        seeds,
        (1..N_SWAPS).collect::<Vec<_>>(),
        "each replaced version is freed, the newest is not"
    );
    let here = std::thread::current().id();
    assert!(
        freed.iter().all(|(_, thread)| *thread == here),
        "a version was freed on a request's path"
    );
}

/// Stops the clients even when an assertion of the publisher fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
