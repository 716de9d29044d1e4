//! Poll: reads the source, decodes, sends what cannot be used to the dead letters.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use ouzel_ingest::{DeadLetters, Decoder, Polled, Source};
use ouzel_sample::RejectReason;

use crate::stages::Read;
use crate::stages::backlog::Backlog;
use crate::supervisor::Shutdown;

/// Longest wait for a record: also how long a paused partition waits to be resumed.
const WAIT: Duration = Duration::from_millis(10);

/// Longest wait for dead letters to be acknowledged at the end.
const LAST_LETTERS: Duration = Duration::from_secs(5);

/// The stage.
pub struct Poll {
    /// Where records come from.
    pub source: Box<dyn Source + Send>,
    /// What they mean.
    pub decoder: Decoder,
    /// Where those go that mean nothing.
    pub letters: DeadLetters,
    /// How far join is behind.
    pub backlog: Arc<Backlog>,
    /// To join.
    pub out: Sender<Read>,
}

impl Poll {
    /// Reads until the shutdown, the end of a bounded source, or the end of join.
    pub fn run(mut self, shutdown: &Shutdown) -> anyhow::Result<()> {
        let done = self.read(shutdown);
        // Join may be waiting for a disk; it must not wait for ever.
        self.backlog.end();
        done
    }

    fn read(&mut self, shutdown: &Shutdown) -> anyhow::Result<()> {
        while !shutdown.is_triggered() {
            self.backlog.apply(&mut *self.source)?;
            let read = match self.source.poll(WAIT)? {
                Polled::Records(records) => {
                    let decoded = records
                        .iter()
                        .map(|record| self.decoder.decode(record))
                        .collect::<Vec<_>>();
                    for (record, recorded) in records.iter().zip(&decoded) {
                        // An action that no task learns is counted, but nothing is wrong with it.
                        if let Err(reject) = &recorded.event
                            && reject.reason != RejectReason::UnknownAction
                        {
                            self.letters.send(record, reject);
                        }
                    }
                    if let Some(first) = records.first() {
                        self.backlog.sent(first.position.partition, records.len());
                    }
                    self.decoder.report();
                    Read::Records(decoded)
                }
                Polled::AtEnd(partition) => Read::AtEnd(partition),
                Polled::Added(partition) => Read::Added(partition),
                Polled::Finished => Read::Finished,
                Polled::Idle => {
                    self.letters.poll();
                    continue;
                }
            };
            let is_finished = matches!(read, Read::Finished);
            // When join is gone it has failed, and says so itself.
            if self.out.send(read).is_err() || is_finished {
                break;
            }
        }
        // What was read is in the log still; only its copies among the dead letters may be missing.
        if let Err(error) = self.letters.flush(LAST_LETTERS) {
            tracing::warn!(%error, "some dead letters may not have been delivered");
        }
        Ok(())
    }
}
