//! Poll: reads the source for the join stage and pauses partitions that are far ahead of it.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use ouzel_sample::DecodedRecord;

use super::Read;
use super::backlog::Backlog;
use super::stream_log::ReadLog;
use crate::pipeline::intake::Intake;

/// Longest wait for a record, and so for a paused partition to be resumed.
const WAIT: Duration = Duration::from_millis(10);
/// Longest wait for the acknowledgement of dead letters at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// The stage.
pub(crate) struct Poll {
    pub(crate) intake: Intake,
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) out: Sender<Read>,
}

impl Poll {
    /// Reads until `is_stopping`, the end of a bounded source, or the end of the join stage.
    pub(crate) fn run(mut self, is_stopping: &dyn Fn() -> bool) -> anyhow::Result<()> {
        let done = self.read(is_stopping);
        // The join stage may wait for a full disk, and gives up after this.
        self.backlog.end();
        done
    }

    fn read(&mut self, is_stopping: &dyn Fn() -> bool) -> anyhow::Result<()> {
        let mut log = ReadLog::default();
        while !is_stopping() {
            log.watch(&self.intake.decoder);
            self.backlog.apply(&mut *self.intake.source)?;
            let Some(read) = self.intake.next(WAIT)? else {
                continue;
            };
            if let Read::Records(records) = &read
                && let Some(first) = records.first()
            {
                let sizes = records.iter().map(DecodedRecord::size_bytes);
                self.backlog.sent_sizes(first.position.partition, sizes);
            }
            let is_finished = matches!(read, Read::Finished);
            // A join stage that has ended has failed; its task reports why.
            if self.out.send(read).is_err() || is_finished {
                break;
            }
        }
        self.intake.finish(FLUSH_TIMEOUT);
        Ok(())
    }
}
