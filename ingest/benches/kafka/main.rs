//! From a Kafka broker to joined samples: the side of ouzel in `make bench`'s comparison with Kafka Streams.
//!
//! `ops/setup/bench_streams.py` runs it on a broker and counts the CPU time of the process.
//!
//! ```text
//! kafka feed  WORLD BOOTSTRAP PREFIX    makes the topics and writes the log
//! kafka unit  WORLD BOOTSTRAP PREFIX    reads and joins it as `ouzel join` does
//! kafka stage WORLD BOOTSTRAP PREFIX    the same as the daemon does: with the catalog, histories and counters
//! ```
//!
//! Each prints one JSON object. Of the last two, `events` are the impressions and actions read and `pairs` the actions
//! that met their impression.

#[path = "../join/world.rs"]
#[allow(dead_code, reason = "shared with the benchmark in memory")]
mod world;

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use ouzel_ingest::join::{JoinConfig, LabelPolicy, StoreConfig};
use ouzel_ingest::order::Orderer;
use ouzel_ingest::tier::{PartitionJoiner, StartPoint};
use ouzel_ingest::{
    Decoder, EventConfig, Feeder, KafkaConfig, KafkaSource, Polled, ReplayRange, Source, Stage, Topics,
    topics,
};
use ouzel_sample::{DecodedRecord, FeatureConfig, FeatureState, IdSpace, Positions, Stream};
use serde_json::{Value, json};

use world::{FEED, FILMS, World};

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Longer logs than in memory, so that the cost of a start is negligible.
const WORLDS: [World; 2] = [
    World {
        n_requests: 300_000,
        ..FILMS
    },
    World {
        n_requests: 100_000,
        ..FEED
    },
];
/// Longest wait for the broker.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut out = std::io::stdout();
    let [what, world, bootstrap, prefix] = args.as_slice() else {
        writeln!(
            out,
            "SKIPPED: this benchmark needs a broker; run it by `make bench`"
        )?;
        return Ok(());
    };
    let world = WORLDS
        .iter()
        .find(|known| known.name == world)
        .ok_or("no such world")?;
    let config = config(bootstrap, prefix);
    let told = match what.as_str() {
        "feed" => feed(world, &config)?,
        "unit" => partition_joiner(config)?,
        "stage" => stage(&config)?,
        _ => return Err("no such job".into()),
    };
    writeln!(out, "{told}")?;
    Ok(())
}

fn config(bootstrap: &str, prefix: &str) -> KafkaConfig {
    let name = |stream: Stream| format!("{prefix}-{stream}");
    KafkaConfig {
        bootstrap: bootstrap.to_owned(),
        topics: Topics::named(name),
        ..KafkaConfig::default()
    }
}

/// All records, with key and timestamp as in the event format.
fn feed(world: &World, config: &KafkaConfig) -> Result<Value, Box<dyn Error>> {
    let streams = config.streams.iter();
    let names: Vec<String> = streams
        .map(|stream| config.topics.name(*stream).to_owned())
        .collect();
    topics::create(&config.bootstrap, &BTreeMap::new(), &names, 1, 1)?;
    // What a producer of events would set; both sides read the same bytes.
    let properties = [("queue.buffering.max.kbytes", "65536"), ("linger.ms", "20")];
    let properties = properties.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let feeder = Feeder::connect(&config.bootstrap, &properties.into(), config.topics.clone())?;
    let mut n_fed = [0u64; Stream::WITH_SAMPLES.len()];
    for record in world.log() {
        let stream = record.position.partition.stream;
        let payload = record.payload.unwrap_or_default();
        let event: Value = serde_json::from_slice(&payload)?;
        let field = match stream {
            Stream::Items => "item_id",
            _ => "request_id",
        };
        let key = event[field].as_str().unwrap_or_default();
        feeder.send(stream, key, record.timestamp_ms, Some(&payload))?;
        n_fed[stream as usize] += 1;
    }
    feeder.flush(PATIENCE)?;
    let n_impressions = n_fed[Stream::Impressions as usize];
    Ok(json!({
        "impressions": n_impressions,
        "shown": n_impressions * world.slate,
        "actions": n_fed[Stream::Actions as usize],
    }))
}

fn join_config() -> JoinConfig {
    JoinConfig {
        label_policy: LabelPolicy::Eager,
        ..JoinConfig::default()
    }
}

fn decoder() -> Decoder {
    Decoder::new(IdSpace::new(1), vec!["click".to_owned()], EventConfig::default())
        .expect("the default mapping is valid")
}

/// Reads the whole log as it is now, giving each record to `take`, then each partition's end.
fn read(
    source: &mut KafkaSource,
    mut take: impl FnMut(Result<DecodedRecord, ouzel_sample::PartitionId>) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let decoder = decoder();
    loop {
        match source.poll(PATIENCE)? {
            Polled::Records(records) => {
                for record in &records {
                    take(Ok(decoder.decode(record)))?;
                }
            }
            Polled::AtEnd(partition) => take(Err(partition))?,
            Polled::Added(_) => {}
            Polled::Idle => return Err("the broker does not answer".into()),
            Polled::Finished => return Ok(()),
        }
    }
}

fn partition_joiner(config: KafkaConfig) -> Result<Value, Box<dyn Error>> {
    let config = KafkaConfig {
        streams: vec![Stream::Impressions, Stream::Actions],
        ..config
    };
    let start = StartPoint {
        offsets: [0, 0],
        reported: None,
    };
    let mut joiner = PartitionJoiner::new(join_config(), 0, &start)?;
    let (mut records, mut n_reported, mut n_ended) = (Vec::new(), 0, 0);
    let mut source = KafkaSource::open_range(&config, &ReplayRange::default())?;
    read(&mut source, |next| {
        match next {
            Ok(recorded) => joiner.push(recorded)?,
            Err(partition) => {
                joiner.at_end(partition);
                n_ended += 1;
            }
        }
        while joiner.step(n_ended == 2, &mut records)?.is_some() {
            n_reported += std::hint::black_box(&records).len();
            records.clear();
        }
        Ok(())
    })?;
    let counters = joiner.joiner().counters();
    Ok(json!({
        "events": counters.impressions + counters.actions,
        "pairs": counters.tasks[0].positive,
        "negatives": counters.tasks[0].negative,
        "told": n_reported,
    }))
}

fn stage(config: &KafkaConfig) -> Result<Value, Box<dyn Error>> {
    let partitions = [Stream::Impressions, Stream::Actions].map(world::partition);
    let features = Arc::new(FeatureState::new(FeatureConfig::default()));
    let mut stage = Stage::new(&StoreConfig::Memory, &join_config(), partitions, features, 128)?;
    let mut source = KafkaSource::open_range(config, &ReplayRange::default())?;
    let start: Positions = config
        .streams
        .iter()
        .map(|stream| (world::partition(*stream), 0))
        .collect();
    let mut orderer = Orderer::new(&start, true);
    let (mut batches, mut n_samples) = (Vec::new(), 0);
    read(&mut source, |next| {
        match next {
            Ok(recorded) => orderer.push(recorded)?,
            Err(partition) => orderer.finish(partition),
        }
        while let Some(recorded) = orderer.next(false)? {
            stage.take(&recorded, &mut batches)?;
            n_samples += std::hint::black_box(&batches)
                .iter()
                .map(|batch| batch.samples.len())
                .sum::<usize>();
            batches.clear();
        }
        Ok(())
    })?;
    let counters = stage.counters();
    Ok(json!({
        "events": counters.impressions + counters.actions,
        "pairs": counters.tasks[0].positive,
        "negatives": counters.tasks[0].negative,
        "samples": n_samples,
    }))
}
