//! The run of a joiner over a world.

use super::*;

pub(in crate::join) fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Accepted => "accepted",
        Outcome::Duplicate => "duplicate",
        Outcome::Excess => "excess",
        Outcome::Late => "late",
        Outcome::Matched => "matched",
        Outcome::DuplicateAction => "duplicate action",
        Outcome::LateAction => "late action",
        Outcome::BeforeShown => "before shown",
        Outcome::Early => "early",
        Outcome::Orphan => "orphan",
        Outcome::Unattributed => "unattributed",
        Outcome::Rejected => "rejected",
        Outcome::Passed => "",
    }
}

/// Applies one event.
pub(in crate::join) fn apply<S: JoinStore>(
    joiner: &mut Joiner<S>,
    offset: usize,
    event: &WorldEvent,
    out: &mut Vec<Vec<Sample>>,
) -> Result<&'static str, JoinError> {
    let effects = match event {
        WorldEvent::Advanced(partition, ts) => joiner.advance(*partition, EventTime(*ts))?,
        WorldEvent::Idle(partition) => joiner.mark(*partition, Mark::Idle)?,
        WorldEvent::Active(partition) => joiner.mark(*partition, Mark::Active)?,
        _ => {
            let recorded = recorded(offset, event).expect("the others are records");
            joiner.step(&recorded, &mut capture)?
        }
    };
    out.append(&mut effects.groups);
    Ok(name(effects.outcome))
}

pub(in crate::join) fn emitted(sample: &Sample) -> EmittedSample {
    EmittedSample {
        request: sample.request.id.0,
        shown_at: sample.shown_at.offset,
        item: sample.candidate.item.0,
        kind: sample.kind as u8,
        labels: (0..8)
            .filter_map(|task| sample.labels.get(task).map(|label| (task, label)))
            .collect(),
        values: sample
            .values
            .iter()
            .map(|(task, value)| (*task, value.to_bits()))
            .collect(),
        action_ms: sample.action_record_ms,
    }
}

/// The report of a joiner on a world, over stores that `store` makes; and every state it exported on the way.
pub(in crate::join) fn joined<S: JoinStore>(
    world: &World,
    bug: Option<PlantedBug>,
    mut store: impl FnMut() -> S,
) -> Result<(Report, Vec<Vec<u8>>), JoinError> {
    let mut joiner = Joiner::new(world.config.clone(), world.partitions.iter().copied(), store())?;
    joiner.planted_bug = bug;
    let (mut out, mut outcomes, mut exports) = (Vec::new(), Vec::new(), Vec::new());
    let mut watermarks = Vec::new();
    for (offset, event) in world.events.iter().enumerate() {
        outcomes.push(apply(&mut joiner, offset, event, &mut out)?);
        joiner.counters().check()?;
        watermarks.push(joiner.clock().watermark().0);
        if world.restarts[offset] {
            let bytes = joiner.export()?;
            joiner = Joiner::import(world.config.clone(), store(), &bytes)?;
            joiner.planted_bug = bug;
            exports.push(bytes);
        }
    }
    joiner.audit()?;
    out.append(&mut joiner.finish()?.groups);
    joiner.audit()?;
    assert!(joiner.store().is_empty(), "a finished joiner keeps nothing");
    let counters = joiner.counters();
    let report = Report {
        outcomes,
        groups: out
            .iter()
            .map(|group| group.iter().map(emitted).collect())
            .collect(),
        fates: [
            counters.orphans,
            counters.matched,
            counters.late_actions,
            counters.unattributed,
        ],
        labels: counters
            .tasks
            .iter()
            .map(|task| [task.late, task.positive, task.negative])
            .collect(),
        early: [
            counters.closed_early,
            counters.orphaned_early,
            counters.forgotten_early,
        ],
        duplicate_items: counters.duplicate_items,
        clamped: counters.tasks.iter().map(|task| task.values_clamped).sum(),
        watermarks,
    };
    Ok((report, exports))
}
