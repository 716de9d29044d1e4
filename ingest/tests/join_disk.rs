//! A join state larger than memory: what stays in memory, and that nothing is lost on disk.
//!
//! `OUZEL_JOIN_PENDING` sets the number of pending impressions (default 150,000; the long run takes 5,000,000).

mod join_alloc;

use std::env;

use join_alloc::{ACTED, SHOWN, fill, id, in_use, joiner};
use ouzel_ingest::join::{Outcome, SledLimits, SledStore};
use ouzel_sample::{Action, EventTime, Sample};

#[test]
fn a_state_larger_than_memory_is_joined_from_disk() {
    let n: u64 = env::var("OUZEL_JOIN_PENDING").map_or(150_000, |n| n.parse().expect("a number"));
    let dir = tempfile::tempdir().unwrap();
    let limits = SledLimits {
        hot_requests: 5_000,
        cache_bytes: 4 << 20,
        ..SledLimits::default()
    };
    let before = in_use();
    let mut joiner = joiner(SledStore::open(dir.path(), limits).unwrap());
    // 50 past actions and one candidate: more than a kilobyte of features each.
    fill(&mut joiner, n, 1, 50);
    let taken = in_use() - before;
    // Ids and due times, and what sled and the impressions touched last take however many there are.
    let cap = usize::try_from(n).unwrap() * 130 + (128 << 20);
    assert!(
        taken <= cap,
        "{taken} bytes for {n} pending impressions, {cap} are allowed"
    );

    assert!(joiner.store().n_cold() + limits.hot_requests >= usize::try_from(n).unwrap());

    let mut out: Vec<Vec<Sample>> = Vec::new();
    for n in (0..n).step_by(1_000) {
        let action = Action {
            request: id(n),
            item: id(0),
            user: id(n % 1_000),
            ts: EventTime(i64::try_from(n).unwrap()),
            task: 0,
            value: None,
        };
        let outcome = joiner.action(ACTED, None, &action, &mut out).unwrap();
        assert!(matches!(outcome, Outcome::Matched(Some(_))), "{outcome:?}");
    }
    // Close it piece by piece, so that the samples do not pile up here.
    let (mut n_positive, mut n_negative) = (0, 0);
    let window = joiner.config().tasks[0].window_ms + joiner.config().lateness_ms;
    for upto in (0..=n + 1_000).step_by(1_000) {
        for partition in [SHOWN, ACTED] {
            let ts = EventTime(i64::try_from(upto).unwrap() + window);
            joiner.advance(partition, ts, &mut out).unwrap();
        }
        for sample in out.drain(..).flatten() {
            match sample.labels.get(0).expect("one task, and its label is certain") {
                true => n_positive += 1,
                false => n_negative += 1,
            }
        }
    }
    assert_eq!(n_positive, n.div_ceil(1_000));
    assert_eq!(n_positive + n_negative, n);
    joiner.audit().unwrap();
    assert_eq!(joiner.counters().pending_items, 0);
}
