//! Random worlds through the joiner and through the oracle.
//!
//! `OUZEL_JOIN_CASES` sets how many worlds (default 10,000), `OUZEL_JOIN_SEED` which.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::env;

use ouzel_sample::settings::ByteSize;
use ouzel_sample::{Labels, Sample};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestCaseResult, TestError, TestRng, TestRunner};

use crate::join::clock_oracle::watermarks;
use crate::join::oracle::Oracle;
use crate::join::planted_bug::PlantedBug;
use crate::join::world::*;
use crate::join::*;

fn agrees(world: &World, bug: Option<PlantedBug>) -> TestCaseResult {
    let (report, _) =
        joined(world, bug, MemStore::default).map_err(|error| TestCaseError::fail(error.to_string()))?;
    let expected = Oracle::report(&world.config, &world.partitions, &world.events);
    prop_assert_eq!(report, expected);
    Ok(())
}

fn cases() -> u32 {
    env::var("OUZEL_JOIN_CASES").map_or(10_000, |cases| {
        cases.parse().expect("OUZEL_JOIN_CASES is a number")
    })
}

/// A runner whose worlds depend on the seed alone.
fn runner(cases: u32) -> TestRunner {
    let seed: u64 =
        env::var("OUZEL_JOIN_SEED").map_or(1, |seed| seed.parse().expect("OUZEL_JOIN_SEED is a number"));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Default::default()
    };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

fn run<T: std::fmt::Debug>(
    cases: u32,
    strategy: &impl Strategy<Value = T>,
    test: impl Fn(&T) -> TestCaseResult,
) -> Result<(), TestError<T>> {
    runner(cases).run(strategy, |value| test(&value))
}

#[test]
fn the_joiner_agrees_with_the_oracle() {
    if let Err(error) = run(cases(), &world(60), |world| agrees(world, None)) {
        panic!("{error}");
    }
}

#[test]
fn the_worlds_cover_every_outcome_every_kind_and_every_cap() {
    let seen = Cell::new(BTreeMap::<String, u32>::new());
    let outcome = run(1_000, &world(60), |world| {
        let (report, _) = joined(world, None, MemStore::default).unwrap();
        let mut names = seen.take();
        for outcome in &report.outcomes {
            *names.entry((*outcome).to_owned()).or_default() += 1;
        }
        for sample in report.groups.iter().flatten() {
            *names.entry(format!("kind {}", sample.kind)).or_default() += 1;
        }
        for (cap, count) in ["closed", "orphaned", "forgotten"].into_iter().zip(report.early) {
            *names.entry(format!("{cap} early")).or_default() += u32::from(count > 0);
        }
        seen.set(names);
        Ok(())
    });
    outcome.unwrap();
    let expected = [
        "accepted",
        "duplicate",
        "late",
        "matched",
        "duplicate action",
        "late action",
        "before shown",
        "early",
        "orphan",
        "unattributed",
        "rejected",
        "kind 0",
        "kind 1",
        "kind 2",
        "kind 3",
        "closed early",
        "orphaned early",
        "forgotten early",
    ];
    let seen = seen.take();
    for name in expected {
        assert!(
            seen.get(name).copied().unwrap_or(0) >= 20,
            "{name} is rare: {seen:?}"
        );
    }
}

#[test]
fn every_planted_bug_is_caught() {
    for bug in PlantedBug::ALL {
        let caught = run(3_000, &world(60), |world| {
            std::panic::catch_unwind(|| agrees(world, Some(bug)))
                .unwrap_or_else(|_| Err(TestCaseError::fail("panicked")))
        });
        match caught {
            Err(TestError::Fail(..)) => {}
            other => panic!("{bug:?} was not caught: {other:?}"),
        }
    }
}

#[test]
fn a_restart_leaves_no_trace() {
    let outcome = run(cases() / 10, &world(60), |world| {
        let never = World {
            restarts: vec![false; world.restarts.len()],
            ..world.clone()
        };
        let always = World {
            restarts: vec![true; world.restarts.len()],
            ..world.clone()
        };
        let fail = |error: JoinError| TestCaseError::fail(error.to_string());
        let (report, _) = joined(&never, None, MemStore::default).map_err(fail)?;
        let (again, exports) = joined(&always, None, MemStore::default).map_err(fail)?;
        prop_assert_eq!(report, again);
        // A joiner that was never restarted exports the same bytes.
        let mut joiner = Joiner::new(
            never.config.clone(),
            never.partitions.clone(),
            MemStore::default(),
        )
        .map_err(fail)?;
        for (offset, event) in never.events.iter().enumerate() {
            apply(&mut joiner, offset, event, &mut Vec::new()).map_err(fail)?;
            prop_assert_eq!(&joiner.export().map_err(fail)?, &exports[offset]);
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn the_store_on_disk_gives_the_samples_of_the_store_in_memory() {
    // Each world needs a directory: the same worlds, only fewer.
    let dir = tempfile::tempdir().unwrap();
    let n_cold = Cell::new(0);
    let n_stores = Cell::new(0);
    let outcome = run(cases() / 250, &world(60), |world| {
        let fail = |error: JoinError| TestCaseError::fail(error.to_string());
        let expected = joined(world, None, MemStore::default).map_err(fail)?;
        // Every other world rewrites its files with each spill.
        let limits = SledLimits {
            requests_in_memory: world.events.len() % 3,
            page_cache: ByteSize::from_bytes(1 << 20),
            compaction_threshold: ByteSize::from_bytes(u64::from(world.events.len().is_multiple_of(2)) << 40),
        };
        let on_disk = joined(world, None, || {
            n_stores.set(n_stores.get() + 1);
            SledStore::open(&dir.path().join(n_stores.get().to_string()), limits).unwrap()
        });
        prop_assert_eq!(on_disk.map_err(fail)?, expected);
        let mut joiner = Joiner::new(
            world.config.clone(),
            world.partitions.iter().copied(),
            SledStore::open(&dir.path().join("last"), limits).unwrap(),
        )
        .map_err(fail)?;
        for (offset, event) in world.events.iter().enumerate() {
            apply(&mut joiner, offset, event, &mut Vec::new()).map_err(fail)?;
            n_cold.set(n_cold.get() + joiner.store().n_cold());
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    assert!(n_cold.get() > 100, "nothing was ever on disk");
}

/// Labels by request, item and task.
type Labelled = BTreeMap<(u64, u64, u8), bool>;

fn labels_of(groups: &[Vec<Sample>]) -> Labelled {
    let mut labelled = Labelled::new();
    for sample in groups.iter().flatten() {
        for task in 0..8 {
            if let Some(label) = Labels::get(sample.labels, task) {
                let before = labelled.insert((sample.request.id.0, sample.candidate.item.0, task), label);
                assert_eq!(before, None, "each outcome is emitted once");
            }
        }
    }
    labelled
}

#[test]
fn the_order_of_on_time_events_changes_no_label() {
    // Each item of a request is shown once (and repeated only in copies): of two impressions the first would decide.
    let strategy = (
        config(),
        vec((draft(), 0..8i64), 0..60),
        vec((0..1_000u32, 0..1_000u32), 60),
    );
    let outcome = run(cases() / 10, &strategy, |(config, drafts, noise)| {
        let config = JoinConfig {
            max_pending_items: 1_000,
            max_early_actions: 1_000,
            max_closed_requests: 1_000,
            label_policy: LabelPolicy::Eager,
            ..config.clone()
        };
        let drafted = events(&config, true, drafts.clone());
        let events: Vec<WorldEvent> = without_repeats(drafted.iter().filter(|event| match event {
            WorldEvent::Shown { known_actions, .. } => known_actions.is_none(),
            // Without its request, an action belongs to what was shown before it arrived.
            WorldEvent::Acted { request, .. } => request.is_some(),
            _ => false,
        }));
        // Delaying each event by at most the lateness keeps it on time.
        let arrive = |pick: fn(&(u32, u32)) -> u32| {
            let delay = |at: usize| i64::from(pick(&noise[at])) * config.allowed_lateness.ms() / 999;
            let mut order: Vec<usize> = (0..events.len()).collect();
            order.sort_by_key(|at| match &events[*at] {
                WorldEvent::Shown { ts, .. } | WorldEvent::Acted { ts, .. } => (ts + delay(*at), *at),
                _ => (0, *at),
            });
            order
        };
        let partitions = || {
            [false, true]
                .into_iter()
                .flat_map(|which| [partition_of(false, which), partition_of(true, which)])
        };
        let label = |order: Vec<usize>| {
            let mut joiner = Joiner::new(config.clone(), partitions(), MemStore::default()).unwrap();
            let mut out = Vec::new();
            for at in order {
                apply(&mut joiner, at, &events[at], &mut out).unwrap();
            }
            out.append(&mut joiner.finish().unwrap().groups);
            let counters = joiner.counters();
            let late = counters.tasks.iter().map(|task| task.late).sum::<u64>();
            (labels_of(&out), late)
        };
        let one = label(arrive(|noise| noise.0));
        let other = label(arrive(|noise| noise.1));
        prop_assert_eq!(one.1, 0, "an on-time impression is never late");
        prop_assert_eq!(one, other);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// Feeds a joiner from the start and one from a checkpoint, and compares them where the warm-up must be over.
fn warm_up_holds(world: &World, less_ms: i64, n_arrived: &Cell<u32>) -> TestCaseResult {
    let config = JoinConfig {
        max_pending_items: 1_000,
        max_early_actions: 1_000,
        max_closed_requests: 1_000,
        ..world.config.clone()
    };
    let fail = |error: JoinError| TestCaseError::fail(error.to_string());
    let on_time = world.events.iter().filter(|event| match event {
        WorldEvent::Shown { ts, .. } => *ts > 0,
        _ => true,
    });
    let events = without_repeats(on_time);
    let times = watermarks(&config, &world.partitions, &events);
    // The checkpoint is taken once time has begun, a quarter into the world.
    let started = times.iter().position(|watermark| *watermark > i64::MIN);
    let checkpoint = started.map_or(events.len(), |started| started.max(events.len() / 4));
    // Neither knows that the log starts, as no partition joiner of a tier does.
    let began = EventClock::new(
        config.allowed_lateness.ms(),
        config.max_time_jump.ms(),
        world.partitions.clone(),
    );
    let mut full = Joiner::warm_up(config.clone(), began, MemStore::default()).map_err(fail)?;
    let mut warm = None;
    let (mut newest, mut newest_at_checkpoint, mut ahead) = (i64::MIN, i64::MIN, 0);
    for (offset, event) in events.iter().enumerate() {
        if offset == checkpoint {
            let clock = full.clock().clone();
            warm = Some(Joiner::warm_up(config.clone(), clock, MemStore::default()).map_err(fail)?);
            newest_at_checkpoint = newest;
        }
        if let WorldEvent::Shown { ts, .. } | WorldEvent::Acted { ts, .. } | WorldEvent::Advanced(_, ts) =
            event
        {
            newest = newest.max(*ts);
        }
        apply(&mut full, offset, event, &mut Vec::new()).map_err(fail)?;
        let Some(warm) = &mut warm else { continue };
        apply(warm, offset, event, &mut Vec::new()).map_err(fail)?;
        // Measured before the event: an event after a long silence is looked up before it moves time.
        ahead = ahead.max(newest - (times[offset] + config.allowed_lateness.ms()));
        if full.clock().watermark().0 >= newest_at_checkpoint + config.warm_up_ms(ahead) - less_ms {
            warm.counters = full.counters().clone();
            warm.audit().map_err(fail)?;
            prop_assert_eq!(warm.export().map_err(fail)?, full.export().map_err(fail)?);
            n_arrived.set(n_arrived.get() + 1);
        }
    }
    Ok(())
}

#[test]
fn a_warm_up_from_an_earlier_checkpoint_reaches_the_same_state() {
    let n_arrived = Cell::new(0);
    if let Err(error) = run(cases() / 20, &world(200), |world| {
        warm_up_holds(world, 0, &n_arrived)
    }) {
        panic!("{error}");
    }
    let n_arrived = n_arrived.get();
    assert!(n_arrived > cases() / 20, "{n_arrived} comparisons show nothing");
}

#[test]
fn a_warm_up_too_short_is_caught() {
    let caught = run(1_000, &world(200), |world| {
        warm_up_holds(world, 100, &Cell::new(0))
    });
    assert!(matches!(caught, Err(TestError::Fail(..))), "{caught:?}");
}
