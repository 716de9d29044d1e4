//! A data folder as a source: bounded, with event times as timestamps, the same in every run.

use std::sync::Arc;

use ouzel_sample::{PartitionId, Positions, Record, Stream};

use super::DataDir;
use crate::error::Error;
use crate::source::{BoundedSource, PartitionReader, PartitionState};

/// Reads a [`DataDir`]: one partition per stream, the n-th event of a stream at offset n. Without users there is none
/// for them.
pub type DataSource = BoundedSource<DataReader>;

/// Reads the events of one stream as a partition.
#[derive(Debug)]
pub struct DataReader {
    data: Arc<DataDir>,
    stream: Stream,
    next: usize,
}

impl DataSource {
    /// A source over `data` from the positions `from` on.
    pub fn new(data: &Arc<DataDir>, from: &Positions) -> Self {
        let is_read = |stream: &Stream| *stream != Stream::Users || data.n_records(*stream) > 0;
        Self::over(Stream::EVENTS.into_iter().filter(is_read).map(|stream| {
            let id = PartitionId::new(stream, 0);
            let next = from.next(id).unwrap_or(0);
            let state = PartitionState {
                id,
                name: format!("{} of {}", stream, data.path().display()),
                low: 0,
                high: i64::try_from(data.n_records(stream)).ok(),
                next,
            };
            let reader = DataReader {
                data: Arc::clone(data),
                stream,
                next: usize::try_from(next).unwrap_or(0),
            };
            (state, reader)
        }))
    }
}

impl PartitionReader for DataReader {
    fn read(&mut self) -> Result<Option<Record>, Error> {
        let record = self.data.record(self.stream, self.next);
        self.next += 1;
        Ok(record)
    }
}
