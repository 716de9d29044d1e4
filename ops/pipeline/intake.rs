//! The first step of a pipeline: reads a source, decodes records, sends rejected ones to the dead letters.

use std::sync::Arc;
use std::time::Duration;

use ouzel_ingest::{DeadLetters, Decoder, LateRecords, Polled, Source};
use ouzel_snapshot::Store;

use super::messages::Read;

/// A source that a thread can own.
pub(crate) type AnySource = Box<dyn Source + Send>;

/// A source with its decoder and dead letters.
pub(crate) struct Intake {
    pub(crate) source: AnySource,
    pub(crate) decoder: Decoder,
    pub(crate) dead_letters: DeadLetters,
    /// Receives records that are late when they are joined; none if they are only counted.
    pub(crate) late: Option<Arc<LateRecords>>,
    /// The state directory. While another daemon writes to it, that one sends the dead letters.
    pub(crate) store: Option<Arc<Store>>,
}

impl Intake {
    /// Reads once, waiting at most `wait`. `None` if nothing arrived.
    pub(crate) fn next(&mut self, wait: Duration) -> Result<Option<Read>, ouzel_ingest::Error> {
        let read = match self.source.poll(wait)? {
            Polled::AtEnd(partition) => Read::AtEnd(partition),
            Polled::Added(partition) => Read::Added(partition),
            Polled::Finished => Read::Finished,
            Polled::Idle => {
                self.dead_letters.poll();
                return Ok(None);
            }
            Polled::Records(records) => {
                let decoded: Vec<_> = records.iter().map(|record| self.decoder.decode(record)).collect();
                let is_standby = self.store.as_ref().is_some_and(|store| store.epoch().is_none());
                let n_sent = if is_standby { 0 } else { records.len() };
                for (record, recorded) in records.iter().zip(&decoded).take(n_sent) {
                    // A record that nothing here needs is valid, so it is counted only.
                    if let Err(reject) = &recorded.event
                        && !reject.reason.is_unneeded()
                    {
                        self.dead_letters.send(record, reject);
                    }
                }
                self.decoder.report();
                if let Some(late) = &self.late {
                    late.keep(records);
                }
                Read::Records(decoded)
            }
        };
        Ok(Some(read))
    }

    /// Waits for the acknowledgement of dead letters, at most `limit`.
    ///
    /// The rejected records remain in the log; only their copies in the dead letters may be missing.
    pub(crate) fn finish(&mut self, limit: Duration) {
        if let Err(error) = self.dead_letters.flush(limit) {
            tracing::warn!(%error, "some dead letters may not have been delivered");
        }
    }
}
