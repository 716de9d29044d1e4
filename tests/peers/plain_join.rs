//! A peer of the join: the same job in a first version, with `serde_json::Value`, strings as keys and hash maps.
//!
//! It decodes, joins clicks within ten minutes on a watermark, drops repeated requests, and gives each sample the last
//! hundred clicks of the user and the same counters as features. It has no late or early actions, no several partitions, no
//! dead letters, no hash over the samples and no checkpoint.

use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;

use serde_json::Value;

const WINDOW_MS: i64 = 600_000;
const LATENESS_MS: i64 = 60_000;
const HISTORY: usize = 100;
const HISTORY_KEPT: usize = 200;
const DECAY_MS: f32 = 3_600_000.0;

/// A training sample.
#[expect(dead_code, reason = "output that the benchmark does not read")]
pub(crate) struct PlainSample {
    pub(crate) request: Rc<PlainRequest>,
    pub(crate) item: String,
    pub(crate) features: Vec<f32>,
    pub(crate) label: bool,
}

/// The request side of the samples of a slate.
pub(crate) struct PlainRequest {
    pub(crate) id: String,
    pub(crate) user: String,
    pub(crate) ts: i64,
    pub(crate) context: Vec<String>,
    pub(crate) history: Vec<String>,
}

struct Pending {
    request: Rc<PlainRequest>,
    /// Features of each item that is not clicked.
    items: Vec<(String, Vec<f32>)>,
}

#[derive(Clone, Copy, Default)]
struct Counter {
    impressions: f32,
    actions: f32,
    fast: f32,
    slow: f32,
    recent_impressions: f32,
    recent_actions: f32,
    first: i64,
    last: i64,
}

/// The join with its histories and counters.
#[derive(Default)]
pub(crate) struct PlainJoin {
    /// Categories and author by item.
    items: HashMap<String, (Vec<String>, Option<String>)>,
    pending: HashMap<String, Pending>,
    due: VecDeque<(i64, String)>,
    known: HashSet<String>,
    forget: VecDeque<(i64, String)>,
    histories: HashMap<String, VecDeque<String>>,
    counters: HashMap<String, Counter>,
    global: Counter,
    newest_impression: i64,
    newest_action: i64,
}

impl PlainJoin {
    /// Takes the next record of `stream`; samples are appended to `out`.
    pub(crate) fn take(&mut self, stream: &str, payload: &[u8], out: &mut Vec<PlainSample>) {
        let event: Value = serde_json::from_slice(payload).expect("the log is JSON");
        let ts = event["ts_ms"].as_i64().expect("an event has a time");
        match stream {
            "items" => self.item(&event),
            "impressions" => {
                self.impression(&event, ts);
                self.newest_impression = self.newest_impression.max(ts);
            }
            _ => {
                self.action(&event, ts, out);
                self.newest_action = self.newest_action.max(ts);
            }
        }
        self.close(out);
    }

    fn item(&mut self, event: &Value) {
        let categories = match &event["category"] {
            Value::Array(list) => list.iter().map(text).collect(),
            one => vec![text(one)],
        };
        let author = event["author"].as_str().map(str::to_owned);
        self.items.insert(text(&event["item_id"]), (categories, author));
    }

    fn impression(&mut self, event: &Value, ts: i64) {
        let id = text(&event["request_id"]);
        if !self.known.insert(id.clone()) {
            return;
        }
        let user = text(&event["user_id"]);
        let context = event["context"].as_object().map_or(Vec::new(), |context| {
            context
                .iter()
                .map(|(name, value)| format!("{name}={}", text(value)))
                .collect()
        });
        let shown = event["items"].as_array().expect("an impression has items");
        let history = self.histories.get(&user).map_or(Vec::new(), |history| {
            history
                .iter()
                .skip(history.len().saturating_sub(HISTORY))
                .cloned()
                .collect()
        });
        let request = Rc::new(PlainRequest {
            id: id.clone(),
            user,
            ts,
            context,
            history,
        });
        let mut items: Vec<(String, Vec<f32>)> = shown
            .iter()
            .map(|one| {
                let item = text(&one["item_id"]);
                let features = self.features(&request, &item, shown.len());
                (item, features)
            })
            .collect();
        for from in [0, 1] {
            let mean = items.iter().map(|(_, values)| values[from]).sum::<f32>() / count(items.len());
            for (_, values) in &mut items {
                let centred = values[from] - mean;
                values.push(centred);
            }
        }
        for (item, _) in &items {
            self.count(&request, item, ts, false);
        }
        self.due.push_back((ts + WINDOW_MS, id.clone()));
        self.forget.push_back((ts + WINDOW_MS + LATENESS_MS, id.clone()));
        self.pending.insert(id, Pending { request, items });
    }

    fn action(&mut self, event: &Value, ts: i64, out: &mut Vec<PlainSample>) {
        let item = text(&event["item_id"]);
        let Some(pending) = self
            .pending
            .get_mut(event["request_id"].as_str().unwrap_or_default())
        else {
            return;
        };
        let Some(index) = pending.items.iter().position(|(shown, _)| *shown == item) else {
            return;
        };
        let (_, features) = pending.items.remove(index);
        let request = Rc::clone(&pending.request);
        self.count(&request, &item, ts, true);
        let history = self.histories.entry(request.user.clone()).or_default();
        history.push_back(item.clone());
        if history.len() > HISTORY_KEPT {
            history.pop_front();
        }
        out.push(PlainSample {
            request,
            item,
            features,
            label: true,
        });
    }

    fn close(&mut self, out: &mut Vec<PlainSample>) {
        let now = self.newest_impression.min(self.newest_action) - LATENESS_MS;
        while self.due.front().is_some_and(|(at, _)| *at < now) {
            let Some((_, id)) = self.due.pop_front() else {
                break;
            };
            let Some(pending) = self.pending.remove(&id) else {
                continue;
            };
            for (item, features) in pending.items {
                out.push(PlainSample {
                    request: Rc::clone(&pending.request),
                    item,
                    features,
                    label: false,
                });
            }
        }
        while self.forget.front().is_some_and(|(at, _)| *at < now) {
            let Some((_, id)) = self.forget.pop_front() else {
                break;
            };
            self.known.remove(&id);
        }
    }

    /// The names of the counters of an event on `item`.
    fn keys(&self, request: &PlainRequest, item: &str) -> Vec<String> {
        let user = &request.user;
        let mut keys = vec![
            format!("item:{item}"),
            format!("user:{user}"),
            format!("user:{user}/item:{item}"),
        ];
        keys.extend(request.context.iter().map(|value| format!("context:{value}")));
        if let Some((categories, author)) = self.items.get(item) {
            for category in categories {
                keys.push(format!("category:{category}"));
                keys.push(format!("user:{user}/category:{category}"));
            }
            if let Some(author) = author {
                keys.push(format!("author:{author}"));
                keys.push(format!("user:{user}/author:{author}"));
            }
        }
        keys
    }

    fn count(&mut self, request: &PlainRequest, item: &str, ts: i64, is_action: bool) {
        let rate = self.rate();
        self.global.add(ts, is_action);
        for key in self.keys(request, item) {
            let counter = self.counters.entry(key).or_insert_with(|| Counter {
                fast: rate,
                slow: rate,
                first: ts,
                last: ts,
                ..Counter::default()
            });
            counter.add(ts, is_action);
        }
    }

    fn rate(&self) -> f32 {
        (self.global.actions + 0.5) / (self.global.impressions + 1.0)
    }

    fn features(&self, request: &PlainRequest, item: &str, slate: usize) -> Vec<f32> {
        let rate = self.rate();
        let get = |key: String| self.counters.get(&key).copied();
        let ctr = |counter: Option<Counter>| counter.map_or(0.0, |c| c.ctr(rate));
        let seen = |counter: Option<Counter>| counter.map_or(0.0, |c| c.impressions.ln_1p());
        let user = &request.user;
        let (categories, author) = self.items.get(item).cloned().unwrap_or_default();
        let mean = |of: &dyn Fn(&String) -> f32| {
            categories.iter().map(of).sum::<f32>() / count(categories.len().max(1))
        };
        let of_item = get(format!("item:{item}"));
        let of_user = get(format!("user:{user}"));
        let of_pair = get(format!("user:{user}/item:{item}"));
        let of_author = author.as_ref().and_then(|author| get(format!("author:{author}")));
        let of_user_author = author
            .as_ref()
            .and_then(|author| get(format!("user:{user}/author:{author}")));
        let average =
            |value: Option<f32>| value.map_or(0.0, |value| logit(0.9 * value + 0.1 * rate) - logit(rate));
        let keep = of_item.map_or(0.0, |c| decay(request.ts - c.last));
        let angle = f32_of(request.ts.rem_euclid(86_400_000)) / 86_400_000.0 * std::f32::consts::TAU;
        let context: f32 = request
            .context
            .iter()
            .map(|value| ctr(get(format!("context:{value}"))))
            .sum();
        vec![
            ctr(of_item),
            seen(of_item),
            average(of_item.map(|c| c.fast)),
            average(of_item.map(|c| c.slow)),
            of_item.map_or(0.0, |c| (c.recent_impressions * keep).ln_1p()),
            of_item.map_or(0.0, |c| (c.recent_actions * keep).ln_1p()),
            of_item.map_or(0.0, |c| (f32_of(request.ts - c.first) / 3_600_000.0).ln_1p()),
            mean(&|category| ctr(get(format!("category:{category}")))),
            mean(&|category| seen(get(format!("category:{category}")))),
            ctr(of_author),
            seen(of_author),
            context / count(request.context.len().max(1)),
            ctr(of_user),
            seen(of_user),
            average(of_user.map(|c| c.fast)),
            average(of_user.map(|c| c.slow)),
            of_user.map_or(0.0, |c| (f32_of(request.ts - c.last) / 1000.0).max(0.0).ln_1p()),
            mean(&|category| ctr(get(format!("user:{user}/category:{category}")))),
            mean(&|category| seen(get(format!("user:{user}/category:{category}")))),
            ctr(of_user_author),
            seen(of_user_author),
            ctr(of_pair),
            seen(of_pair),
            of_pair.map_or(0.0, |c| c.actions.ln_1p()),
            count(slate).ln_1p(),
            angle.sin(),
            angle.cos(),
            count(request.history.len()).ln_1p(),
        ]
    }
}

impl Counter {
    fn add(&mut self, ts: i64, is_action: bool) {
        let keep = decay(ts - self.last);
        self.recent_impressions *= keep;
        self.recent_actions *= keep;
        self.last = self.last.max(ts);
        if is_action {
            self.actions += 1.0;
            self.recent_actions += 1.0;
            self.fast += 0.1;
            self.slow += 0.03;
        } else {
            self.impressions += 1.0;
            self.recent_impressions += 1.0;
            self.fast -= 0.1 * self.fast;
            self.slow -= 0.03 * self.slow;
        }
    }

    /// The smoothed logit of the action rate, minus that of the global `rate`.
    fn ctr(&self, rate: f32) -> f32 {
        logit((self.actions + 1.0) / (self.impressions + 1.0 / rate)) - logit(rate)
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn logit(p: f32) -> f32 {
    let p = p.clamp(3.4e-4, 1.0 - 3.4e-4);
    (p / (1.0 - p)).ln()
}

fn decay(elapsed_ms: i64) -> f32 {
    (-f32_of(elapsed_ms.max(0)) / DECAY_MS).exp()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "times enter through a logarithm or a decay"
)]
fn f32_of(ms: i64) -> f32 {
    ms as f32
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn count(n: usize) -> f32 {
    n as f32
}
