//! The world's records on their way into a broker, all at once or while daemons live and die.

use std::time::{Duration, Instant};

use anyhow::Context;

use ouzel_ingest::{EmbeddedBroker, Feeder};
use ouzel_sample::Stream;

use crate::config::Config;

use super::settings::N_PARTITIONS;
use super::world::{Event, World};

/// Longest wait for the broker to acknowledge.
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker of its own with a world in it, sooner or later.
pub struct Log {
    // Stops the broker when dropped.
    _broker: EmbeddedBroker,
    bootstrap: String,
    feeder: Feeder,
    world: World,
    n_sent: usize,
    pace: Option<Pace>,
    n_records: Option<u64>,
}

/// Events are sent evenly over this time, from the first look on.
struct Pace {
    over: Duration,
    started: Option<Instant>,
}

impl Log {
    /// A log that is complete from the beginning.
    pub fn settled(world: World, config: &Config) -> anyhow::Result<Self> {
        let mut log = Self::open(world, config, None)?;
        log.on_tick()?;
        Ok(log)
    }

    /// A log that grows over this time while it is tended. The catalog is there from the beginning.
    pub fn growing(world: World, config: &Config, over: Duration) -> anyhow::Result<Self> {
        let mut log = Self::open(world, config, Some(Pace { over, started: None }))?;
        let n_catalog = log
            .world
            .events
            .iter()
            .take_while(|event| event.stream == Stream::Items)
            .count();
        log.send(n_catalog)?;
        Ok(log)
    }

    fn open(world: World, config: &Config, pace: Option<Pace>) -> anyhow::Result<Self> {
        let broker = EmbeddedBroker::start(N_PARTITIONS, &config.topics().all())?;
        let bootstrap = broker.bootstrap()?;
        let feeder = Feeder::connect(&bootstrap, &config.kafka_config()?.properties, config.topics())?;
        Ok(Self {
            _broker: broker,
            bootstrap,
            feeder,
            world,
            n_sent: 0,
            pace,
            n_records: None,
        })
    }

    /// `config` with this log's broker.
    #[must_use]
    pub fn configure(&self, config: &Config) -> Config {
        let mut config = config.clone();
        config.kafka.bootstrap.clone_from(&self.bootstrap);
        config
    }

    /// The world in it.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Records in it once it is complete.
    #[must_use]
    pub fn n_records(&self) -> Option<u64> {
        self.n_records
    }

    /// Sends what is due; called often.
    pub fn on_tick(&mut self) -> anyhow::Result<()> {
        if self.n_records.is_some() {
            return Ok(());
        }
        let n_events = self.world.events.len();
        let due = match &mut self.pace {
            None => n_events,
            Some(pace) => {
                let since = pace.started.get_or_insert_with(Instant::now).elapsed();
                let share = since.as_micros().saturating_mul(n_events as u128) / pace.over.as_micros().max(1);
                usize::try_from(share).unwrap_or(n_events).min(n_events)
            }
        };
        self.send(due)?;
        if due == n_events {
            self.feeder.flush(PATIENCE)?;
            let ends = self.feeder.delivered();
            self.n_records = Some(ends.iter().map(|(_, end)| end.unsigned_abs()).sum());
        }
        Ok(())
    }

    fn send(&mut self, until: usize) -> anyhow::Result<()> {
        while self.n_sent < until {
            let event: &Event = &self.world.events[self.n_sent];
            self.feeder
                .send(
                    event.stream,
                    &event.key,
                    Some(event.record_ms),
                    Some(&event.payload),
                )
                .with_context(|| format!("cannot write record {} of the world", self.n_sent))?;
            self.n_sent += 1;
        }
        self.feeder.poll(Duration::ZERO);
        Ok(())
    }
}
