//! Throughput of the join on one core, from bytes in memory to samples: decoding, join, histories and counters.
//!
//! `plain` is a straightforward implementation of the same job, `tests/peers/plain_join.rs`. With
//! `OUZEL_BENCH_DUMP=DIR` the logs are written to `DIR/<world>.ndjson` instead, for peers in other languages.

mod forms;
#[path = "../../../tests/peers/plain_join.rs"]
#[allow(
    unreachable_pub,
    dead_code,
    reason = "a program of its own, of which the bench takes a part"
)]
mod plain_join;
#[path = "../../tests/support/registry.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a server of the tests, of which the bench takes a part"
)]
mod registry_server;
mod world;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;

use ouzel_ingest::join::{JoinConfig, LabelPolicy, StoreConfig};
use ouzel_ingest::{Decoder, EventConfig, Stage};
use ouzel_sample::{DecodedRecord, FeatureConfig, FeatureState, IdSpace, Record, Stream};

use plain_join::PlainJoin;
use world::{FEED, FILMS, World};

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const WORLDS: [&World; 2] = [&FILMS, &FEED];

fn main() {
    match std::env::var_os("OUZEL_BENCH_DUMP") {
        Some(folder) => dump(Path::new(&folder)).expect("the folder to dump to can be written"),
        None => divan::main(),
    }
}

/// Writes one record a line, in merged order: the stream's name, a tab, the payload. Another file has the number of
/// samples that a peer must find.
fn dump(folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    for world in WORLDS {
        let log = world.log();
        let mut file = BufWriter::new(File::create(folder.join(format!("{world}.ndjson")))?);
        for record in &log {
            write!(file, "{}\t", record.position.partition.stream)?;
            file.write_all(record.payload.as_deref().unwrap_or_default())?;
            file.write_all(b"\n")?;
        }
        file.into_inner()?.sync_all()?;
        let n_samples = run(&log, &decoder(), &mut stage());
        fs::write(folder.join(format!("{world}.samples")), n_samples.to_string())?;
    }
    Ok(())
}

/// Bytes to events.
#[divan::bench(args = WORLDS, sample_count = 20)]
fn decode(bencher: Bencher<'_, '_>, world: &World) {
    let log = world.log();
    bencher
        .counter(ItemsCount::new(log.len()))
        .with_inputs(decoder)
        .bench_local_values(|decoder| {
            for record in &log {
                divan::black_box(decoder.decode(record));
            }
            decoder
        });
}

/// Bytes to events through a mapping by paths.
#[divan::bench(args = WORLDS, sample_count = 20)]
fn decode_paths(bencher: Bencher<'_, '_>, world: &World) {
    let (log, decoder) = forms::at_paths(world);
    decode_as(bencher, world, &log, &decoder);
}

/// Avro bytes to events.
#[divan::bench(args = WORLDS, sample_count = 20)]
fn decode_avro(bencher: Bencher<'_, '_>, world: &World) {
    let (log, decoder, _registry) = forms::avro(world);
    decode_as(bencher, world, &log, &decoder);
}

/// Times a log that holds the events of `world` in another form.
fn decode_as(bencher: Bencher<'_, '_>, world: &World, log: &[Record], other: &Decoder) {
    let plain = decoder();
    for (record, same) in world.log().iter().zip(log) {
        assert_eq!(
            plain.decode(record).event,
            other.decode(same).event,
            "the same event"
        );
    }
    bencher.counter(ItemsCount::new(log.len())).bench_local(|| {
        for record in log {
            divan::black_box(other.decode(record));
        }
    });
}

/// Events to batches: the join, the features, the ledger.
#[divan::bench(args = WORLDS, sample_count = 20)]
fn join(bencher: Bencher<'_, '_>, world: &World) {
    let decoder = decoder();
    let events: Vec<DecodedRecord> = world.log().iter().map(|record| decoder.decode(record)).collect();
    bencher
        .counter(ItemsCount::new(events.len()))
        .with_inputs(stage)
        .bench_local_values(|mut stage| {
            let mut batches = Vec::new();
            for event in &events {
                stage.take(event, &mut batches).expect("a world joins");
                divan::black_box(&batches);
                batches.clear();
            }
            stage
        });
}

/// Bytes to batches.
#[divan::bench(args = WORLDS, sample_count = 20)]
fn decode_and_join(bencher: Bencher<'_, '_>, world: &World) {
    let log = world.log();
    bencher
        .counter(ItemsCount::new(log.len()))
        .with_inputs(|| (decoder(), stage()))
        .bench_local_values(|(decoder, mut stage)| {
            let n_samples = run(&log, &decoder, &mut stage);
            (decoder, stage, n_samples)
        });
}

/// Bytes to samples in the straightforward implementation.
#[divan::bench(args = WORLDS, sample_count = 20)]
fn plain(bencher: Bencher<'_, '_>, world: &World) {
    let log = world.log();
    let expected = run(&log, &decoder(), &mut stage());
    bencher
        .counter(ItemsCount::new(log.len()))
        .with_inputs(PlainJoin::default)
        .bench_local_values(|mut join| {
            let mut n_samples = 0;
            let mut samples = Vec::new();
            for record in &log {
                let payload = record.payload.as_deref().expect("a world has no tombstone");
                join.take(record.position.partition.stream.name(), payload, &mut samples);
                n_samples += divan::black_box(&samples).len();
                samples.clear();
            }
            // Samples of windows still open are in neither count.
            assert_eq!(n_samples, expected, "both did the same job");
            join
        });
}

/// Joins the log and returns the number of samples.
fn run(log: &[Record], decoder: &Decoder, stage: &mut Stage) -> usize {
    let mut batches = Vec::new();
    let mut n_samples = 0;
    for record in log {
        stage
            .take(&decoder.decode(record), &mut batches)
            .expect("a world joins");
        n_samples += divan::black_box(&batches)
            .iter()
            .map(|batch| batch.samples.len())
            .sum::<usize>();
        batches.clear();
    }
    n_samples + stage.n_open()
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

fn stage() -> Stage {
    let partitions = [Stream::Impressions, Stream::Actions].map(world::partition);
    let features = Arc::new(FeatureState::new(FeatureConfig::default()));
    Stage::new(&StoreConfig::Memory, &join_config(), partitions, features, 128)
        .expect("the default configuration is valid")
}
