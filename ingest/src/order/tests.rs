//! Tests of the merge: over bounded ranges, on a live log, and along a plan.

use ouzel_sample::{Action, Event, Id, Reject, RejectReason, Stream};

use super::*;

fn partition(stream: Stream, partition: i32) -> PartitionId {
    PartitionId { stream, partition }
}

fn items() -> PartitionId {
    partition(Stream::Items, 0)
}

fn shown() -> PartitionId {
    partition(Stream::Impressions, 0)
}

fn acted(number: i32) -> PartitionId {
    partition(Stream::Actions, number)
}

/// The payload does not matter to the merge, only its time: every record here is an action.
fn record(partition: PartitionId, offset: i64, time: Option<i64>, event: i64) -> DecodedRecord {
    let action = Action {
        request: Some(Id(1)),
        item: Id(1),
        user: Id(1),
        ts: EventTime(event),
        task: 0,
        value: None,
    };
    let position = Position { partition, offset };
    DecodedRecord {
        position,
        timestamp_ms: time,
        event: Ok(Event::Action(action)),
    }
}

fn broken(partition: PartitionId, offset: i64) -> DecodedRecord {
    let event = Err(Reject::new(RejectReason::MalformedJson, ""));
    DecodedRecord {
        position: Position { partition, offset },
        timestamp_ms: None,
        event,
    }
}

fn orderer(partitions: &[PartitionId], bootstrap: bool) -> Orderer {
    let start: Positions = partitions.iter().map(|partition| (*partition, 0)).collect();
    Orderer::new(&start, bootstrap)
}

fn drain(orderer: &mut Orderer, release_all: bool) -> Vec<String> {
    std::iter::from_fn(|| orderer.next(release_all).unwrap())
        .map(|recorded| recorded.position.to_string())
        .collect()
}

#[test]
fn bounded_ranges_merge_by_record_time_then_event_time_then_stream() {
    let mut orderer = orderer(&[shown(), acted(0), acted(1)], false);
    orderer.push(record(acted(1), 0, Some(10), 5)).unwrap();
    orderer.push(record(acted(0), 0, Some(10), 5)).unwrap();
    orderer.push(record(acted(0), 1, Some(10), 4)).unwrap();
    orderer.push(broken(acted(0), 2)).unwrap();
    orderer.push(record(shown(), 0, None, 10)).unwrap();
    orderer.push(record(shown(), 1, Some(20), 9)).unwrap();
    for partition in [acted(0), acted(1)] {
        orderer.finish(partition);
    }
    // The heads decide: actions[0]@1 is dated earlier, but follows its predecessor.
    let before = [
        "actions[0]@0",
        "actions[0]@1",
        "actions[0]@2",
        "actions[1]@0",
        "impressions[0]@0",
    ];
    assert_eq!(
        drain(&mut orderer, false),
        [&before[..], &["impressions[0]@1"]].concat()
    );
    assert!(!orderer.is_exhausted(), "the impressions were not finished");
    orderer.finish(shown());
    assert!(orderer.is_exhausted());
}

#[test]
fn a_first_start_takes_every_item_and_user_before_the_first_impression() {
    let users = partition(Stream::Users, 0);
    let mut orderer = orderer(&[items(), users, shown()], true);
    orderer.push(record(shown(), 0, Some(1), 1)).unwrap();
    orderer.push(record(items(), 0, Some(5), 5)).unwrap();
    orderer.at_end(items());
    orderer.at_end(shown());
    assert!(drain(&mut orderer, true).is_empty(), "the users may be older");
    orderer.push(record(users, 0, Some(9), 9)).unwrap();
    orderer.push(record(users, 1, Some(3), 3)).unwrap();
    orderer.at_end(users);
    assert_eq!(
        drain(&mut orderer, true),
        ["items[0]@0", "users[0]@0", "users[0]@1", "impressions[0]@0"]
    );
    // From here on users are merged by their times.
    orderer.push(record(users, 2, Some(20), 20)).unwrap();
    orderer.push(record(shown(), 1, Some(20), 20)).unwrap();
    orderer.push(record(shown(), 2, Some(19), 19)).unwrap();
    orderer.at_end(users);
    orderer.at_end(shown());
    assert_eq!(
        drain(&mut orderer, true),
        ["users[0]@2", "impressions[0]@1", "impressions[0]@2"]
    );
    let taken: Positions = [(items(), 1), (users, 2)].into_iter().collect();
    assert!(is_bootstrapping(&taken));
}

#[test]
fn the_order_is_the_same_however_records_arrive() {
    let records: Vec<DecodedRecord> = (0..60)
        .map(|n: i64| {
            let partition = [shown(), acted(0), acted(1)][usize::try_from(n % 3).unwrap()];
            record(partition, n / 3, Some((n * 7919) % 50), n % 4)
        })
        .collect();
    let order = |arrival: Vec<usize>, chunk: usize| {
        let mut orderer = orderer(&[shown(), acted(0), acted(1)], false);
        let mut out = Vec::new();
        for some in arrival.chunks(chunk) {
            for at in some {
                orderer.push(records[*at].clone()).unwrap();
            }
            out.extend(drain(&mut orderer, false));
        }
        for partition in [shown(), acted(0), acted(1)] {
            orderer.finish(partition);
        }
        out.extend(drain(&mut orderer, false));
        out
    };
    let by_partition: Vec<usize> = (0..3)
        .flat_map(|start| (0..20).map(move |n| n * 3 + start))
        .collect();
    let expected = order((0..60).collect(), 60);
    assert_eq!(expected.len(), 60);
    for chunk in [1, 2, 7, 60] {
        assert_eq!(order((0..60).collect(), chunk), expected);
        assert_eq!(order(by_partition.clone(), chunk), expected);
    }
}

#[test]
fn a_live_partition_at_its_end_is_waited_for_until_the_caller_releases() {
    let mut orderer = orderer(&[shown(), acted(0)], false);
    orderer.push(record(shown(), 0, Some(1), 1)).unwrap();
    assert_eq!(
        drain(&mut orderer, true),
        [""; 0],
        "the actions are not known to be at their end"
    );
    assert!(!orderer.is_holding());
    orderer.at_end(acted(0));
    assert!(orderer.is_holding());
    assert_eq!(drain(&mut orderer, false), [""; 0]);
    assert_eq!(drain(&mut orderer, true), ["impressions[0]@0"]);
    orderer.push(record(shown(), 1, Some(2), 2)).unwrap();
    orderer.push(record(acted(0), 0, Some(2), 1)).unwrap();
    assert_eq!(
        drain(&mut orderer, false),
        ["actions[0]@0"],
        "a push takes the end back"
    );
    assert_eq!(drain(&mut orderer, true), [""; 0]);
}

#[test]
fn items_come_first_until_their_stream_was_at_its_end() {
    let mut orderer = orderer(&[items(), shown()], true);
    orderer.push(record(shown(), 0, Some(1), 1)).unwrap();
    orderer.finish(shown());
    orderer.push(record(items(), 0, Some(500), 1)).unwrap();
    orderer.push(record(items(), 1, Some(600), 1)).unwrap();
    assert_eq!(drain(&mut orderer, false), ["items[0]@0", "items[0]@1"]);
    orderer.at_end(items());
    assert_eq!(drain(&mut orderer, true), ["impressions[0]@0"]);
    orderer.push(record(items(), 2, Some(700), 1)).unwrap();
    orderer.push(record(shown(), 1, Some(650), 1)).unwrap();
    assert_eq!(
        drain(&mut orderer, false),
        ["impressions[0]@1", "items[0]@2"],
        "from then on by time"
    );
}

#[test]
fn a_restart_among_the_first_items_reads_the_other_items_first() {
    let records = [
        record(shown(), 0, Some(1), 1),
        record(items(), 0, Some(500), 1),
        record(items(), 1, Some(600), 1),
        record(items(), 2, Some(700), 1),
    ];
    for n_taken in 0..=4 {
        let mut taken = Positions::default();
        let mut order = Vec::new();
        for n in [n_taken, 4 - n_taken] {
            let next = |partition| (partition, taken.next(partition).unwrap_or(0));
            let start: Positions = [items(), shown()].map(next).into_iter().collect();
            let mut orderer = Orderer::new(&start, is_bootstrapping(&taken));
            for record in &records {
                if record.position.offset >= start.next(record.position.partition).unwrap() {
                    orderer.push(record.clone()).unwrap();
                }
            }
            orderer.finish(items());
            orderer.finish(shown());
            for _ in 0..n {
                let recorded = orderer.next(false).unwrap().unwrap();
                taken.advance(recorded.position);
                order.push(recorded.position.to_string());
            }
        }
        let expected = ["items[0]@0", "items[0]@1", "items[0]@2", "impressions[0]@0"];
        assert_eq!(order, expected, "stopped after {n_taken}");
    }
}

#[test]
fn a_followed_plan_reproduces_its_order() {
    let feed = |orderer: &mut Orderer| {
        for offset in [0, 1, 5, 6] {
            orderer.push(record(shown(), offset, Some(offset), 1)).unwrap();
        }
        for offset in [3, 4, 9] {
            orderer.push(record(acted(0), offset, Some(offset), 1)).unwrap();
        }
    };
    let mut live = orderer(&[shown(), acted(0)], false);
    feed(&mut live);
    live.at_end(shown());
    live.at_end(acted(0));
    let order = drain(&mut live, true);
    assert_eq!(order.len(), 7);
    let runs = live.take_runs();
    assert_eq!(
        runs,
        [
            OffsetRun {
                partition: shown(),
                from: 0,
                to: 2
            },
            OffsetRun {
                partition: acted(0),
                from: 3,
                to: 5
            },
            OffsetRun {
                partition: shown(),
                from: 5,
                to: 7
            },
            OffsetRun {
                partition: acted(0),
                from: 9,
                to: 10
            },
        ]
    );
    assert_eq!(live.take_runs(), []);

    let mut again = orderer(&[shown(), acted(0)], true);
    again.follow(runs);
    assert!(again.is_following());
    assert_eq!(
        drain(&mut again, false),
        [""; 0],
        "no record arrived yet, and none is merged meanwhile"
    );
    feed(&mut again);
    assert_eq!(drain(&mut again, false), order);
    assert!(!again.is_following());
    assert_eq!(again.take_runs(), [], "the plan has the followed runs already");
    assert_eq!(again.positions(), live.positions());
}

#[test]
fn a_plan_that_the_log_contradicts_is_refused() {
    let run = OffsetRun {
        partition: shown(),
        from: 2,
        to: 5,
    };
    let follow = |offsets: &[i64], at_end: bool| {
        let mut orderer = orderer(&[shown()], false);
        orderer.follow([run]);
        for offset in offsets {
            orderer.push(record(shown(), *offset, Some(1), 1)).unwrap();
        }
        if at_end {
            orderer.at_end(shown());
        }
        loop {
            match orderer.next(true) {
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        }
    };
    assert_eq!(follow(&[2, 4], false), Ok(()));
    assert_eq!(follow(&[2], false), Ok(()), "more records may arrive");
    assert_eq!(follow(&[2], true), Err(OrderError::Missing { run, found: None }));
    assert_eq!(
        follow(&[3, 4], false),
        Err(OrderError::Missing { run, found: Some(3) })
    );
    assert_eq!(
        follow(&[2, 3, 6], false),
        Err(OrderError::Missing { run, found: Some(6) })
    );
    assert_eq!(
        follow(&[1, 2], false),
        Err(OrderError::Misplaced { run, next: 1 })
    );
}

#[test]
fn a_record_out_of_place_is_refused_by_name() {
    let mut orderer = orderer(&[shown()], false);
    orderer.push(record(shown(), 4, Some(1), 1)).unwrap();
    assert_eq!(
        orderer
            .push(record(shown(), 4, Some(1), 1))
            .unwrap_err()
            .to_string(),
        "cannot order impressions[0]@4: the next record of impressions[0] must be at 5 or later"
    );
    assert_eq!(
        orderer
            .push(record(acted(3), 0, Some(1), 1))
            .unwrap_err()
            .to_string(),
        "cannot order actions[3]@0: its partition was not assigned"
    );
    assert_eq!(orderer.n_queued(shown()), 1);
}

#[test]
fn a_partition_that_the_log_gains_is_waited_for_and_merged() {
    let mut orderer = orderer(&[shown(), acted(0)], false);
    orderer.push(record(shown(), 0, Some(10), 10)).unwrap();
    orderer.push(record(acted(0), 0, Some(30), 30)).unwrap();
    orderer.push(record(shown(), 1, Some(40), 40)).unwrap();
    orderer.add(acted(1));
    assert_eq!(
        drain(&mut orderer, true),
        Vec::<String>::new(),
        "its end is not known"
    );
    orderer.push(record(acted(1), 0, Some(20), 20)).unwrap();
    orderer.at_end(acted(1));
    orderer.add(acted(1));
    let merged = ["impressions[0]@0", "actions[1]@0", "actions[0]@0"];
    orderer.at_end(acted(0));
    assert_eq!(drain(&mut orderer, false), merged[..2]);
    assert_eq!(drain(&mut orderer, true), [merged[2], "impressions[0]@1"]);
    assert_eq!(orderer.positions().next(acted(1)), Some(1));
}
