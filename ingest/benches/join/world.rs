//! The generated logs of the join benchmark, as bytes on the wire. They are the same in every run.

use std::fmt;

use ouzel_sample::{PartitionId, Position, Record, Stream};
use serde_json::{Value, json};

/// The shape of a log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World {
    pub(crate) name: &'static str,
    pub(crate) n_requests: u64,
    pub(crate) n_users: u64,
    pub(crate) n_items: u64,
    /// Items per slate.
    pub(crate) slate: u64,
    /// Most categories of an item, from 1.
    pub(crate) categories: u64,
    pub(crate) has_author: bool,
    pub(crate) has_context: bool,
    /// Clicks per shown item.
    pub(crate) click_rate: f64,
    /// Mean event time from one request to the next, ms.
    pub(crate) gap_ms: u64,
}

/// Like MovieLens-100K with a rating as an impression: one film per slate, half of them liked, long histories.
pub(crate) const FILMS: World = World {
    name: "films",
    n_requests: 65_000,
    n_users: 943,
    n_items: 1_682,
    slate: 1,
    categories: 3,
    has_author: false,
    has_context: false,
    click_rate: 0.55,
    gap_ms: 20_000,
};

/// Like a feed: slates of eight, few clicks, request context, ten minutes of pending requests at any time.
pub(crate) const FEED: World = World {
    name: "feed",
    n_requests: 20_000,
    n_users: 4_000,
    n_items: 5_000,
    slate: 8,
    categories: 1,
    has_author: true,
    has_context: true,
    click_rate: 0.05,
    gap_ms: 120,
};

const START_MS: u64 = 1_600_000_000_000;
const MEDIAN_DELAY_MS: f64 = 12_000.0;

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl World {
    /// The records in merged order: the catalog, then impressions and clicks by event time.
    pub(crate) fn log(&self) -> Vec<Record> {
        let mut timed: Vec<(u64, Stream, Value)> = (0..self.n_items)
            .map(|item| (START_MS, Stream::Items, self.item(item)))
            .collect();
        let mut now = START_MS;
        for request in 0..self.n_requests {
            now += dice(request, 0) % (2 * self.gap_ms);
            let user = format!("user-{}", skewed(dice(request, 1), self.n_users));
            // Neighbours in a shuffled catalog: popular first, each once.
            let first = skewed(dice(request, 2), self.n_items);
            let items: Vec<String> = (0..self.slate)
                .map(|i| format!("item-{}", (first + i * 611) % self.n_items))
                .collect();
            let id = format!("request-{request:08}");
            for (lane, item) in (10..).zip(&items) {
                if share(dice(request, lane)) < self.click_rate {
                    let delay = MEDIAN_DELAY_MS * (3.0 * share(dice(request, lane + 1000))).exp() / 4.5;
                    let ts = now + whole(delay);
                    let click = json!({
                        "request_id": id, "item_id": item, "user_id": user, "ts_ms": ts, "action": "click",
                    });
                    timed.push((ts, Stream::Actions, click));
                }
            }
            let shown: Vec<Value> = (0..).zip(&items).map(|(i, item)| self.shown(i, item)).collect();
            let mut event = json!({ "request_id": id, "user_id": user, "ts_ms": now, "items": shown });
            if self.has_context {
                event["context"] = json!({
                    "device": format!("device-{}", dice(request, 3) % 3),
                    "country": format!("country-{}", dice(request, 4) % 40),
                });
            }
            timed.push((now, Stream::Impressions, event));
        }
        // A stable sort: records of one time keep their order, the catalog first.
        timed.sort_by_key(|(ts, stream, _)| (*ts, *stream));
        let mut next = [0i64; Stream::WITH_SAMPLES.len()];
        timed
            .into_iter()
            .map(|(ts, stream, event)| {
                let next = &mut next[stream as usize];
                let offset = *next;
                *next += 1;
                Record {
                    position: Position {
                        partition: partition(stream),
                        offset,
                    },
                    timestamp_ms: i64::try_from(ts).ok(),
                    payload: Some(event.to_string().into_bytes()),
                    metadata: None,
                }
            })
            .collect()
    }

    fn item(&self, item: u64) -> Value {
        let n = 1 + dice(item, 20) % self.categories;
        let categories: Vec<String> = (0..n)
            .map(|i| format!("category-{}", (dice(item, 21) + i * 5) % 19))
            .collect();
        let mut event = json!({
            "item_id": format!("item-{item}"), "ts_ms": START_MS, "category": categories,
            "title": format!("The title of item {item}"),
        });
        if self.has_author {
            event["author"] = json!(format!("author-{}", skewed(dice(item, 22), 500)));
        }
        event
    }

    fn shown(&self, position: u64, item: &str) -> Value {
        if self.slate == 1 {
            json!({ "item_id": item })
        } else {
            json!({ "item_id": item, "position": position })
        }
    }
}

/// The one partition of a stream.
pub(crate) fn partition(stream: Stream) -> PartitionId {
    PartitionId { stream, partition: 0 }
}

/// A fixed random number for a key: SplitMix64.
fn dice(key: u64, lane: u64) -> u64 {
    let mut x = key
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(lane.wrapping_mul(0xd1b5_4a32_d192_ed03));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A fixed random fraction for a key.
fn share(dice: u64) -> f64 {
    (dice >> 40) as f64 / f64::from(1u32 << 24)
}

/// A skewed number below `n`: half of all draws fall on the smallest eighth.
fn skewed(dice: u64, n: u64) -> u64 {
    let n = n as f64;
    whole(share(dice).powi(3) * n)
}

fn whole(x: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "small and not negative"
    )]
    let whole = x as u64;
    whole
}
