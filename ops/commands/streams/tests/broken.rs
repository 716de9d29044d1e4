//! Worlds of records that are broken at random.

use super::*;

/// A number below `n` from a xorshift state.
fn below(state: &mut u64, n: u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from((*state >> 11) % n).unwrap()
}

/// Breaks a row in one of the ways that logs are broken.
fn broken(row: &Value, state: &mut u64) -> Value {
    let mut row = row.clone();
    let fields: Vec<String> = row.as_object().unwrap().keys().cloned().collect();
    let field = fields[below(state, fields.len() as u64)].clone();
    let ts = row["ts_ms"].as_i64().unwrap();
    match below(state, 12) {
        0 => row["ts_ms"] = json!(ts / 1000),
        1 => row["ts_ms"] = json!(ts * 1000),
        2 => row["ts_ms"] = json!(ts.to_string()),
        3 => row["ts_ms"] = json!(ts + 3_300_000),
        4 => row["ts_ms"] = json!(ts - 40_000_000),
        5 => row[field.as_str()] = json!(null),
        6 => row[field.as_str()] = json!([{"deep": [1, "x"]}, 2.5]),
        7 => row[field.as_str()] = json!(-7.5e300),
        8 => {
            let value = row.as_object_mut().unwrap().remove(&field).unwrap();
            row[field.to_uppercase()] = value;
        }
        9 => return json!(format!("{}\u{fffd}", &row.to_string()[..below(state, 40) + 1])),
        10 => row[field.as_str()] = json!("x".repeat(600)),
        _ => row["action"] = json!(["Click", "view", "", "click "][below(state, 4)]),
    }
    row
}

#[test]
fn in_200_worlds_of_broken_records_every_record_has_one_fate() {
    let configs = [
        Config::default(),
        config("join.by = \"user_item\""),
        config("events.from = \"ga4\""),
    ];
    for world in 0..200u64 {
        let mut state = world.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let share = 1 + below(&mut state, 4) as u64;
        let mut log = base();
        for rows in [&mut log.impressions, &mut log.actions, &mut log.items] {
            for row in rows.iter_mut() {
                if below(&mut state, 5) < usize::try_from(share).unwrap() {
                    *row = broken(row, &mut state);
                }
            }
        }
        let config = &configs[below(&mut state, 3)];
        // `report` checks the identities of the reader and of the join.
        let reports = [from_files(config, &log).unwrap(), from_records(config, &log)];
        for report in &reports {
            for (stream, figures) in &report.streams {
                let n = log
                    .streams()
                    .iter()
                    .find(|(known, _)| known.name() == *stream)
                    .map_or(0, |(_, rows)| rows.len());
                assert_eq!(figures.read, n as u64, "{stream} of world {world}");
                assert_eq!(
                    figures.records.values().sum::<u64>(),
                    figures.read,
                    "{stream} of world {world}"
                );
            }
            let actions = &report.streams["actions"];
            assert_eq!(
                actions.events.values().sum::<u64>(),
                actions.records["used"],
                "world {world}: {actions:?}"
            );
        }
        let shown = |report: &StreamReport| report.streams["impressions"].events.values().sum::<u64>();
        assert_eq!(
            shown(&reports[1]),
            reports[1].streams["impressions"].records["used"],
            "world {world}"
        );
        for name in ["positive", "negative", "late"] {
            let counts = reports
                .each_ref()
                .map(|report| report.streams["impressions"].events.get(name).copied());
            assert_eq!(counts[0], counts[1], "{name} of world {world}");
        }
    }
}
