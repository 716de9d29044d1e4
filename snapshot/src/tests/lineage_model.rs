//! Random sequences of every verb, with crashes between any two file operations, against a model of the lineage.
//!
//! A verb here makes the calls that the command line makes for it. The model knows nothing of files: a snapshot is an entry
//! with a parent, a branch and whether it was left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;

use super::{ROOT, check_content, draft, id};
use crate::tests::sim_fs::{FaultKind, SimFs};
use crate::{Alias, AuditVerb, Error, Retention, SnapshotId, Store};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    parent: Option<u64>,
    branch: u64,
    is_left_behind: bool,
}

/// What a store should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    snapshots: BTreeMap<u64, Entry>,
    /// What is remembered of snapshots that were removed: whether they were left behind.
    removed: BTreeMap<u64, bool>,
    latest: Option<u64>,
    serving: Option<u64>,
    pinned: Option<u64>,
    candidate: Option<u64>,
    tags: BTreeMap<String, u64>,
}

impl Model {
    fn write(&mut self, id: u64, parent: Option<u64>) {
        let highest = self.snapshots.values().map(|entry| entry.branch).max();
        let has_child = self.snapshots.values().any(|entry| entry.parent == parent);
        let of_parent = parent.and_then(|parent| self.snapshots.get(&parent));
        let branch = match (of_parent, highest) {
            (Some(entry), _) if !has_child => entry.branch,
            (_, Some(highest)) => highest + 1,
            (_, None) => 0,
        };
        let is_left_behind = of_parent.map(|entry| entry.is_left_behind);
        let removed = parent.and_then(|parent| self.removed.get(&parent).copied());
        let entry = Entry {
            parent,
            branch,
            is_left_behind: is_left_behind.or(removed).unwrap_or(false),
        };
        self.snapshots.insert(id, entry);
    }

    /// Leaves everything behind that is newer than `to`, and takes `to` back in.
    fn leave_behind(&mut self, to: u64) {
        for (_, entry) in self.snapshots.range_mut(to + 1..) {
            entry.is_left_behind = true;
        }
        self.removed
            .range_mut(to + 1..)
            .for_each(|(_, left)| *left = true);
        if let Some(entry) = self.snapshots.get_mut(&to) {
            entry.is_left_behind = false;
        }
        self.removed.entry(to).and_modify(|left| *left = false);
    }

    fn roll_back(&mut self, to: u64) {
        self.leave_behind(to);
        self.latest = Some(to);
    }

    fn adopt(&mut self, id: u64) {
        if let Some(parent) = self.snapshots.get(&id).and_then(|entry| entry.parent) {
            self.leave_behind(parent);
        }
        if let Some(entry) = self.snapshots.get_mut(&id) {
            entry.is_left_behind = false;
        }
        self.latest = Some(id);
    }

    fn remove(&mut self, id: u64) {
        if let Some(entry) = self.snapshots.remove(&id) {
            self.removed.insert(id, entry.is_left_behind);
        }
    }

    /// The snapshot that a start resumes from.
    fn resumed(&self) -> Option<u64> {
        let newest = self
            .snapshots
            .iter()
            .rev()
            .find(|(_, entry)| !entry.is_left_behind);
        self.latest.or(newest.map(|(id, _)| *id))
    }

    fn is_named(&self, id: u64) -> bool {
        let aliases = [self.latest, self.serving, self.pinned, self.candidate];
        aliases.contains(&Some(id)) || self.tags.values().any(|tagged| *tagged == id)
    }

    /// The model that a store is in, without what it cannot show.
    fn of(store: &Store) -> Self {
        let mut model = Self::default();
        for entry in store.list().unwrap() {
            assert_eq!(entry.fault, None, "{entry:?}");
            check_content(&store.read(entry.id).unwrap());
            let manifest = entry.manifest.unwrap();
            let known = Entry {
                parent: manifest.parent.map(SnapshotId::number),
                branch: manifest.branch,
                is_left_behind: entry.is_rolled_back,
            };
            model.snapshots.insert(entry.id.number(), known);
        }
        let alias = |alias| store.alias(alias).unwrap().map(SnapshotId::number);
        model.latest = alias(Alias::Latest);
        model.serving = alias(Alias::Serving);
        model.pinned = alias(Alias::Pinned);
        model.candidate = alias(Alias::Candidate);
        let tags = store.tags().unwrap().into_iter();
        model.tags = tags.map(|(tag, id)| (tag, id.number())).collect();
        model
    }

    fn shown(&self) -> Self {
        Self {
            removed: BTreeMap::new(),
            ..self.clone()
        }
    }
}

/// What an operator or a daemon does.
#[derive(Clone, Debug)]
enum Verb {
    /// The learner writes a snapshot, and it is served.
    Snapshot,
    Pin(Index),
    Unpin,
    Candidate(Index),
    NoCandidate,
    Rewind(Index),
    SkipToNow(Index),
    Quarantine(Index),
    Migrate(Index),
    Tag(Index, u8),
    Untag(u8),
    Collect(usize),
}

#[derive(Clone, Debug)]
enum Step {
    Do(Verb),
    /// The process ends in order and starts again.
    Restart,
    /// The process ends before this file operation of the verb; with a seed, the machine loses its power.
    Crash(Verb, usize, Option<u64>),
}

fn any_verb() -> impl Strategy<Value = Verb> {
    let index = any::<Index>;
    prop_oneof![
        6 => Just(Verb::Snapshot),
        1 => index().prop_map(Verb::Pin),
        1 => Just(Verb::Unpin),
        1 => index().prop_map(Verb::Candidate),
        1 => Just(Verb::NoCandidate),
        2 => index().prop_map(Verb::Rewind),
        2 => index().prop_map(Verb::SkipToNow),
        1 => index().prop_map(Verb::Quarantine),
        2 => index().prop_map(Verb::Migrate),
        1 => (index(), 0..3u8).prop_map(|(index, tag)| Verb::Tag(index, tag)),
        1 => (0..3u8).prop_map(Verb::Untag),
        2 => (1..4usize).prop_map(Verb::Collect),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any_verb().prop_map(Step::Do),
        1 => Just(Step::Restart),
        3 => (any_verb(), 1..60usize, proptest::option::of(any::<u64>()))
            .prop_map(|(verb, at, seed)| Step::Crash(verb, at, seed)),
    ]
}

/// A store with the model that it should be in.
struct World<'a> {
    store: &'a Store,
    model: Model,
    /// The model after the call in progress.
    next: Model,
    tag: u64,
}

impl World<'_> {
    /// Makes a call, and then its change of the model.
    fn call<T>(
        &mut self,
        call: impl FnOnce(&Store) -> Result<T, Error>,
        change: impl FnOnce(&mut Model),
    ) -> Result<T, Error> {
        self.next = self.model.clone();
        change(&mut self.next);
        let done = call(self.store)?;
        self.model = self.next.clone();
        Ok(done)
    }

    /// The id is only known afterwards: see [`check_crashed`].
    fn write(&mut self, parent: Option<u64>) -> Result<u64, Error> {
        let draft = draft(parent, self.tag);
        let written = self.call(|store| store.write(&draft), |_| {})?.number();
        let known = self.model.snapshots.keys().chain(self.model.removed.keys());
        assert!(known.max().is_none_or(|newest| *newest < written), "ids grow");
        self.model.write(written, parent);
        Ok(written)
    }

    fn point(&mut self, alias: Alias, to: u64) -> Result<(), Error> {
        self.call(
            |store| store.set_alias(alias, id(to)),
            |model| match alias {
                Alias::Latest => model.latest = Some(to),
                Alias::Serving => model.serving = Some(to),
                Alias::Pinned => model.pinned = Some(to),
                Alias::Candidate => model.candidate = Some(to),
            },
        )
    }

    fn record(&mut self, verb: AuditVerb, on: u64) -> Result<(), Error> {
        self.call(|store| store.record_action(verb, id(on), "", 0), |_| {})
    }

    fn rewind(&mut self, to: u64) -> Result<(), Error> {
        self.call(|store| store.rollback(id(to), "", 0), |model| model.roll_back(to))?;
        self.unpin()
    }

    fn unpin(&mut self) -> Result<(), Error> {
        self.call(|store| store.unpin("", 0), |model| model.pinned = None)
    }

    /// Writes a child of `parent` and makes it the latest.
    fn branch_off(&mut self, parent: u64) -> Result<(), Error> {
        let was = self.model.latest;
        let written = self.write(Some(parent))?;
        if was == Some(parent) {
            return self.point(Alias::Latest, written);
        }
        self.call(
            |store| store.adopt(id(written), "", 0),
            |model| model.adopt(written),
        )
    }

    fn carry_out(&mut self, verb: &Verb) -> Result<(), Error> {
        let ids: Vec<u64> = self.model.snapshots.keys().copied().collect();
        let choose = |index: &Index| (!ids.is_empty()).then(|| ids[index.index(ids.len())]);
        match verb {
            Verb::Snapshot => {
                let written = self.write(self.model.resumed())?;
                self.point(Alias::Latest, written)?;
                self.point(Alias::Serving, written)?;
            }
            Verb::Unpin => self.unpin()?,
            Verb::Pin(index) => {
                if let Some(to) = choose(index) {
                    self.call(|store| store.pin(id(to), "", 0), |model| model.pinned = Some(to))?;
                }
            }
            Verb::Candidate(index) => {
                if let Some(to) = choose(index) {
                    self.call(
                        |store| store.set_candidate(id(to), "", 0),
                        |model| model.candidate = Some(to),
                    )?;
                }
            }
            Verb::NoCandidate => {
                self.call(
                    |store| store.remove_candidate("", 0),
                    |model| model.candidate = None,
                )?;
            }
            Verb::Rewind(index) => {
                if let Some(to) = choose(index) {
                    self.rewind(to)?;
                }
            }
            Verb::Quarantine(index) => {
                if let Some(to) = choose(index) {
                    self.record(AuditVerb::Quarantine, to)?;
                    self.rewind(to)?;
                }
            }
            Verb::SkipToNow(index) => {
                if let Some(to) = choose(index).filter(|to| self.model.latest != Some(*to)) {
                    self.branch_off(to)?;
                    self.unpin()?;
                }
            }
            Verb::Migrate(index) => {
                if let Some(from) = choose(index) {
                    self.record(AuditVerb::Migrate, from)?;
                    self.branch_off(from)?;
                }
            }
            Verb::Tag(index, name) => {
                let name = format!("t{name}");
                if let Some(to) = choose(index).filter(|_| !self.model.tags.contains_key(&name)) {
                    self.call(
                        |store| store.tag(id(to), &name, "", 0),
                        |model| model.tags.extend([(name.clone(), to)]),
                    )?;
                }
            }
            Verb::Untag(name) => {
                let name = format!("t{name}");
                if self.model.tags.contains_key(&name) {
                    self.call(
                        |store| store.untag(&name, "", 0),
                        |model| model.tags.retain(|tag, _| *tag != name),
                    )?;
                }
            }
            Verb::Collect(keep) => {
                self.next = self.model.clone();
                let removed = self.store.gc(Retention::newest(*keep), 0)?;
                let removed: BTreeSet<u64> = removed.into_iter().map(SnapshotId::number).collect();
                self.model.check_collected(*keep, &removed);
                removed.into_iter().for_each(|id| self.model.remove(id));
            }
        }
        Ok(())
    }
}

impl Model {
    /// Checks that what was removed may be, and that the newest stay.
    fn check_collected(&self, keep: usize, removed: &BTreeSet<u64>) {
        assert!(
            removed
                .iter()
                .all(|id| self.snapshots.contains_key(id) && !self.is_named(*id))
        );
        let sound = self
            .snapshots
            .iter()
            .rev()
            .filter(|(_, entry)| !entry.is_left_behind);
        for (id, _) in sound.take(keep) {
            assert!(
                !removed.contains(id),
                "{id} is one of the {keep} newest of {self:?}"
            );
        }
    }
}

/// Checks a store after a crash in a verb, and returns the model that it is in.
fn check_crashed(store: &Store, world: &World<'_>, verb: &Verb) -> Model {
    let found = Model::of(store);
    let (before, mut after) = (world.model.clone(), world.next.clone());
    if let Verb::Collect(keep) = verb {
        let gone = before
            .snapshots
            .keys()
            .filter(|id| !found.snapshots.contains_key(id));
        let gone: BTreeSet<u64> = gone.copied().collect();
        before.check_collected(*keep, &gone);
        after = before.clone();
        gone.into_iter().for_each(|id| after.remove(id));
    } else if let Some(written) = found
        .snapshots
        .keys()
        .find(|id| !before.snapshots.contains_key(id))
    {
        // The call in progress was a write, whose id the model did not know.
        after = before.clone();
        after.write(*written, found.snapshots[written].parent);
    }
    if found == after.shown() {
        return after;
    }
    assert_eq!(
        found,
        before.shown(),
        "neither before nor after the call in {verb:?}"
    );
    before
}

fn check(store: &Store, model: &Model) {
    assert_eq!(Model::of(store), model.shown());
    let recovery = store.newest_valid().unwrap();
    assert_eq!(
        recovery.snapshot.map(|snapshot| snapshot.id().number()),
        model.resumed()
    );
    let audit = store.audit().unwrap();
    assert_eq!(audit.broken_at, None);
}

fn open(sim: &SimFs) -> Result<Store, Error> {
    Store::open_on(Arc::new(sim.clone()), Path::new(ROOT))
}

fn run(steps: Vec<Step>) {
    let mut sim = SimFs::new();
    let mut store = open(&sim).unwrap();
    let mut model = Model::default();
    for (tag, step) in (0u64..).zip(steps) {
        let world = |store, model: &Model| World {
            store,
            model: model.clone(),
            next: model.clone(),
            tag,
        };
        match step {
            Step::Do(verb) => {
                let mut world = world(&store, &model);
                world.carry_out(&verb).unwrap();
                model = world.model;
            }
            Step::Restart => {
                drop(store);
                store = open(&sim).unwrap();
            }
            Step::Crash(verb, at, seed) => {
                drop(store);
                sim.sync_all();
                let dying = sim.fork(at, FaultKind::Kill);
                let crashed = open(&dying);
                let reopen = |dying: &SimFs| match seed {
                    Some(seed) => dying.power_loss(seed),
                    None => dying.restart(),
                };
                match &crashed {
                    Err(_) => sim = reopen(&dying),
                    Ok(crashed) => {
                        let mut world = world(crashed, &model);
                        let done = world.carry_out(&verb);
                        assert!(done.is_ok() || dying.has_failed(), "{verb:?}: {done:?}");
                        sim = reopen(&dying);
                        if done.is_ok() {
                            world.next = world.model.clone();
                        }
                        model = check_crashed(&super::inspect(&sim), &world, &verb);
                    }
                }
                drop(crashed);
                store = open(&sim).unwrap();
            }
        }
        check(&store, &model);
    }
}

#[test]
fn a_power_loss_while_a_snapshot_gets_its_name_leaves_all_of_it_or_nothing() {
    for at in 40..80 {
        for seed in 0..60 {
            run(vec![Step::Crash(Verb::Snapshot, at, Some(seed))]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_verbs_and_crashes_is_a_lineage_of_the_model(
        steps in prop::collection::vec(any_step(), 1..30),
    ) {
        run(steps);
    }
}
