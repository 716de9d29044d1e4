//! Samples for the unit tests of this crate.

use std::sync::Arc;

use ouzel_sample::{
    Batch, Candidate, Dense, EventTime, Id, Labels, N_DENSE, PartitionId, Position, Request, Sample,
    SampleKind, Stream, VectorId,
};

/// A sample of one task. Samples of one item must share its candidate: use [`again`] for the others.
pub(crate) fn sample(request: u64, item: u64, kind: SampleKind, y: bool) -> Sample {
    let partition = PartitionId {
        stream: Stream::Impressions,
        partition: 0,
    };
    Sample {
        seq: 0,
        request: Arc::new(Request {
            past: Vec::new(),
            id: Id(request),
            user: Id(1),
            ts: EventTime(0),
            context: Vec::new(),
            history: Vec::new(),
            contents: Vec::new(),
            n_items: 1,
        }),
        candidate: Arc::new(Candidate {
            past: None,
            item: Id(item),
            attributes: Vec::new(),
            position: None,
            dense: Dense::new([0.0; N_DENSE]),
            content: VectorId::NONE,
            predicted: Default::default(),
        }),
        labels: Labels::UNKNOWN.with(0, y),
        values: Vec::new(),
        kind,
        weight: 1.0,
        shown_at: Position { partition, offset: 0 },
        action_record_ms: matches!(kind, SampleKind::LatePositive).then_some(1),
    }
}

/// A later sample of the same item.
pub(crate) fn again(first: &Sample, kind: SampleKind, y: bool, is_late: bool) -> Sample {
    Sample {
        labels: Labels::UNKNOWN.with(0, y),
        kind,
        action_record_ms: is_late.then_some(1),
        ..first.clone()
    }
}

/// What each policy's stream tells of four items: an early positive, a late one, two negatives.
pub(crate) fn streams() -> Vec<(crate::loss::Policy, Vec<Sample>)> {
    use crate::loss::Policy;
    use SampleKind::{EarlyNegative, Final, LatePositive, RealCopy};
    let outcome = |item: u64| sample(1, item, Final, item < 2);
    let certain: Vec<Sample> = (0..4).map(outcome).collect();
    let presumed = |items: &[u64]| -> Vec<Sample> {
        let told = |item: &u64| {
            again(
                &certain[usize::try_from(*item).unwrap()],
                EarlyNegative,
                false,
                false,
            )
        };
        items.iter().map(told).collect()
    };
    let come = |item: usize| again(&certain[item], LatePositive, true, true);
    let at_once = [presumed(&[0, 1, 2, 3]), vec![come(0), come(1)]].concat();
    let waited = [certain[..1].to_vec(), presumed(&[1, 2, 3])].concat();
    let es_dfm = [waited.clone(), vec![come(1)]].concat();
    let copies = (0..4).map(|item| again(&certain[item], RealCopy, item < 2, item == 1));
    let defer = waited.into_iter().chain(copies).collect();
    vec![
        (Policy::Plain, certain),
        (Policy::Fnw, at_once.clone()),
        (Policy::Fnc, at_once),
        (Policy::EsDfm, es_dfm),
        (Policy::Defer, defer),
    ]
}

/// The samples as one batch.
pub(crate) fn batch(samples: Vec<Sample>) -> Batch {
    Batch {
        seq: 0,
        shown: Vec::new(),
        samples,
        vectors: Default::default(),
        deleted: Vec::new(),
        read: Default::default(),
    }
}
