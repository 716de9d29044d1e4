//! The records of the samples topic.
//!
//! One JSON object each, with `space` (the id space), `at` (partition and offset of the source record), `now_ms` (the
//! tier's watermark before it, absent at the beginning), `user`, and exactly one of
//!
//! - `shown`: an accepted impression, `{"request","ts_ms","until_ms","items":[["<item>",<position>|null],..],
//!   "features":[{"values":[..],"numbers":[["<name>",<number>],..]},..],"context":[..],"numbers":[..],"late":["<task>",..]}`,
//!   with the features of all items or of none,
//! - `late`: an impression whose every window was over, `{"n_items"}`,
//! - `outcome`: new outcomes of an impression, `{"acted":[{"item","task","ts_ms","offset","part","value"}],"settled",
//!   "samples":[{"item","kind","positive":["<task>",..],"negative":[..],"values":[["<task>",<value>],..],
//!   "action_record_ms"}],"closed"}`,
//! - `late_action`: an action after its window, or without a request and an impression,
//!   `{"request","item","task","ts_ms","part","value","settled"}`; `at` is that of the action.
//!
//! `part` is the place of an action in a record of several, absent for the first.
//!
//! `settled` is the offset of the oldest action that still waits for its impression, or of the next action: every action
//! before it has its outcome.
//!
//! Ids are salted hashes of 16 hexadecimal digits. The learner needs the same `ids.salt`, which `space` verifies. The
//! key is the user's id, so all records about one impression are in one partition, in order; the timestamp is that of
//! the source record that caused the record.

mod lines;

use ouzel_sample::{
    Action, AttributedAction, EventTime, Id, IdKind, IdSpace, Impression, JoinEvent, JoinRecord, LabeledItem,
    Labels, Number, PartitionId, Position, Reject, RejectReason, ShownFeatures, ShownItem, Stream, TaskId,
    finite_f32,
};
use serde::{Deserialize, Serialize};

use lines::{ActionLine, Hex, LateActionLine, LateLine, OutcomeLine, SampleLine};

/// Hashed into `space`; the digit is the version of the format.
const FORMAT: &str = "ouzel samples 4";

/// Encodes and decodes the records of one deployment.
#[derive(Clone, Debug)]
pub struct Wire {
    space: Hex,
    tasks: Vec<String>,
}

impl Wire {
    /// A format for these ids and these task names, in task order.
    pub fn new(ids: IdSpace, tasks: Vec<String>) -> Self {
        Self {
            space: Hex(ids.id(IdKind::Request, FORMAT)),
            tasks,
        }
    }

    /// The key of a record about `user`.
    pub fn key(user: Id) -> String {
        user.to_string()
    }

    /// The bytes of `record`.
    pub fn encode(&self, record: &JoinRecord) -> Vec<u8> {
        let mut line = Line {
            space: self.space,
            at: (record.at.partition.partition, record.at.offset),
            now_ms: (record.watermark != EventTime::MIN).then_some(record.watermark.0),
            user: Hex(record.user),
            shown: None,
            late: None,
            outcome: None,
            late_action: None,
        };
        match &record.event {
            JoinEvent::Shown {
                impression,
                late,
                deadline,
            } => {
                line.shown = Some(ShownLine {
                    request: Hex(impression.request),
                    ts_ms: impression.ts.0,
                    until_ms: deadline.0,
                    items: impression
                        .items
                        .iter()
                        .map(|shown| (Hex(shown.item), shown.position))
                        .collect(),
                    features: features_lines(impression),
                    context: impression.context.iter().copied().map(Hex).collect(),
                    numbers: number_lines(&impression.numbers),
                    late: self.names(|task| late & (1 << task) != 0),
                });
            }
            JoinEvent::Late { n_items } => line.late = Some(LateLine { n_items: *n_items }),
            JoinEvent::Outcome {
                actions,
                samples,
                is_closed,
                resolved_before,
            } => {
                line.outcome = Some(OutcomeLine {
                    acted: actions.iter().map(|action| self.action_line(action)).collect(),
                    settled: (!actions.is_empty()).then_some(*resolved_before),
                    samples: samples.iter().map(|sample| self.sample_line(sample)).collect(),
                    closed: *is_closed,
                });
            }
            JoinEvent::LateAction {
                action,
                part,
                resolved_before,
            } => {
                line.late_action = Some(LateActionLine {
                    request: action.request.map(Hex),
                    item: Hex(action.item),
                    task: self.name(action.task),
                    ts_ms: action.ts.0,
                    part: *part,
                    value: action.value,
                    settled: *resolved_before,
                });
            }
        }
        serde_json::to_vec(&line).expect("the record has no type that JSON refuses")
    }

    /// The record in `payload`, or the reason why there is none.
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
        let position = |stream| Position {
            partition: PartitionId { stream, partition },
            offset,
        };
        let mut at = position(Stream::Impressions);
        let user = line.user.0;
        let event = match (line.shown, line.late, line.outcome, line.late_action) {
            (Some(shown), None, None, None) => JoinEvent::Shown {
                late: self.mask(&shown.late)?,
                deadline: EventTime(shown.until_ms),
                impression: Impression {
                    request: shown.request.0,
                    user,
                    ts: EventTime(shown.ts_ms),
                    items: shown_items(shown.items, shown.features)?,
                    context: shown.context.into_iter().map(|value| value.0).collect(),
                    numbers: numbers(shown.numbers)?,
                    known_actions: None,
                },
            },
            (None, Some(late), None, None) => JoinEvent::Late {
                n_items: late.n_items,
            },
            (None, None, Some(outcome), None) => JoinEvent::Outcome {
                actions: outcome
                    .acted
                    .iter()
                    .map(|acted| {
                        Ok(AttributedAction {
                            item: acted.item.0,
                            task: self.task(&acted.task)?,
                            ts: EventTime(acted.ts_ms),
                            offset: acted.offset,
                            part: acted.part,
                            value: acted.value,
                        })
                    })
                    .collect::<Result<_, Reject>>()?,
                samples: outcome
                    .samples
                    .iter()
                    .map(|sample| {
                        let (positive, negative) =
                            (self.mask(&sample.positive)?, self.mask(&sample.negative)?);
                        Ok(LabeledItem {
                            item: sample.item.0,
                            labels: Labels::from_masks(positive | negative, positive),
                            values: self.values(&sample.values)?,
                            kind: sample.kind,
                            action_record_ms: sample.action_record_ms,
                        })
                    })
                    .collect::<Result<_, Reject>>()?,
                is_closed: outcome.closed,
                resolved_before: outcome.settled.unwrap_or(i64::MIN),
            },
            (None, None, None, Some(action)) => {
                at = position(Stream::Actions);
                JoinEvent::LateAction {
                    resolved_before: action.settled,
                    part: action.part,
                    action: Action {
                        request: action.request.map(|request| request.0),
                        item: action.item.0,
                        user,
                        ts: EventTime(action.ts_ms),
                        task: self.task(&action.task)?,
                        value: action.value,
                    },
                }
            }
            _ => {
                return Err(refuse(
                    "not exactly one of `shown`, `late`, `outcome` and `late_action` is set".to_owned(),
                ));
            }
        };
        Ok(JoinRecord {
            at,
            watermark: line.now_ms.map_or(EventTime::MIN, EventTime),
            user,
            event,
        })
    }

    fn action_line(&self, action: &AttributedAction) -> ActionLine {
        ActionLine {
            item: Hex(action.item),
            task: self.name(action.task),
            ts_ms: action.ts.0,
            offset: action.offset,
            part: action.part,
            value: action.value,
        }
    }

    fn sample_line(&self, sample: &LabeledItem) -> SampleLine {
        SampleLine {
            item: Hex(sample.item),
            kind: sample.kind,
            positive: self.names(|task| sample.labels.get(task) == Some(true)),
            negative: self.names(|task| sample.labels.get(task) == Some(false)),
            action_record_ms: sample.action_record_ms,
            values: sample
                .values
                .iter()
                .map(|(task, value)| (self.name(*task), *value))
                .collect(),
        }
    }

    fn values(&self, named: &[(String, f32)]) -> Result<Vec<(TaskId, f32)>, Reject> {
        let of_task = |(name, value): &(String, f32)| Ok((self.task(name)?, *value));
        named.iter().map(of_task).collect()
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
    shown: Option<ShownLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    late: Option<LateLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outcome: Option<OutcomeLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    late_action: Option<LateActionLine>,
}

#[derive(Serialize, Deserialize)]
struct ShownLine {
    request: Hex,
    ts_ms: i64,
    until_ms: i64,
    items: Vec<(Hex, Option<u16>)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    features: Vec<FeaturesLine>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    context: Vec<Hex>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    numbers: Vec<(Hex, f64)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    late: Vec<String>,
}

/// What describes a shown item in its request.
#[derive(Serialize, Deserialize)]
struct FeaturesLine {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    values: Vec<Hex>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    numbers: Vec<(Hex, f64)>,
}

/// The features of all items of an impression; empty if no item has any.
fn features_lines(impression: &Impression) -> Vec<FeaturesLine> {
    let features = impression.items.iter().map(|shown| &shown.features);
    if features
        .clone()
        .all(|features| *features == ShownFeatures::default())
    {
        return Vec::new();
    }
    features
        .map(|features| FeaturesLine {
            values: features.values.iter().copied().map(Hex).collect(),
            numbers: number_lines(&features.numbers),
        })
        .collect()
}

/// Numbers as the f64 of the same value, which JSON returns to the bit.
fn number_lines(numbers: &[Number]) -> Vec<(Hex, f64)> {
    let numbers = numbers.iter();
    numbers
        .map(|number| (Hex(number.name), f64::from(number.value)))
        .collect()
}

fn numbers(lines: Vec<(Hex, f64)>) -> Result<Vec<Number>, Reject> {
    let numbers = lines.into_iter().map(|(name, value)| {
        let detail = "a number does not fit a 32-bit float";
        let value = finite_f32(value).ok_or_else(|| Reject::new(RejectReason::NonFinite, detail))?;
        Ok(Number { name: name.0, value })
    });
    numbers.collect()
}

fn shown_items(
    items: Vec<(Hex, Option<u16>)>,
    features: Vec<FeaturesLine>,
) -> Result<Vec<ShownItem>, Reject> {
    let mut features = features.into_iter();
    let items = items.into_iter().map(|(item, position)| {
        let mut shown = ShownItem::new(item.0, position);
        if let Some(line) = features.next() {
            shown.features = ShownFeatures {
                values: line.values.into_iter().map(|value| value.0).collect(),
                numbers: numbers(line.numbers)?,
            };
        }
        Ok(shown)
    });
    items.collect()
}
