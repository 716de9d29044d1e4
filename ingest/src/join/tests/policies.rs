//! The samples of each label policy, and when they are emitted.

use super::*;

/// Item 1 is clicked at once and ordered late; item 2 is clicked after 60 ms.
fn stream_of(policy: LabelPolicy) -> Vec<String> {
    let mut bench = Bench::with(policy);
    let mut emitted = Vec::new();
    bench.pass(-10);
    bench.show(REQUEST, 0);
    emitted.push(bench.emitted());
    assert!(bench.act(1, CLICK, 20) == Outcome::Matched);
    emitted.push(bench.emitted());
    bench.pass(51);
    emitted.push(bench.emitted());
    bench.act(2, CLICK, 60);
    emitted.push(bench.emitted());
    bench.pass(101);
    emitted.push(bench.emitted());
    bench.act(1, ORDER, 900);
    emitted.push(bench.emitted());
    bench.pass(1_001);
    emitted.push(bench.emitted());
    bench.joiner.counters().check().unwrap();
    emitted
}

#[test]
fn each_policy_emits_its_stream() {
    let (both_clicks, order) = ("1 final click=1 @27", "1 final order=1 @907");
    let cases = [
        (
            LabelPolicy::Eager,
            [
                "",
                both_clicks,
                "",
                "2 final click=1 @67",
                "",
                order,
                "2 final order=0",
            ],
        ),
        (
            LabelPolicy::Wait,
            [
                "",
                "",
                "",
                "",
                "1 final click=1, 2 final click=1",
                "",
                "1 final order=1, 2 final order=0",
            ],
        ),
        (
            LabelPolicy::Fnw,
            [
                "1 early click=0 order=0, 2 early click=0 order=0",
                "1 late click=1 @27",
                "",
                "2 late click=1 @67",
                "",
                "1 late order=1 @907",
                "",
            ],
        ),
        (
            LabelPolicy::EsDfm,
            [
                "",
                "",
                "1 final click=1, 1 early order=0, 2 early click=0 order=0",
                "2 late click=1 @67",
                "",
                "1 late order=1 @907",
                "",
            ],
        ),
        (
            LabelPolicy::Defer,
            [
                "",
                "",
                "1 final click=1, 1 early order=0, 2 early click=0 order=0",
                "2 copy click=1 @67",
                "1 copy click=1",
                "1 copy order=1 @907",
                "2 copy order=0",
            ],
        ),
    ];
    for (policy, expected) in cases {
        assert_eq!(stream_of(policy), expected, "{policy:?}");
    }
    assert_eq!(stream_of(LabelPolicy::Fnc), stream_of(LabelPolicy::Fnw));
}

#[test]
fn eager_emits_no_positive_before_a_negative_of_its_task_could_be() {
    let mut bench = Bench::at_the_start(config(LabelPolicy::Eager));
    bench.show(REQUEST, 0);
    assert!(bench.act(1, CLICK, 50) == Outcome::Matched);
    assert!(bench.act(2, ORDER, 60) == Outcome::Matched);
    bench.pass(100);
    assert_eq!(bench.emitted(), "", "no window has closed yet");
    bench.pass(101);
    assert_eq!(bench.emitted(), "1 final click=1, 2 final click=0");
    // Clicks are under way now, orders are not: their first window is still open.
    let bytes = bench.joiner.export().unwrap();
    bench.joiner = Joiner::import(config(LabelPolicy::Eager), MemStore::default(), &bytes).unwrap();
    bench.show(REQUEST + 1, 110);
    bench.act_on(REQUEST + 1, 1, CLICK, 120);
    bench.act_on(REQUEST + 1, 1, ORDER, 130);
    assert_eq!(bench.emitted(), "1 final click=1 @127");
    bench.pass(1_001);
    assert_eq!(
        bench.emitted(),
        "2 final click=0 | 1 final order=0, 2 final order=1"
    );
    bench.pass(1_111);
    assert_eq!(bench.emitted(), "1 final order=1, 2 final order=0");
}

#[test]
fn without_actions_no_impression_far_ahead_is_sampled_as_negative() {
    let mut bench = Bench::new(JoinConfig {
        label_wait: Period::from_ms(2_010),
        ..config(LabelPolicy::Fnw)
    });
    bench.pass(0);
    let mut emitted = (0..6u64).map(|request| {
        bench.show(request, 1_000 * i64::try_from(request).unwrap());
        bench.emitted().matches("early").count()
    });
    assert_eq!(emitted.by_ref().collect::<Vec<_>>(), [2, 2, 2, 0, 0, 0]);
    // The action of the fourth request makes its time known, and so its negatives with its positive.
    bench.act_on(3, 1, CLICK, 3_001);
    let emitted = bench.emitted();
    assert_eq!(
        (emitted.matches("early").count(), emitted.matches("late").count()),
        (6, 1),
        "{emitted}"
    );
    bench.joiner.counters().check().unwrap();
}
