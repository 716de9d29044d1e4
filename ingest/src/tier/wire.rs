//! The records of the samples topic.
//!
//! One JSON object each, with `space` (whose ids these are), `at` (partition and offset of the source record),
//! `now_ms` (the tier's watermark before it, absent at the beginning), `user`, and exactly one of
//!
//! - `shown`: an accepted impression, `{"request","ts_ms","until_ms","items":[["<item>",<position>|null],..],
//!   "context":[..],"late":["<task>",..]}`,
//! - `late`: one whose every window was over, `{"n_items"}`,
//! - `outcome`: what became known of one, `{"acted":[{"item","task","ts_ms","offset"}],"settled",
//!   "samples":[{"item","kind","positive":["<task>",..],"negative":[..],"action_record_ms"}],"closed"}`,
//! - `late_action`: an action after its window, `{"request","item","task","ts_ms","settled"}`; `at` is that of the
//!   action.
//!
//! `settled` is the offset of the oldest action that still waits for its impression, or of the next one: what is to
//! be told of those before it was told.
//!
//! Ids are the salted hashes, 16 hexadecimal digits: the learner needs the same `ids.salt`, which `space` says.
//! The key is the user's, so everything about one impression is in one partition, in order; the timestamp is that
//! of the source record that made the tier say it.

use std::fmt;

use ouzel_sample::{
    Action, AttributedAction, EventTime, Id, IdKind, IdSpace, Impression, JoinEvent, JoinRecord, LabeledItem,
    Labels, PartitionId, Position, Reject, RejectReason, SampleKind, ShownItem, Stream, TaskId,
};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Named in the hash that says whose ids these are; the digit is the version of the format.
const FORMAT: &str = "ouzel samples 2";

/// Writes and reads the records of one deployment.
#[derive(Clone, Debug)]
pub struct Wire {
    space: Hex,
    tasks: Vec<String>,
}

impl Wire {
    /// The records under these ids and tasks, the latter in task order.
    #[must_use]
    pub fn new(ids: IdSpace, tasks: Vec<String>) -> Self {
        Self {
            space: Hex(ids.id(IdKind::Request, FORMAT)),
            tasks,
        }
    }

    /// The key of a record about `user`.
    #[must_use]
    pub fn key(user: Id) -> String {
        user.to_string()
    }

    /// The record that says `told`.
    ///
    /// # Panics
    /// Never: the types written have no failing representation.
    #[must_use]
    pub fn encode(&self, told: &JoinRecord) -> Vec<u8> {
        let mut line = Line {
            space: self.space,
            at: (told.at.partition.partition, told.at.offset),
            now_ms: (told.now != EventTime::MIN).then_some(told.now.0),
            user: Hex(told.user),
            shown: None,
            late: None,
            outcome: None,
            late_action: None,
        };
        match &told.event {
            JoinEvent::Shown {
                impression,
                late,
                until,
            } => {
                line.shown = Some(Shown {
                    request: Hex(impression.request),
                    ts_ms: impression.ts.0,
                    until_ms: until.0,
                    items: impression
                        .items
                        .iter()
                        .map(|shown| (Hex(shown.item), shown.position))
                        .collect(),
                    context: impression.context.iter().copied().map(Hex).collect(),
                    late: self.names(|task| late & (1 << task) != 0),
                });
            }
            JoinEvent::Late { n_items } => line.late = Some(Late { n_items: *n_items }),
            JoinEvent::Outcome {
                acted,
                made,
                is_closed,
                settled,
            } => {
                line.outcome = Some(Outcome {
                    acted: acted.iter().map(|acted| self.acted(acted)).collect(),
                    settled: (!acted.is_empty()).then_some(*settled),
                    samples: made.iter().map(|made| self.made(made)).collect(),
                    closed: *is_closed,
                });
            }
            JoinEvent::LateAction { action, settled } => {
                line.late_action = Some(LateAction {
                    request: Hex(action.request),
                    item: Hex(action.item),
                    task: self.name(action.task),
                    ts_ms: action.ts.0,
                    settled: *settled,
                });
            }
        }
        serde_json::to_vec(&line).expect("the record has no type that JSON refuses")
    }

    /// What a record says, or why it says nothing.
    pub(crate) fn decode(&self, payload: &[u8]) -> Result<JoinRecord, Reject> {
        let refuse = |detail: String| Reject::new(RejectReason::Foreign, detail);
        let line: Line = serde_json::from_slice(payload)
            .map_err(|error| Reject::new(RejectReason::MalformedJson, error.to_string()))?;
        if line.space != self.space {
            return Err(refuse(format!(
                "`space` is {}, here it is {}: the join tier has another ids.salt or version",
                line.space.0, self.space.0
            )));
        }
        let (partition, offset) = line.at;
        let about = |stream| Position {
            partition: PartitionId { stream, partition },
            offset,
        };
        let mut at = about(Stream::Impressions);
        let user = line.user.0;
        let event = match (line.shown, line.late, line.outcome, line.late_action) {
            (Some(shown), None, None, None) => JoinEvent::Shown {
                late: self.mask(&shown.late)?,
                until: EventTime(shown.until_ms),
                impression: Impression {
                    request: shown.request.0,
                    user,
                    ts: EventTime(shown.ts_ms),
                    items: shown
                        .items
                        .into_iter()
                        .map(|(item, position)| ShownItem {
                            item: item.0,
                            position,
                        })
                        .collect(),
                    context: shown.context.into_iter().map(|value| value.0).collect(),
                    known_actions: None,
                },
            },
            (None, Some(late), None, None) => JoinEvent::Late {
                n_items: late.n_items,
            },
            (None, None, Some(outcome), None) => JoinEvent::Outcome {
                acted: outcome
                    .acted
                    .iter()
                    .map(|acted| {
                        Ok(AttributedAction {
                            item: acted.item.0,
                            task: self.task(&acted.task)?,
                            ts: EventTime(acted.ts_ms),
                            offset: acted.offset,
                        })
                    })
                    .collect::<Result<_, Reject>>()?,
                made: outcome
                    .samples
                    .iter()
                    .map(|sample| {
                        let (positive, negative) =
                            (self.mask(&sample.positive)?, self.mask(&sample.negative)?);
                        Ok(LabeledItem {
                            item: sample.item.0,
                            labels: Labels::from_masks(positive | negative, positive),
                            kind: sample.kind,
                            action_record_ms: sample.action_record_ms,
                        })
                    })
                    .collect::<Result<_, Reject>>()?,
                is_closed: outcome.closed,
                settled: outcome.settled.unwrap_or(i64::MIN),
            },
            (None, None, None, Some(action)) => {
                at = about(Stream::Actions);
                JoinEvent::LateAction {
                    settled: action.settled,
                    action: Action {
                        request: action.request.0,
                        item: action.item.0,
                        user,
                        ts: EventTime(action.ts_ms),
                        task: self.task(&action.task)?,
                        value: None,
                    },
                }
            }
            _ => return Err(refuse("not exactly one thing is told".to_owned())),
        };
        Ok(JoinRecord {
            at,
            now: line.now_ms.map_or(EventTime::MIN, EventTime),
            user,
            event,
        })
    }

    fn acted(&self, acted: &AttributedAction) -> ActedLine {
        ActedLine {
            item: Hex(acted.item),
            task: self.name(acted.task),
            ts_ms: acted.ts.0,
            offset: acted.offset,
        }
    }

    fn made(&self, made: &LabeledItem) -> SampleLine {
        SampleLine {
            item: Hex(made.item),
            kind: made.kind,
            positive: self.names(|task| made.labels.get(task) == Some(true)),
            negative: self.names(|task| made.labels.get(task) == Some(false)),
            action_record_ms: made.action_record_ms,
        }
    }

    fn name(&self, task: TaskId) -> String {
        self.tasks.get(usize::from(task)).cloned().unwrap_or_default()
    }

    fn names(&self, is_in: impl Fn(TaskId) -> bool) -> Vec<String> {
        let tasks = (0..TaskId::MAX).zip(&self.tasks);
        tasks
            .filter(|(task, _)| is_in(*task))
            .map(|(_, name)| name.clone())
            .collect()
    }

    fn task(&self, name: &str) -> Result<TaskId, Reject> {
        let index = self.tasks.iter().position(|task| task == name);
        index
            .and_then(|index| TaskId::try_from(index).ok())
            .ok_or_else(|| Reject::new(RejectReason::Foreign, format!("no task is named {name:?}")))
    }

    fn mask(&self, names: &[String]) -> Result<u8, Reject> {
        let mut mask = 0;
        for name in names {
            mask |= 1 << self.task(name)?;
        }
        Ok(mask)
    }
}

#[derive(Serialize, Deserialize)]
struct Line {
    space: Hex,
    at: (i32, i64),
    #[serde(default, skip_serializing_if = "Option::is_none")]
    now_ms: Option<i64>,
    user: Hex,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shown: Option<Shown>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    late: Option<Late>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    late_action: Option<LateAction>,
}

#[derive(Serialize, Deserialize)]
struct Shown {
    request: Hex,
    ts_ms: i64,
    until_ms: i64,
    items: Vec<(Hex, Option<u16>)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    context: Vec<Hex>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    late: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Late {
    n_items: u64,
}

#[derive(Serialize, Deserialize)]
struct Outcome {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    acted: Vec<ActedLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    settled: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    samples: Vec<SampleLine>,
    #[serde(default, skip_serializing_if = "is_false")]
    closed: bool,
}

#[derive(Serialize, Deserialize)]
struct ActedLine {
    item: Hex,
    task: String,
    ts_ms: i64,
    offset: i64,
}

#[derive(Serialize, Deserialize)]
struct SampleLine {
    item: Hex,
    kind: SampleKind,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    positive: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    negative: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    action_record_ms: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct LateAction {
    request: Hex,
    item: Hex,
    task: String,
    ts_ms: i64,
    settled: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// An id as 16 hexadecimal digits: a JSON number keeps 53 bits in many readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hex(Id);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits;
        impl Visitor<'_> for Digits {
            type Value = Hex;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("16 hexadecimal digits")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Hex, E> {
                if text.len() != 16 {
                    return Err(E::invalid_length(text.len(), &self));
                }
                let id =
                    u64::from_str_radix(text, 16).map_err(|_| E::custom("expected 16 hexadecimal digits"))?;
                Ok(Hex(Id(id)))
            }
        }
        deserializer.deserialize_str(Digits)
    }
}
