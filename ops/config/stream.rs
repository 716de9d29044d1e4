//! The sections about the stream: what an event may be, how events become samples, what is kept between them.
//!
//! As in `sections.rs`, the doc comments are what the user reads.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::{ByteSize, Period};

/// What one event may be. An event beyond a bound is rejected and goes to the dead-letter topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Events {
    /// Largest record.
    pub max_record: ByteSize,
    /// Most items of an impression, count, up to 65535.
    #[schemars(range(min = 1, max = 65_535))]
    pub max_items: usize,
    /// Most attribute values of an item or of an impression's context, count.
    pub max_attributes: usize,
    /// Most texts of an item, its title included, count.
    pub max_texts: usize,
    /// Most numbers in an item's vectors together, count.
    pub max_vector_values: usize,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            max_record: ByteSize::from_bytes(64 * 1024),
            max_items: 1000,
            max_attributes: 512,
            max_texts: 64,
            max_vector_values: 8192,
        }
    }
}

/// How impressions and actions become samples.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Join {
    /// Who joins: `events`, this process, which reads impressions and actions; or `tier`, any number of `ouzel
    /// join` processes with the same `[join]` and `[ids]`, whose samples it reads instead.
    pub source: JoinSource,
    /// What is learned, the primary task first; 1 to 8 tasks.
    pub tasks: Vec<Task>,
    /// Which samples an outcome makes, and when: `fnw` and `fnc` make a negative when an item is shown and a
    /// positive when its action comes, `es_dfm` and `defer` what was seen after `policy_wait` and a correction;
    /// `eager` makes a positive when its action comes and a negative when the window closes; `wait` makes both
    /// when it closes.
    pub policy: Policy,
    /// Event time. From the impression to the first sample under `es_dfm` and `defer`; under `fnw` and `fnc`, how
    /// far actions may be behind an impression before its negatives wait for them, so that an outage of actions
    /// is not learned as nobody's interest.
    pub policy_wait: Period,
    /// How far the watermark stays behind the newest event, event time. An event that comes later than this
    /// may be too late for its window.
    pub lateness: Period,
    /// How far before its impression an action may be stamped and still belong to it, event time.
    pub skew: Period,
    /// How far an event may be stamped after its Kafka record before it is rejected as `future`.
    pub max_future_skew: Period,
    /// How long an id is remembered to drop its duplicates, event time; `auto` is the longest window plus
    /// lateness plus skew, the shortest that is safe.
    pub dedup: Dedup,
    /// Shown items that may wait for their windows at once, count. Beyond it the oldest windows close early,
    /// in order, and are counted.
    #[schemars(range(min = 1))]
    pub max_pending: usize,
    /// Actions that may wait for their impression at once, count. Beyond it the oldest are given up, in order,
    /// and are counted.
    #[schemars(range(min = 1))]
    pub max_waiting: usize,
    /// Closed requests remembered to drop their duplicates, count. Beyond it the oldest are forgotten, and
    /// whatever is as old as they were is late.
    #[schemars(range(min = 1))]
    pub max_remembered: usize,
    /// Where impressions wait for their windows: `memory`, or `sled`, which writes those not touched lately to
    /// `join` in the state directory. That is a cache, emptied at every start and filled from the snapshot.
    /// Samples and weights are the same; but a sample that was on disk is validated by its prediction when it is
    /// learned, not when it was shown.
    pub store: JoinStore,
    /// Bounds of the store `sled`.
    pub sled: Sled,
}

/// Where the join state is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum JoinStore {
    /// In memory.
    #[default]
    Memory,
    /// On disk, but for ids, times and what was touched last.
    Sled,
}

/// Bounds of the join store on disk. Per impression on disk, about 100 bytes stay in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sled {
    /// Impressions kept in memory, those touched last, before they are all written out at once, count.
    pub hot_requests: usize,
    /// Cache of the files' pages; three times as much may be resident.
    pub cache: ByteSize,
    /// Size of the files that is never worth writing them anew for; beyond it and six times the live bytes they
    /// are.
    pub slack: ByteSize,
}

impl Default for Sled {
    fn default() -> Self {
        Self {
            hot_requests: 50_000,
            cache: ByteSize::from_bytes(64 << 20),
            slack: ByteSize::from_bytes(256 << 20),
        }
    }
}

impl Default for Join {
    fn default() -> Self {
        Self {
            source: JoinSource::Events,
            tasks: vec![Task {
                name: "click".to_owned(),
                window: Period::from_secs(600),
            }],
            policy: Policy::Fnw,
            policy_wait: Period::from_secs(60),
            lateness: Period::from_secs(60),
            skew: Period::from_secs(5),
            max_future_skew: Period::from_secs(5),
            dedup: Dedup::Auto,
            max_pending: 5_000_000,
            max_waiting: 1_000_000,
            max_remembered: 10_000_000,
            store: JoinStore::default(),
            sled: Sled::default(),
        }
    }
}

/// Who joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum JoinSource {
    /// The process that learns.
    Events,
    /// `ouzel join`.
    Tier,
}

/// How `ouzel join` shares the work among its processes; each partition of impressions, with the actions partition
/// of the same number, is joined by one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tier {
    /// The consumer group. What is committed to it says how far each partition was joined, for its lag; the join
    /// itself needs no commit to be recent.
    pub group: String,
    /// Name of this process in the group, the same over restarts: one that is back within `session_timeout` takes
    /// up its partitions and no others move. Empty: its partitions move when it stops. `ouzel join --instance`
    /// wins over it.
    pub instance: String,
    /// How long a process may be silent before its partitions move to others, wall time; the broker has bounds of
    /// its own, 6s and 30m by default.
    pub session_timeout: Period,
    /// From one commit to the next, wall time: about so much is told again when a partition moves.
    pub commit: Period,
    /// How long a partition of one topic may be silent, while others of that topic are not, before its time is
    /// that of the other topic's, wall time. A process only sees its own partitions: one that is alone with a
    /// silent one waits.
    pub idle: Period,
    /// Address and port of `/metrics` and `/healthz` of `ouzel join`. Unset: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
}

impl Default for Tier {
    fn default() -> Self {
        Self {
            group: "ouzel-join".to_owned(),
            instance: String::new(),
            session_timeout: Period::from_secs(45),
            commit: Period::from_secs(1),
            idle: Period::from_secs(30),
            listen: None,
        }
    }
}

/// One thing to predict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// The `action` of the events that are its positives.
    pub name: String,
    /// How long after its impression an action counts, event time.
    pub window: Period,
}

/// Which samples an outcome makes, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Policy {
    /// A positive at its action, a negative at the end of the window.
    Eager,
    /// Both at the end of the window.
    Wait,
    /// A negative at once, the positive again at its action; for the fake-negative-weighted loss.
    Fnw,
    /// As `fnw`; for the fake-negative-calibrated transform at serving.
    Fnc,
    /// What was seen after `policy_wait`, and positives that come later again.
    EsDfm,
    /// What was seen after `policy_wait`, and a copy of every sample once its outcome is certain.
    Defer,
}

/// How long ids are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dedup {
    /// As long as a duplicate could still do harm.
    Auto,
    /// This long.
    For(Period),
}

/// In which order records of several partitions are taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Order {
    /// How long a record may be held back for records of other partitions with an earlier timestamp, wall
    /// time. Longer joins more actions after their impressions, and adds to freshness.
    pub hold: Period,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            hold: Period::from_ms(50),
        }
    }
}

/// What is kept of users and items between events. Part of a snapshot's schema: other values make other
/// features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Features {
    /// Actions of a user that the model sees, the newest, count.
    pub history_len: usize,
    /// Actions of a user that are kept, count; at least `history_len`.
    pub history_kept: usize,
    /// Shown items of a user that are kept, count: with those not acted on, content is compared.
    pub shown_kept: usize,
    /// Time constant of the decayed impression and action counts of an item, event time.
    pub decay: Period,
    /// Rate of the fast moving average of outcomes, per impression, between 0 and 1.
    pub fast_rate: f64,
    /// Rate of the slow moving average of outcomes, per impression, between 0 and 1.
    pub slow_rate: f64,
    /// Strength of the prior in a smoothed action rate, in actions.
    pub prior_actions: f64,
    /// Users with a history, count. Beyond it those without an action for longest are forgotten.
    #[schemars(range(min = 1))]
    pub max_users: usize,
    /// PipelineStatus counters, count, 60 to 90 bytes each. Beyond it those untouched for longest are forgotten.
    #[schemars(range(min = 1))]
    pub max_counters: usize,
    /// The item catalog. Beyond it the items whose newest version is oldest are forgotten.
    pub max_catalog: ByteSize,
    /// How long a user or counter is kept without an event, event time; `0s` is for ever.
    pub expire: Period,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            history_len: 100,
            history_kept: 200,
            shown_kept: 50,
            decay: Period::from_secs(3600),
            fast_rate: 0.05,
            slow_rate: 0.01,
            prior_actions: 1.0,
            max_users: 2_000_000,
            max_counters: 20_000_000,
            max_catalog: ByteSize::from_bytes(2 << 30),
            expire: Period::from_secs(0),
        }
    }
}

/// `Dedup` is text outside: `auto` or a duration.
mod dedup {
    use std::borrow::Cow;
    use std::fmt;

    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
    use serde::de::{self, Deserializer, Visitor};
    use serde::{Deserialize, Serialize, Serializer};

    use super::Dedup;

    impl Serialize for Dedup {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            match self {
                Dedup::Auto => serializer.serialize_str("auto"),
                Dedup::For(period) => period.serialize(serializer),
            }
        }
    }

    impl<'de> Deserialize<'de> for Dedup {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Text;
            impl Visitor<'_> for Text {
                type Value = Dedup;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("\"auto\" or a duration with its unit, such as \"35m\"")
                }

                fn visit_str<E: de::Error>(self, text: &str) -> Result<Dedup, E> {
                    match text {
                        "auto" => Ok(Dedup::Auto),
                        _ => text
                            .parse()
                            .map(Dedup::For)
                            .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self)),
                    }
                }
            }
            deserializer.deserialize_str(Text)
        }
    }

    impl JsonSchema for Dedup {
        fn inline_schema() -> bool {
            true
        }

        fn schema_name() -> Cow<'static, str> {
            Cow::Borrowed("Dedup")
        }

        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({ "type": "string" })
        }
    }
}
