//! The decoder: picks the format of a record's stream and counts the outcome.

use ouzel_sample::{DecodedRecord, Event, IdSpace, Record, Reject, RejectReason, Stream};
use serde::Deserialize;

use super::classify::classify;
use super::counters::DecodeCounters;
use super::limits::EventLimits;
use super::wire::{self, SkippedFields};
use crate::tier::Wire;

/// Decodes the records of every stream.
#[derive(Debug)]
pub struct Decoder {
    pub(super) ids: IdSpace,
    pub(super) tasks: Vec<String>,
    pub(super) limits: EventLimits,
    tier: Wire,
    counters: DecodeCounters,
}

impl Decoder {
    /// A decoder. `tasks` are the action names in task order: a [`ouzel_sample::TaskId`] is an index into it.
    pub fn new(ids: IdSpace, tasks: Vec<String>, limits: EventLimits) -> Self {
        Self {
            tier: Wire::new(ids, tasks.clone()),
            ids,
            tasks,
            limits,
            counters: DecodeCounters::default(),
        }
    }

    /// Decodes and counts one record. Never panics, whatever the payload.
    pub fn decode(&self, record: &Record) -> DecodedRecord {
        let stream = record.position.partition.stream;
        let parsed = self.parse(record);
        match &parsed {
            Ok((_, skipped)) => self.counters.add_event(stream, *skipped),
            Err(reject) => self.counters.add_reject(stream, reject.reason),
        }
        DecodedRecord {
            position: record.position,
            timestamp_ms: record.timestamp_ms,
            event: parsed.map(|(event, _)| event),
        }
    }

    /// Adds the counts since the last call to the process's metrics. Call it once per chunk of records.
    pub fn report(&self) {
        self.counters.report();
    }

    /// Decodes one record without counting it.
    pub(super) fn parse(&self, record: &Record) -> Result<(Event, SkippedFields), Reject> {
        let Some(payload) = record.payload.as_deref() else {
            return Err(Reject::new(RejectReason::NullValue, "the record has no value"));
        };
        let stream = record.position.partition.stream;
        // A join record may be larger than the records that it was made from.
        let max = self.limits.max_record.len();
        if payload.len() > max && stream != Stream::Samples {
            let detail = format!("the record has {} bytes, the limit is {max}", payload.len());
            return Err(Reject::new(RejectReason::TooLarge, detail));
        }
        match stream {
            Stream::Impressions => self.impression(&from_json(stream, payload)?, record),
            Stream::Actions => self.action(&from_json(stream, payload)?, record),
            Stream::Items => {
                let item: wire::Item<'_> = from_json(stream, payload)?;
                if item.deleted == Some(true) {
                    self.deletion(&item, record)
                } else {
                    self.item(&item, record)
                }
            }
            Stream::Samples => {
                let joined = self.tier.decode(payload)?;
                Ok((Event::JoinRecord(Box::new(joined)), SkippedFields::default()))
            }
        }
    }
}

fn from_json<'a, T: Deserialize<'a>>(stream: Stream, payload: &'a [u8]) -> Result<T, Reject> {
    serde_json::from_slice(payload).map_err(|error| classify(stream, payload, &error))
}
