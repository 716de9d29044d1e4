//! An embedded broker with a workload: written at once, or while daemons start and die.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;

use ouzel_ingest::{EmbeddedBroker, Feeder, Topics};

use crate::settings::{N_PARTITIONS, USERS_TOPIC};
use crate::workload::Workload;

/// Longest wait for the broker to acknowledge all records.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);

/// The log of a workload.
pub(crate) struct EventLog {
    // Stops the broker when dropped.
    _broker: EmbeddedBroker,
    pub(crate) bootstrap: String,
    pub(crate) workload: Workload,
    /// Number of records, once all were written.
    pub(crate) n_records: Option<u64>,
    feeder: Feeder,
    n_sent: usize,
    /// Time over which the records are written evenly.
    duration: Duration,
    /// The first call of [`EventLog::send_due`].
    started: Option<Instant>,
}

impl EventLog {
    /// A log that contains all records of `workload`.
    pub(crate) fn complete(workload: Workload) -> anyhow::Result<Self> {
        let mut log = Self::open(workload, Duration::ZERO)?;
        log.send_due()?;
        Ok(log)
    }

    /// A log that contains the catalog and profiles and grows over `duration` by [`EventLog::send_due`].
    pub(crate) fn growing(workload: Workload, duration: Duration) -> anyhow::Result<Self> {
        let mut log = Self::open(workload, duration)?;
        let events = log.workload.events.iter();
        log.send(events.take_while(|event| event.stream.is_catalog()).count())?;
        Ok(log)
    }

    fn open(workload: Workload, duration: Duration) -> anyhow::Result<Self> {
        let topics = Topics {
            users: USERS_TOPIC.to_owned(),
            ..Topics::default()
        };
        let broker = EmbeddedBroker::start(N_PARTITIONS, &topics.all())?;
        let bootstrap = broker.bootstrap()?;
        let feeder = Feeder::connect(&bootstrap, &BTreeMap::new(), topics)?;
        Ok(Self {
            _broker: broker,
            bootstrap,
            workload,
            n_records: None,
            feeder,
            n_sent: 0,
            duration,
            started: None,
        })
    }

    /// Writes the records that are due by now.
    pub(crate) fn send_due(&mut self) -> anyhow::Result<()> {
        if self.n_records.is_some() {
            return Ok(());
        }
        let n_events = self.workload.events.len();
        let elapsed = self.started.get_or_insert_with(Instant::now).elapsed();
        let due = (elapsed.as_micros() * n_events as u128)
            .checked_div(self.duration.as_micros())
            .and_then(|due| usize::try_from(due).ok())
            .map_or(n_events, |due| due.min(n_events));
        self.send(due)?;
        if due == n_events {
            self.feeder.flush(FLUSH_TIMEOUT)?;
            let ends = self.feeder.delivered();
            self.n_records = Some(ends.iter().map(|(_, end)| end.unsigned_abs()).sum());
        }
        Ok(())
    }

    fn send(&mut self, end: usize) -> anyhow::Result<()> {
        for number in self.n_sent..end {
            let event = &self.workload.events[number];
            self.feeder
                .send(
                    event.stream,
                    &event.key,
                    Some(event.record_ms),
                    Some(&event.payload),
                )
                .with_context(|| format!("cannot write record {number} of the workload"))?;
        }
        self.n_sent = self.n_sent.max(end);
        self.feeder.poll(Duration::ZERO);
        Ok(())
    }
}
