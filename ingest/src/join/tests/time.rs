//! Event time, and the state as bytes.

use super::*;

#[test]
fn a_silent_action_stream_stops_time() {
    let mut bench = Bench::with(LabelPolicy::Eager);
    bench.act(1, CLICK, 0);
    for request in 0..50 {
        bench.show(request, i64::try_from(request * 1_000).unwrap());
    }
    assert_eq!(
        bench.emitted(),
        "",
        "no negative is made while actions may be missing"
    );
    assert_eq!(bench.joiner.counters().tasks[0].pending, 100);
}

#[test]
fn two_records_55_minutes_ahead_make_none_of_17000_late() {
    const MINUTE: i64 = 60_000;
    let config = JoinConfig::default();
    let mut bench = Bench::new(config);
    // A minute of traffic, then two events of a wrong clock, then 17,000 requests in 50 minutes.
    let mut requests = 0u64;
    let mut serve = |bench: &mut Bench, at: i64| {
        requests += 1;
        let outcome = bench.show(requests, at);
        assert_eq!(outcome, Outcome::Accepted);
        if requests.is_multiple_of(3) {
            assert_eq!(bench.act_on(requests, 1, CLICK, at + 100), Outcome::Matched);
        }
    };
    for n in 0..300 {
        serve(&mut bench, n * 200);
    }
    for (wrong, request) in [(55 * MINUTE, 1_000_001), (55 * MINUTE + 50, 1_000_002)] {
        assert_eq!(bench.show(request, MINUTE + wrong), Outcome::Accepted);
        assert_eq!(
            bench.act_on(request, 1, CLICK, MINUTE + wrong + 10),
            Outcome::Matched
        );
    }
    for n in 0..17_000 {
        serve(&mut bench, MINUTE + n * 176);
    }
    let counters = bench.joiner.counters();
    assert_eq!((counters.late_impressions, counters.late_actions), (0, 0));
    assert_eq!(counters.tasks[0].late, 0);
    assert_eq!(counters.time_jumps_held, 4);
    let ahead = bench.joiner.clock().watermark().0 - (MINUTE + 17_000 * 176);
    assert!((-2 * MINUTE..=-MINUTE + 1_000).contains(&ahead), "{ahead}");
}

#[test]
fn a_capture_that_does_not_fit_its_slate_is_refused_and_changes_nothing() {
    let mut bench = Bench::with(LabelPolicy::Eager);
    bench.act(1, CLICK, 5);
    let before = bench.joiner.export().unwrap();
    let position = Position {
        partition: SHOWN,
        offset: 0,
    };
    let mut short = |impression: &Impression| {
        let mut captured = capture(impression);
        captured.candidates.pop();
        captured
    };
    let error = bench
        .joiner
        .impression(position, &Bench::impression_of(REQUEST, 0), &mut short)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot join request 0000000000000009: captured 1 candidates for 2 shown items"
    );
    assert_eq!(bench.joiner.export().unwrap(), before);
}

#[test]
fn a_state_is_restored_only_under_its_configuration() {
    let mut bench = Bench::with(LabelPolicy::Eager);
    bench.show(REQUEST, 0);
    bench.act(1, CLICK, 1);
    let bytes = bench.joiner.export().unwrap();
    let import = |config, bytes: &[u8]| Joiner::import(config, MemStore::default(), bytes);
    let restored = import(config(LabelPolicy::Eager), &bytes).unwrap();
    assert_eq!(restored.export().unwrap(), bytes);

    let error = import(config(LabelPolicy::Wait), &bytes).unwrap_err();
    assert!(matches!(error, JoinError::Changed { .. }), "{error}");
    let more = [bytes.as_slice(), b"x"].concat();
    assert!(matches!(
        import(config(LabelPolicy::Eager), &more),
        Err(JoinError::Decode(_))
    ));
    for end in 0..bytes.len() {
        assert!(
            import(config(LabelPolicy::Eager), &bytes[..end]).is_err(),
            "cut at {end}"
        );
    }
}

#[test]
fn a_damaged_state_is_read_without_a_panic() {
    let mut bench = Bench::with(LabelPolicy::Eager);
    bench.show(REQUEST, 0);
    bench.act(1, CLICK, 1);
    bench.act(77, CLICK, 1);
    let bytes = bench.joiner.export().unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        // Some flips, as in a feature, still decode: the manifest's hash detects those.
        drop(Joiner::import(
            config(LabelPolicy::Eager),
            MemStore::default(),
            &damaged,
        ));
    }
}
