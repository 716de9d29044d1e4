//! The samples that each label policy emits, and when.
//!
//! The joiner decides outcomes and calls these functions on four events of a request: shown, acted, waited, closed.
//! They only make samples and count nothing. See [`LabelPolicy`] for the stream that each policy emits.

use std::sync::Arc;

use ouzel_sample::{Labels, Sample, SampleKind, TaskId};

use crate::join::config::LabelPolicy;
use crate::join::slot::{OpenImpression, OpenItem};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// They are due.
    Due,
    /// The cap on pending items was exceeded: negatives are only presumed.
    Overload,
}

/// Samples `tasks` as negative, under the policies that do not wait.
pub(crate) fn shown(open: &mut OpenImpression, tasks: u8, group: &mut Vec<Sample>) {
    for item in &open.items {
        push(
            group,
            open,
            item,
            SampleKind::EarlyNegative,
            Labels::from_masks(tasks, 0),
        );
    }
    open.sampled |= tasks;
}

/// An action joined as the positive of `task` for item `index`, whose `positive` bit is already set.
pub(crate) fn acted(
    policy: LabelPolicy,
    open: &mut OpenImpression,
    index: usize,
    task: TaskId,
    record_ms: Option<i64>,
    group: &mut Vec<Sample>,
) {
    let bit = 1 << task;
    let was_sampled = open.sampled & bit != 0;
    let kind = match policy {
        LabelPolicy::Eager if open.held & bit != 0 => return,
        LabelPolicy::Eager => SampleKind::Final,
        LabelPolicy::Fnw | LabelPolicy::Fnc => SampleKind::LatePositive,
        LabelPolicy::EsDfm if was_sampled => SampleKind::LatePositive,
        LabelPolicy::Defer if was_sampled => SampleKind::RealCopy,
        LabelPolicy::Wait | LabelPolicy::EsDfm | LabelPolicy::Defer => return,
    };
    if kind == SampleKind::RealCopy {
        open.items[index].copied |= bit;
    }
    push(
        group,
        open,
        &open.items[index],
        kind,
        Labels::from_masks(bit, bit),
    );
    if let Some(sample) = group.last_mut() {
        sample.action_record_ms = record_ms;
    }
}

/// The first samples of `tasks` are due: the labels seen so far, under the policies that wait.
pub(crate) fn waited(policy: LabelPolicy, open: &mut OpenImpression, tasks: u8, group: &mut Vec<Sample>) {
    if policy.is_at_once() {
        return shown(open, tasks, group);
    }
    for item in &open.items {
        split(group, open, item, tasks);
    }
    open.sampled |= tasks;
}

/// The windows of `tasks` close.
pub(crate) fn closed(
    policy: LabelPolicy,
    open: &OpenImpression,
    tasks: u8,
    close: CloseReason,
    group: &mut Vec<Sample>,
) {
    for item in &open.items {
        let positive = item.positive & tasks;
        let negative = tasks & !positive;
        // Under `eager` only the positives that were held back are still missing.
        let held = positive & open.held;
        match (policy, close) {
            (LabelPolicy::Eager, CloseReason::Due) => {
                push(
                    group,
                    open,
                    item,
                    SampleKind::Final,
                    Labels::from_masks(negative | held, held),
                );
            }
            (LabelPolicy::Eager, CloseReason::Overload) => split(group, open, item, negative | held),
            (LabelPolicy::Wait, CloseReason::Due) => {
                push(
                    group,
                    open,
                    item,
                    SampleKind::Final,
                    Labels::from_masks(tasks, positive),
                );
            }
            (LabelPolicy::Wait, CloseReason::Overload) => split(group, open, item, tasks),
            (LabelPolicy::Defer, _) => {
                let remaining = tasks & !item.copied;
                let known = Labels::from_masks(remaining, positive);
                push(group, open, item, SampleKind::RealCopy, known);
            }
            (LabelPolicy::Fnw | LabelPolicy::Fnc | LabelPolicy::EsDfm, _) => {}
        }
    }
}

/// Samples a request that came with its labels: one certain sample per item, whatever the policy.
pub(crate) fn fully_labeled(open: &OpenImpression, tasks: u8, group: &mut Vec<Sample>) {
    for item in &open.items {
        push(
            group,
            open,
            item,
            SampleKind::Final,
            Labels::from_masks(tasks, item.positive),
        );
    }
}

/// Samples `tasks` as seen now: certain positives and presumed negatives, in a sample each.
fn split(group: &mut Vec<Sample>, open: &OpenImpression, item: &OpenItem, tasks: u8) {
    let positive = item.positive & tasks;
    push(
        group,
        open,
        item,
        SampleKind::Final,
        Labels::from_masks(positive, positive),
    );
    let negative = Labels::from_masks(tasks & !positive, 0);
    push(group, open, item, SampleKind::EarlyNegative, negative);
}

fn push(group: &mut Vec<Sample>, open: &OpenImpression, item: &OpenItem, kind: SampleKind, labels: Labels) {
    if labels.is_unknown() {
        return;
    }
    let values = match open.values.is_empty() {
        true => Vec::new(),
        false => open.values_of(item.candidate.item, labels),
    };
    group.push(Sample {
        seq: 0,
        request: Arc::clone(&open.request),
        candidate: Arc::clone(&item.candidate),
        labels,
        values,
        kind,
        weight: 1.0,
        shown_at: open.shown_at,
        action_record_ms: None,
    });
}
