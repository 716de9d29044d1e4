//! The guarantee of the plan log: following a recorded plan gives the batches and the state of the run that
//! recorded it, for any arrival of records, any decision and a crash between any two effects.

use std::collections::BTreeMap;

use ouzel_sample::settings::Period;
use ouzel_sample::{
    Action, Content, ContentHash, Deletion, EventTime, FeatureChange, FeatureConfig, FeatureState,
    Impression, Position, ProfileUpdate, ShownItem, Stream,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseResult, TestError, TestRunner};

use super::*;
use crate::join::{JoinConfig, LabelPolicy, StoreConfig, TaskConfig};
use crate::stage::{StageBytes, StageCheckpoint};

const PARTITIONS: [(Stream, i32); 6] = [
    (Stream::Items, 0),
    (Stream::Users, 0),
    (Stream::Impressions, 0),
    (Stream::Actions, 0),
    (Stream::Actions, 1),
    (Stream::Impressions, 1),
];
/// The last partition is added during the first run.
const ADDED: usize = 5;
const CHECKPOINT_EVERY: u64 = 3;

type Log = Vec<Vec<DecodedRecord>>;

fn id(index: usize) -> PartitionId {
    let (stream, partition) = PARTITIONS[index];
    PartitionId { stream, partition }
}

fn config() -> JoinConfig {
    JoinConfig {
        tasks: vec![TaskConfig::new("click", 40)],
        label_policy: LabelPolicy::Eager,
        allowed_lateness: Period::from_ms(5),
        ..JoinConfig::default()
    }
}

/// The next record: its partition, the time since the one before, its request, and its delay.
#[derive(Clone, Debug)]
struct Draft {
    partition: usize,
    after_ms: i64,
    request: u64,
    delay_ms: i64,
}

fn drafts() -> impl Strategy<Value = Vec<Draft>> {
    let delay_ms = prop_oneof![4 => Just(0i64), 1 => 0..30i64];
    let draft = (0..PARTITIONS.len(), 0..12i64, 0..6u64, delay_ms).prop_map(
        |(partition, after_ms, request, delay_ms)| Draft {
            partition,
            after_ms,
            request,
            delay_ms,
        },
    );
    vec(draft, 1..120)
}

fn log(drafts: &[Draft]) -> Log {
    let mut log: Log = vec![Vec::new(); PARTITIONS.len()];
    let mut now = 1_000;
    for (index, draft) in (0u64..).zip(drafts) {
        now += draft.after_ms;
        let ts = EventTime(now - draft.delay_ms);
        let request = Id(draft.request + index / 10 * 6);
        let (item, user) = (Id(draft.request % 3), Id(request.0 % 4));
        let event = match id(draft.partition).stream {
            Stream::Items if index % 5 == 0 => Event::Deletion(Deletion { item, ts }),
            Stream::Items => Event::Item(Box::new(Item {
                id: item,
                name: item.to_string(),
                ts,
                attributes: Vec::new(),
                tag_names: Vec::new(),
                numbers: Vec::new(),
                has_title: false,
                texts: vec![format!("version {index}")],
                image: None,
                vectors: Vec::new(),
            })),
            Stream::Users => Event::Profile(Box::new(ProfileUpdate {
                user,
                ts,
                clears_features: index % 3 > 0,
                features: vec![
                    (Id(index % 2), FeatureChange::Values(vec![Id(100 + index)])),
                    (Id(2), FeatureChange::Number(draft.delay_ms as f32)),
                ],
                is_deletion: index % 7 == 0,
            })),
            Stream::Impressions => Event::Impression(Impression {
                request,
                user,
                ts,
                items: (0..3).map(|item| ShownItem::new(Id(item), None)).collect(),
                context: vec![Id(request.0 % 2)],
                numbers: Vec::new(),
                known_actions: None,
            }),
            _ => Event::Action(Action {
                request: Some(request),
                item,
                user,
                ts,
                task: 0,
                value: None,
            }),
        };
        let records = &mut log[draft.partition];
        records.push(DecodedRecord {
            position: Position {
                partition: id(draft.partition),
                offset: i64::try_from(records.len()).unwrap(),
            },
            timestamp_ms: Some(now),
            event: Ok(event),
        });
    }
    log
}

/// One input to a sequencer.
#[derive(Clone, Debug)]
enum Input {
    /// The next records of a partition arrive.
    Arrive(usize, usize),
    AtEnd(usize),
    Release(bool),
    Flush,
    Idle(usize),
    /// This number of items is encoded.
    Encoded(usize),
    Added,
    Checkpoint,
}

fn inputs() -> impl Strategy<Value = Vec<Input>> {
    let partition = || 0..PARTITIONS.len();
    let input = prop_oneof![
        6 => (partition(), 1..12usize).prop_map(|(partition, n)| Input::Arrive(partition, n)),
        3 => partition().prop_map(Input::AtEnd),
        5 => any::<bool>().prop_map(Input::Release),
        1 => Just(Input::Flush),
        1 => partition().prop_map(Input::Idle),
        1 => (1..4usize).prop_map(Input::Encoded),
        1 => Just(Input::Added),
        1 => Just(Input::Checkpoint),
    ];
    vec(input, 0..80)
}

/// The process ended between two effects.
#[derive(Debug)]
struct Crashed;

/// The state that a crash leaves, and the batches that the learner got before it.
#[derive(Debug, Default)]
struct Durable {
    plan: Vec<PlanEntry>,
    checkpoints: Vec<(u64, StageCheckpoint)>,
    handed: Vec<Batch>,
}

/// A caller without clock, threads or files.
struct Caller<'a> {
    sequencer: Sequencer,
    log: &'a Log,
    n_arrived: Vec<usize>,
    is_added: bool,
    to_encode: Vec<Arc<Item>>,
    durable: Durable,
    /// Effects left before the crash.
    n_left: usize,
    /// A planted bug: batches are handed over before their entry is appended.
    hands_over_first: bool,
    stops_when_caught_up: bool,
}

/// The vectors of an item.
fn vectors(content: ContentHash) -> ItemVectors {
    let mut vectors: ItemVectors = Default::default();
    vectors[0] = Some(Vector::encoded(content, vec![f32::from(content.0[0]), 1.0]));
    vectors
}

impl<'a> Caller<'a> {
    /// Starts from the last checkpoint, following the plan behind it.
    fn start(log: &'a Log, durable: Durable, n_effects: usize, is_added: bool) -> Self {
        let checkpoint = durable.checkpoints.last();
        let stage = match checkpoint {
            None => {
                let timed = (2..ADDED).map(id);
                let features = Arc::new(FeatureState::new(FeatureConfig::default()));
                Stage::new(&StoreConfig::Memory, &config(), timed, features, 4).unwrap()
            }
            Some((_, checkpoint)) => Stage::restore(
                &StoreConfig::Memory,
                &config(),
                FeatureConfig::default(),
                &checkpoint.bytes,
            )
            .unwrap(),
        };
        // A feature state contains the hashes of its encoded vectors; the caller loads them.
        stage.features().vectors().fill(|_, content| {
            vectors(content)[0]
                .as_ref()
                .map(|vector| Arc::clone(&vector.values))
        });
        let position = checkpoint.map_or(0, |(position, _)| *position);
        let is_added = is_added || stage.positions().next(id(ADDED)).is_some();
        let assigned = (0..PARTITIONS.len()).filter(|index| *index != ADDED || is_added);
        let start: Positions = assigned
            .map(|index| (id(index), stage.positions().next(id(index)).unwrap_or(0)))
            .collect();
        let n_arrived = (0..PARTITIONS.len())
            .map(|index| usize::try_from(start.next(id(index)).unwrap_or(0)).unwrap())
            .collect();
        let recorded = durable.plan.iter().filter(|entry| entry.seq >= position);
        let recorded = recorded.cloned().collect();
        Self {
            sequencer: Sequencer::new(stage, &start, position, recorded, CHECKPOINT_EVERY),
            log,
            n_arrived,
            is_added,
            to_encode: Vec::new(),
            durable,
            n_left: n_effects,
            hands_over_first: false,
            stops_when_caught_up: false,
        }
    }

    fn effect(&mut self) -> Result<(), Crashed> {
        self.n_left = self.n_left.checked_sub(1).ok_or(Crashed)?;
        Ok(())
    }

    fn execute(&mut self, mut effects: Effects) -> Result<(), Crashed> {
        if self.hands_over_first {
            self.hand_over(&mut effects)?;
        }
        if let Some(entry) = effects.append.take() {
            self.effect()?;
            assert_eq!(
                entry.seq,
                self.durable.plan.len() as u64,
                "entries are numbered without a gap"
            );
            self.durable.plan.push(entry);
        }
        self.hand_over(&mut effects)?;
        if effects.is_checkpoint_due {
            self.effect()?;
            let checkpoint = self.sequencer.stage().checkpoint().unwrap();
            self.durable
                .checkpoints
                .push((self.sequencer.plan_position(), checkpoint));
        }
        self.to_encode.extend(effects.encode);
        Ok(())
    }

    fn hand_over(&mut self, effects: &mut Effects) -> Result<(), Crashed> {
        for batch in effects.batches.drain(..) {
            self.effect()?;
            self.durable.handed.push(batch);
        }
        Ok(())
    }

    fn release(&mut self, is_due: bool) -> Result<(), Crashed> {
        while !self.stops_when_caught_up || self.sequencer.is_following() {
            let Some(next) = self.sequencer.next(is_due).unwrap() else {
                break;
            };
            let effects = match next {
                NextInput::Record(recorded) => self.sequencer.take(&recorded).unwrap(),
                NextInput::EndOfEntry(encoded) => {
                    let loaded = encoded
                        .into_iter()
                        .map(|(item, contents)| (item, contents[0].map(vectors).unwrap_or_default()));
                    self.sequencer.end_entry(loaded.collect()).unwrap()
                }
            };
            self.execute(effects)?;
        }
        Ok(())
    }

    fn arrive(&mut self, index: usize, n: usize) {
        if index == ADDED && !self.is_added {
            return;
        }
        let from = self.n_arrived[index];
        for recorded in self.log[index].iter().skip(from).take(n) {
            self.sequencer.push(recorded.clone()).unwrap();
            self.n_arrived[index] += 1;
        }
    }

    fn at_end(&mut self, index: usize) {
        if self.n_arrived[index] == self.log[index].len() {
            self.sequencer.at_end(id(index));
        }
    }

    fn input(&mut self, input: &Input) -> Result<(), Crashed> {
        let effects = match input {
            Input::Arrive(index, n) => {
                self.arrive(*index, *n);
                return Ok(());
            }
            // For a run that has caught up, records that have not arrived are not written yet.
            Input::AtEnd(index) if self.sequencer.is_following() => {
                self.at_end(*index);
                return Ok(());
            }
            Input::AtEnd(index) => {
                self.sequencer.at_end(id(*index));
                return Ok(());
            }
            Input::Release(is_due) => return self.release(*is_due),
            Input::Added => {
                if !self.is_added {
                    self.is_added = true;
                    self.sequencer.add_partition(id(ADDED));
                }
                return Ok(());
            }
            Input::Flush => self.sequencer.flush().unwrap(),
            Input::Idle(index) => self.sequencer.mark(vec![id(*index)]).unwrap(),
            Input::Encoded(n) => {
                let n = (*n).min(self.to_encode.len());
                let encoded = self.to_encode.drain(..n).map(|item| {
                    let content = Content::text(&item.texts[0]).hash();
                    (item.id, vectors(content))
                });
                let encoded = encoded.collect();
                self.sequencer.use_vectors(encoded).unwrap()
            }
            Input::Checkpoint if self.sequencer.is_following() => return Ok(()),
            Input::Checkpoint => self.sequencer.request_checkpoint().unwrap(),
        };
        self.execute(effects)
    }

    fn run(mut self, inputs: &[Input]) -> (Self, bool) {
        let is_crashed = inputs.iter().any(|input| self.input(input).is_err());
        (self, is_crashed)
    }

    /// Delivers all written records and follows the plan to its end.
    fn catch_up(&mut self) {
        for index in 0..PARTITIONS.len() {
            self.arrive(index, usize::MAX);
            self.at_end(index);
        }
        self.stops_when_caught_up = true;
        self.release(false).unwrap();
        assert!(!self.sequencer.is_following(), "the whole log has arrived");
    }

    fn state(&self) -> (StageBytes, Positions) {
        let checkpoint = self.sequencer.stage().checkpoint().unwrap();
        let bytes = checkpoint.bytes;
        (bytes, checkpoint.positions)
    }
}

/// The samples and deletions of each batch, by its number. Slates shown since the batch before serve validation
/// alone and are in no checkpoint, so the first batch after a restart may lack some.
fn learned(batches: &[Batch]) -> BTreeMap<u64, (Vec<ouzel_sample::Sample>, Vec<Id>)> {
    batches
        .iter()
        .map(|batch| (batch.seq, (batch.samples.clone(), batch.deleted.clone())))
        .collect()
}

fn whole_run<'a>(log: &'a Log, inputs: &[Input]) -> Caller<'a> {
    let (mut caller, _) = Caller::start(log, Durable::default(), usize::MAX, false).run(inputs);
    let effects = caller.sequencer.request_checkpoint().unwrap();
    caller.execute(effects).unwrap();
    caller
}

/// Runs until a crash, restarts, follows the plan and continues; compares the batches that the learner got twice.
fn crash_is_harmless(
    log: &Log,
    inputs: [&[Input]; 2],
    n_effects: usize,
    hands_over_first: bool,
) -> TestCaseResult {
    let mut first = Caller::start(log, Durable::default(), n_effects, false);
    first.hands_over_first = hands_over_first;
    let (first, _) = first.run(inputs[0]);
    let handed = learned(&first.durable.handed);
    let next_batch = first.durable.checkpoints.last();
    let next_batch = next_batch.map_or(0, |(_, checkpoint)| checkpoint.next_batch);
    let durable = Durable {
        handed: Vec::new(),
        ..first.durable
    };
    let (mut second, _) = Caller::start(log, durable, usize::MAX, true).run(inputs[1]);
    second.catch_up();
    let again = learned(&second.durable.handed);
    for (seq, batch) in handed.range(next_batch..) {
        prop_assert_eq!(
            Some(batch),
            again.get(seq),
            "batch {} was learned from before the crash",
            seq
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(300), ..ProptestConfig::default() })]

    #[test]
    fn a_followed_plan_gives_the_batches_and_the_state_of_the_run_that_recorded_it(
        drafts in drafts(),
        recorded in inputs(),
        arrivals in inputs(),
    ) {
        let log = log(&drafts);
        let first = whole_run(&log, &recorded);
        let durable = Durable { plan: first.durable.plan.clone(), ..Durable::default() };
        let mut second = Caller::start(&log, durable, usize::MAX, true);
        second.stops_when_caught_up = true;
        for input in &arrivals {
            // Marks, flushes and vectors of this schedule change nothing: the plan has recorded them.
            if second.sequencer.is_following() {
                second.input(input).unwrap();
            }
        }
        second.catch_up();
        prop_assert_eq!(&first.durable.handed, &second.durable.handed);
        prop_assert_eq!(first.sequencer.plan_position(), second.sequencer.plan_position());
        prop_assert_eq!(first.state(), second.state());
    }

    #[test]
    fn any_checkpoint_with_the_remaining_plan_is_the_same_state(drafts in drafts(), inputs in inputs()) {
        let log = log(&drafts);
        let first = whole_run(&log, &inputs);
        for n in 0..=first.durable.checkpoints.len() {
            let durable = Durable {
                plan: first.durable.plan.clone(),
                checkpoints: first.durable.checkpoints[..n].to_vec(),
                handed: Vec::new(),
            };
            let mut again = Caller::start(&log, durable, usize::MAX, true);
            again.catch_up();
            prop_assert_eq!(first.state(), again.state());
            let (all, rest) = (learned(&first.durable.handed), learned(&again.durable.handed));
            prop_assert!(rest.iter().all(|(seq, batch)| all.get(seq) == Some(batch)));
        }
    }

    #[test]
    fn a_crash_between_any_two_effects_changes_nothing(
        drafts in drafts(),
        before in inputs(),
        after in inputs(),
        n_effects in 0..60usize,
    ) {
        crash_is_harmless(&log(&drafts), [&before, &after], n_effects, false)?;
    }
}

#[test]
fn handing_over_before_recording_is_caught() {
    let strategy = (drafts(), inputs(), inputs(), 0..60usize);
    let caught = TestRunner::new(ProptestConfig {
        cases: 3_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })
    .run(&strategy, |(drafts, before, after, n_effects)| {
        crash_is_harmless(&log(&drafts), [&before, &after], n_effects, true)
    });
    assert!(matches!(caught, Err(TestError::Fail(..))), "{caught:?}");
}
