//! The batches that training and scoring are measured on: generated, always the same.

use std::fmt;
use std::sync::Arc;

use ouzel_learner::model::uniform;
use ouzel_sample::{
    Action, Attribute, AttributeField, Batch, Batcher, Candidate, EventTime, FeatureConfig, FeatureQuery,
    FeatureState, Id, IdKind, IdSpace, Impression, Item, Labels, PartitionId, Position, Request, Sample,
    SampleKind, ShownItem, Stream,
};

/// What the slates look like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World {
    pub(crate) name: &'static str,
    /// Items in a slate.
    pub(crate) slate: u64,
    pub(crate) has_author: bool,
    pub(crate) has_context: bool,
}

/// As MovieLens-100K: one film at a time, so nothing is shared inside a request.
pub(crate) const FILMS: World = World {
    name: "films",
    slate: 1,
    has_author: false,
    has_context: false,
};

/// As a feed: slates of eight.
pub(crate) const FEED: World = World {
    name: "feed",
    slate: 8,
    has_author: true,
    has_context: true,
};

/// Samples in a batch; slates divide it.
pub(crate) const BATCH: usize = 128;
const N_BATCHES: u64 = 40;
const N_USERS: u64 = 943;
const N_ITEMS: u64 = 1_682;
const SEED: u64 = 7;

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl World {
    /// Batches of [`BATCH`] samples; every user comes with a history of 50 to 100 actions.
    pub(crate) fn batches(&self) -> Vec<Batch> {
        let features = self.features(FeatureConfig::default());
        let mut batcher = Batcher::new(BATCH);
        let n_requests = N_BATCHES * BATCH as u64 / self.slate;
        (0..n_requests)
            .filter_map(|request| batcher.push(self.show(&features, request)))
            .collect()
    }

    /// One request with `n` candidates, as the scorer sees it after [`World::batches`].
    pub(crate) fn request(&self, n: u64) -> (FeatureState, Impression) {
        self.request_of(n, FeatureConfig::default())
    }

    /// The same of a user who has acted `n_past` times before, with a long past in lists of `long_len` for the model.
    pub(crate) fn long_request(&self, n: u64, n_past: u64, long_len: usize) -> (FeatureState, Impression) {
        let (features, impression) = self.request_of(
            n,
            FeatureConfig {
                long_len,
                long_capacity: 20_000,
                ..FeatureConfig::default()
            },
        );
        for n in 0..n_past {
            let action = Action {
                request: None,
                item: hashed(IdKind::Item, below(N_ITEMS, n, 7)),
                user: impression.user,
                ts: EventTime(i64::try_from(2_000_000 + n).expect("small")),
                task: 0,
                value: None,
            };
            features.add_action(&action, &[], None);
        }
        (features, impression)
    }

    fn request_of(&self, n: u64, config: FeatureConfig) -> (FeatureState, Impression) {
        let features = self.features(config);
        for request in 0..1_000 {
            let _group = self.show(&features, request);
        }
        let impression = self.impression(5_000, n);
        (features, impression)
    }

    fn features(&self, config: FeatureConfig) -> FeatureState {
        let features = FeatureState::new(config);
        for id in 0..N_ITEMS {
            let mut attributes: Vec<Attribute> = (0..=below(3, id, 0))
                .map(|i| Attribute {
                    field: AttributeField::Category,
                    value: hashed(IdKind::Attribute, 1_000 + (below(19, id, 1) + 5 * i) % 19),
                })
                .collect();
            if self.has_author {
                attributes.push(Attribute {
                    field: AttributeField::Author,
                    value: hashed(IdKind::Attribute, 2_000 + below(500, id, 2)),
                });
            }
            attributes.sort_unstable();
            features.put_item(Item {
                id: hashed(IdKind::Item, id),
                name: format!("item {id}"),
                ts: EventTime(0),
                attributes,
                tag_names: vec![],
                numbers: vec![],
                has_title: false,
                texts: vec![],
                image: None,
                vectors: vec![],
            });
        }
        for user in 0..N_USERS {
            let history: Vec<Id> = (0..50 + below(51, user, 3))
                .map(|i| hashed(IdKind::Item, skewed(N_ITEMS, user, 100 + i)))
                .collect();
            features.seed_history(hashed(IdKind::User, user), &history, EventTime(0));
        }
        features
    }

    fn impression(&self, request: u64, n_items: u64) -> Impression {
        let first = skewed(N_ITEMS, request, 4);
        let context = [(3_000, 3), (4_000, 40)];
        Impression {
            request: hashed(IdKind::Request, request),
            user: hashed(IdKind::User, skewed(N_USERS, request, 5)),
            ts: EventTime(i64::try_from(1 + request).expect("small") * 1000),
            items: (0..n_items)
                .map(|i| {
                    ShownItem::new(
                        hashed(IdKind::Item, (first + 611 * i) % N_ITEMS),
                        u16::try_from(i).ok().filter(|_| self.slate > 1),
                    )
                })
                .collect(),
            context: if self.has_context {
                (6..)
                    .zip(context)
                    .map(|(lane, (base, n))| hashed(IdKind::Attribute, base + below(n, request, lane)))
                    .collect()
            } else {
                vec![]
            },
            numbers: Vec::new(),
            known_actions: None,
        }
    }

    /// Shows a slate. Some items are liked by nearly all, some by nearly none.
    fn show(&self, features: &FeatureState, request: u64) -> Vec<Sample> {
        let impression = self.impression(request, self.slate);
        let (request, candidates) = read(features, &impression);
        features.add_impression(&impression);
        let request = Arc::new(request);
        let shown_at = Position {
            partition: PartitionId {
                stream: Stream::Impressions,
                partition: 0,
            },
            offset: 0,
        };
        (10..)
            .zip(candidates)
            .map(|(lane, candidate)| {
                let liked_by = 0.05 + 0.9 * uniform(SEED, candidate.item.0, 0);
                let y = uniform(SEED, request.id.0, lane) < liked_by;
                if y {
                    let action = Action {
                        request: Some(request.id),
                        item: candidate.item,
                        user: request.user,
                        ts: request.ts,
                        task: 0,
                        value: None,
                    };
                    features.add_action(&action, &request.context, Some(request.n_items));
                }
                Sample {
                    seq: 0,
                    request: Arc::clone(&request),
                    candidate: Arc::new(candidate),
                    labels: Labels::UNKNOWN.with(0, y),
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

/// The features of an impression.
pub(crate) fn read(features: &FeatureState, impression: &Impression) -> (Request, Vec<Candidate>) {
    features.read(&FeatureQuery::of(impression))
}

/// An id as the decoder makes it: the tables rely on its bits being random.
fn hashed(kind: IdKind, n: u64) -> Id {
    IdSpace::new(SEED).id(kind, &n.to_string())
}

fn below(n: u64, key: u64, lane: u64) -> u64 {
    scaled(uniform(SEED, key, lane), n)
}

/// Below `n`, the small ones far more often.
fn skewed(n: u64, key: u64, lane: u64) -> u64 {
    scaled(uniform(SEED, key, lane).powi(3), n)
}

fn scaled(share: f32, n: u64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of a small number"
    )]
    let scaled = (share * n as f32) as u64;
    scaled.min(n - 1)
}
