//! Made-up batches of one shape: so many requests, candidates and past actions, contents of items in two modalities.

use std::sync::Arc;

use ouzel_learner::model::uniform;
use ouzel_sample::{
    Attribute, AttributeField, Batch, Candidate, Dense, EventTime, HistoryEntry, Id, ItemVectors, Labels,
    N_DENSE, PartitionId, Position, Request, Sample, SampleKind, ShownLogits, Stream, Vector, VectorId,
    VectorMap, VectorTable,
};

pub(crate) const N_ITEMS: u64 = 20_000;
const N_USERS: u64 = 200_000;
const N_CATEGORIES: u64 = 1_000;
const CATEGORY: u64 = 1 << 32;
pub(crate) const TEXT: usize = 384;
pub(crate) const IMAGE: usize = 512;

/// The shape of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) requests: u64,
    pub(crate) candidates: u64,
    pub(crate) history: u64,
}

impl Shape {
    pub(crate) fn history(self) -> usize {
        usize::try_from(self.history).unwrap_or(1)
    }

    pub(crate) fn samples(self) -> u64 {
        self.requests * self.candidates
    }
}

/// All items' contents.
pub(crate) struct World {
    table: VectorTable,
}

impl World {
    pub(crate) fn new() -> Self {
        let table = VectorTable::default();
        for item in 0..N_ITEMS {
            let vector = |seed: u64, width: usize| {
                let values: Vec<f32> = (0..width as u64)
                    .map(|lane| uniform(seed, item, lane) - 0.5)
                    .collect();
                Vector::provided(&values)
            };
            let vectors: ItemVectors = [vector(1, TEXT), vector(2, IMAGE)];
            table.put(Id(item), vectors);
        }
        Self { table }
    }

    /// Batch number `seq`.
    pub(crate) fn batch(&self, shape: Shape, seq: u64) -> Batch {
        let samples: Vec<Sample> = (0..shape.requests)
            .flat_map(|request| self.slate(shape, seq * shape.requests + request))
            .collect();
        let ids = samples.iter().flat_map(|sample| {
            let past = sample.request.contents.iter().copied();
            past.chain([sample.candidate.content])
        });
        let vectors = VectorMap::new(&self.table.read(), ids);
        Batch {
            deleted: Vec::new(),
            read: Default::default(),
            seq,
            shown: Vec::new(),
            samples,
            vectors,
        }
    }

    /// An item's frozen vector.
    pub(crate) fn vector(&self, item: u64, modality: usize) -> Vec<f32> {
        let list = self.table.read();
        let vectors = list.get(self.content(item)).expect("every item has contents");
        vectors[modality]
            .as_ref()
            .expect("in both modalities")
            .values
            .to_vec()
    }

    fn content(&self, item: u64) -> VectorId {
        self.table.current(Id(item))
    }

    fn slate(&self, shape: Shape, number: u64) -> Vec<Sample> {
        let now = EventTime(1_000_000_000_000);
        let past: Vec<u64> = (0..shape.history).map(|n| item(number, 1000 + n)).collect();
        let entry = |(n, item): (i64, &u64)| HistoryEntry {
            item: Id(*item),
            ts: now.plus_ms(-60_000 * (n + 1)),
            attribute: Id(CATEGORY + item % N_CATEGORIES),
            task: 0,
        };
        let request = Arc::new(Request {
            past: Vec::new(),
            id: Id(number),
            user: Id(pick(number, 0, N_USERS)),
            ts: now,
            context: Vec::new(),
            history: (0i64..).zip(&past).map(entry).collect(),
            contents: past.iter().map(|item| self.content(*item)).collect(),
            n_items: u16::try_from(shape.candidates).unwrap_or(u16::MAX),
        });
        let shown_at = Position {
            partition: PartitionId {
                stream: Stream::Impressions,
                partition: 0,
            },
            offset: 0,
        };
        (0..shape.candidates)
            .map(|n| {
                let item = item(number, 10 + n);
                let mut dense = [0.0; N_DENSE];
                for (lane, value) in (0u64..).zip(&mut dense) {
                    *value = uniform(4, number * 64 + n, lane);
                }
                Sample {
                    seq: 0,
                    request: Arc::clone(&request),
                    candidate: Arc::new(Candidate {
                        past: None,
                        item: Id(item),
                        attributes: vec![Attribute {
                            field: AttributeField::Category,
                            value: Id(CATEGORY + item % N_CATEGORIES),
                        }],
                        position: None,
                        dense: Dense::new(dense),
                        content: self.content(item),
                        predicted: ShownLogits::default(),
                    }),
                    labels: Labels::UNKNOWN.with(0, uniform(5, number, n) < 0.1),
                    values: Vec::new(),
                    kind: SampleKind::Final,
                    weight: 1.0,
                    shown_at,
                    action_record_ms: None,
                }
            })
            .collect()
    }
}

/// An item by its popularity, which falls as a power of its rank.
fn item(request: u64, lane: u64) -> u64 {
    let tail = f64::from(uniform(6, request, lane)).powf(-1.0 / 0.8) - 1.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
    let rank = tail.min(1e9) as u64;
    rank.min(N_ITEMS - 1)
}

fn pick(request: u64, lane: u64, n: u64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place")]
    let at = (f64::from(uniform(7, request, lane)) * 1e9) as u64;
    at % n
}
