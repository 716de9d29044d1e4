use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ouzel_sample::{PartitionId, Position, Positions, Record, Stream};

use super::*;

fn partition(stream: Stream, partition: i32) -> PartitionId {
    PartitionId { stream, partition }
}

fn record(id: PartitionId, offset: i64, ts: i64) -> Record {
    Record {
        metadata: None,
        position: Position {
            partition: id,
            offset,
        },
        timestamp_ms: Some(ts),
        payload: Some(vec![1]),
    }
}

/// All results of a bounded source until it is finished.
fn drain(source: &mut dyn Source) -> (Vec<(PartitionId, i64)>, Vec<PartitionId>) {
    let (mut read, mut ended) = (Vec::new(), Vec::new());
    for _ in 0..10_000 {
        match source.poll(Duration::ZERO).unwrap() {
            Polled::Records(records) => {
                assert!(!records.is_empty());
                let id = records[0].position.partition;
                assert!(records.iter().all(|record| record.position.partition == id));
                assert!(!ended.contains(&id), "{id} went on after its end");
                read.extend(records.iter().map(|record| (id, record.position.offset)));
            }
            Polled::AtEnd(id) => ended.push(id),
            Polled::Added(_) | Polled::Idle => {}
            Polled::Finished => {
                assert_eq!(source.poll(Duration::ZERO).unwrap(), Polled::Finished);
                return (read, ended);
            }
        }
    }
    panic!("never finished");
}

fn of(read: &[(PartitionId, i64)], id: PartitionId) -> Vec<i64> {
    read.iter()
        .filter(|(of, _)| *of == id)
        .map(|(_, offset)| *offset)
        .collect()
}

#[test]
fn memory_hands_out_each_partition_once_in_offset_order() {
    let (a, b) = (partition(Stream::Impressions, 0), partition(Stream::Actions, 4));
    let records = (0..1000)
        .rev()
        .map(|i| record(a, i, i))
        .chain([record(b, 7, 3), record(b, 5, 1)]);
    let (read, ended) = drain(&mut MemorySource::new(records, &Positions::default()));
    assert_eq!(of(&read, a), (0..1000).collect::<Vec<_>>());
    assert_eq!(of(&read, b), [5, 7]);
    assert_eq!(ended.len(), 2);
}

#[test]
fn memory_resumes_from_positions_and_reports_its_partitions() {
    let a = partition(Stream::Items, 0);
    let from: Positions = [(a, 2)].into_iter().collect();
    let mut source = MemorySource::new((0..4).map(|i| record(a, i, i)), &from);
    let state = &source.partitions()[0];
    assert_eq!((state.low, state.high, state.next), (0, Some(4), 2));
    let (read, _) = drain(&mut source);
    assert_eq!(of(&read, a), [2, 3]);
    assert_eq!(source.partitions()[0].next, 4);
}

#[test]
fn the_oldest_head_goes_first() {
    let (a, b) = (partition(Stream::Impressions, 0), partition(Stream::Actions, 0));
    let mut source = MemorySource::new([record(a, 0, 50), record(b, 0, 40)], &Positions::default());
    let Polled::Records(first) = source.poll(Duration::ZERO).unwrap() else {
        panic!()
    };
    assert_eq!(first[0].position.partition, b);
}

#[test]
fn a_paused_partition_is_silent_even_about_its_end() {
    let (a, b) = (partition(Stream::Impressions, 0), partition(Stream::Actions, 0));
    let mut source = MemorySource::new([record(a, 0, 1), record(b, 0, 2)], &Positions::default());
    source.pause(&[a]).unwrap();
    let mut results = Vec::new();
    for _ in 0..4 {
        results.push(source.poll(Duration::ZERO).unwrap());
    }
    assert_eq!(
        results,
        [
            Polled::Records(vec![record(b, 0, 2)]),
            Polled::AtEnd(b),
            Polled::Idle,
            Polled::Idle
        ]
    );
    source.resume(&[a]).unwrap();
    let (read, ended) = drain(&mut source);
    assert_eq!((read, ended), (vec![(a, 0)], vec![a]));
}

#[test]
fn an_empty_source_is_finished_at_once() {
    let mut source = MemorySource::new([], &Positions::default());
    assert_eq!(source.poll(Duration::ZERO).unwrap(), Polled::Finished);
}

/// Writes `text` as the file of `name`, compressed as its extension says.
fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    let file = std::fs::File::create(&path).unwrap();
    if name.ends_with("gz") {
        // Two members, as appended logs have.
        let (first, second) = text.split_at(text.len() / 2);
        let mut file = file;
        for part in [first, second] {
            let mut packed = flate2::write::GzEncoder::new(&mut file, flate2::Compression::fast());
            packed.write_all(part.as_bytes()).unwrap();
            packed.finish().unwrap();
        }
    } else if name.ends_with("zst") {
        #[cfg(feature = "zstd")]
        zstd::stream::copy_encode(text.as_bytes(), file, 1).unwrap();
    } else {
        (&file).write_all(text.as_bytes()).unwrap();
    }
    path
}

fn events(n: i64) -> String {
    (0..n)
        .map(|i| format!("{{\"ts_ms\":{i},\"x\":\"{i}\"}}\n"))
        .collect()
}

#[test]
fn a_file_reads_the_same_under_every_compression() {
    let dir = tempfile::tempdir().unwrap();
    let id = partition(Stream::Items, 0);
    let names = if cfg!(feature = "zstd") {
        vec!["a", "a.gz", "a.zst"]
    } else {
        vec!["a", "a.gz"]
    };
    for name in names {
        let path = write(dir.path(), name, &events(700));
        let files = BTreeMap::from([(Stream::Items, path)]);
        let mut source = FileSource::open(&files, &Positions::default()).unwrap();
        let Polled::Records(first) = source.poll(Duration::ZERO).unwrap() else {
            panic!("{name}")
        };
        assert_eq!(
            first[3].payload.as_deref(),
            Some(b"{\"ts_ms\":3,\"x\":\"3\"}".as_slice())
        );
        assert_eq!(first[3].timestamp_ms, Some(3));
        let (read, ended) = drain(&mut source);
        assert_eq!(first.len() + read.len(), 700, "{name}");
        assert_eq!(ended, [id]);
    }
}

#[test]
fn a_line_keeps_its_number_as_offset_across_blank_and_broken_ones() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "a", "{\"ts_ms\":1}\r\n\n  \nnot json\n{\"ts_ms\":5}");
    let files = BTreeMap::from([(Stream::Actions, path)]);
    let id = partition(Stream::Actions, 0);
    for (from, expected) in [(0, vec![0, 3, 4]), (1, vec![3, 4]), (4, vec![4]), (9, vec![])] {
        let from = [(id, from)].into_iter().collect();
        let (read, ended) = drain(&mut FileSource::open(&files, &from).unwrap());
        assert_eq!((of(&read, id), ended), (expected, vec![id]));
    }
}

#[test]
fn a_missing_or_truncated_file_is_an_error_with_its_path_after_its_readable_lines() {
    let dir = tempfile::tempdir().unwrap();
    let absent = BTreeMap::from([(Stream::Items, dir.path().join("absent"))]);
    let error = FileSource::open(&absent, &Positions::default()).unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");

    let path = write(dir.path(), "a.gz", &events(2000));
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 40]).unwrap();
    let mut source =
        FileSource::open(&BTreeMap::from([(Stream::Items, path)]), &Positions::default()).unwrap();
    let mut n_read = 0;
    let error = loop {
        match source.poll(Duration::ZERO) {
            Ok(Polled::Records(records)) => n_read += records.len(),
            Ok(other) => panic!("{other:?} of a cut file"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("a.gz"), "{error}");
    assert!((1000..2000).contains(&n_read), "{n_read}");
}
