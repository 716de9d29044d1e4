//! Names, shapes and initial values of the dense weights that a configuration asks for.

use ouzel_sample::{MODALITIES, N_DENSE};

use crate::blocks::hstu::TIME_BUCKETS;
use crate::config::{HeadKind, ModelConfig, SequenceKind, TOKEN_FIELDS};
use crate::fields::{CANDIDATE_FIELDS, USER_FIELDS};
use crate::random::{normal, uniform};

/// A dense weight before it has any value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Its name.
    pub name: String,
    /// Its extents, row-major.
    pub extents: Vec<usize>,
    start: Start,
}

/// What a weight starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Zero,
    One,
    /// Uniform within `sqrt(6 / (in + out))`.
    Xavier,
    /// Uniform within `1 / sqrt(in)`.
    Fan,
    /// Uniform within `sqrt(3)`: what comes out of an input of length 1 has variance 1.
    Unit,
    /// Normal of this many thousandths.
    Normal(u16),
}

impl Shape {
    /// Initial values: a pure function of seed and place.
    #[must_use]
    pub fn initial(&self, seed: u64, stream: u64) -> Vec<f32> {
        let n = self.extents.iter().product::<usize>() as u64;
        let within = |bound: f32| {
            (0..n)
                .map(|lane| bound * (2.0 * uniform(seed, stream, lane) - 1.0))
                .collect()
        };
        #[expect(clippy::cast_precision_loss, reason = "a layer's width")]
        let f32_of = |n: usize| n.max(1) as f32;
        match self.start {
            Start::Zero => vec![0.0; self.extents.iter().product()],
            Start::One => vec![1.0; self.extents.iter().product()],
            Start::Xavier => within((6.0 / f32_of(self.extents.iter().sum())).sqrt()),
            Start::Fan => within(f32_of(self.extents.last().copied().unwrap_or(1)).sqrt().recip()),
            Start::Unit => within(3f32.sqrt()),
            Start::Normal(thousandths) => (0..n)
                .map(|lane| f32::from(thousandths) / 1000.0 * normal(seed, stream, lane))
                .collect(),
        }
    }
}

/// All dense weights in order. Last layers start at 0, so that a new network adds nothing to the prior until it has
/// learned something, and so do the adapters' second factors, so that a new adapter changes nothing.
#[must_use]
pub fn shapes(config: &ModelConfig) -> Vec<Shape> {
    let mut list = List::default();
    let first = config.hidden.first().copied().unwrap_or(1);
    let (token, content) = (TOKEN_FIELDS * config.dim, config.content.out());
    list.add("first.user", &[first, USER_FIELDS * config.dim], Start::Xavier);
    list.add(
        "first.candidate",
        &[first, CANDIDATE_FIELDS * config.dim],
        Start::Xavier,
    );
    list.add("first.dense", &[first, N_DENSE], Start::Xavier);
    list.add("first.bias", &[first], Start::Zero);
    head(&mut list, config);
    if config.learned_missing {
        list.add("missing", &[N_DENSE], Start::Zero);
    }
    if config.content.enabled {
        list.add("first.content", &[first, content], Start::Zero);
        if config.fm {
            list.add("fm.content", &[config.dim, content], Start::Zero);
        }
        fq_former(&mut list, config);
    }
    if config.interest.enabled {
        list.add("first.interest", &[first, content], Start::Zero);
        let width = config.interest.width;
        list.add("interest.query.weight", &[width, content], Start::Xavier);
        list.add("interest.key.weight", &[width, content], Start::Xavier);
    }
    if config.contrast > 0 {
        list.linear("cic.id", token, config.contrast, true);
        list.linear("cic.content", content, config.contrast, true);
    }
    match config.sequence.kind {
        SequenceKind::Mean => {}
        SequenceKind::Din => din(&mut list, config, token),
        SequenceKind::Hstu | SequenceKind::HstuResearch => hstu(&mut list, config, token),
    }
    if config.sequence.kind != SequenceKind::Mean {
        let out = config.sequence.out(config.dim);
        list.add("first.sequence", &[first, out], Start::Zero);
    }
    adapters(&mut list, config);
    list.shapes
}

#[derive(Default)]
struct List {
    shapes: Vec<Shape>,
}

impl List {
    fn add(&mut self, name: &str, extents: &[usize], start: Start) {
        self.shapes.push(Shape {
            name: name.to_owned(),
            extents: extents.to_vec(),
            start,
        });
    }

    fn linear(&mut self, layer: &str, n_in: usize, n_out: usize, has_bias: bool) {
        self.add(&format!("{layer}.weight"), &[n_out, n_in], Start::Xavier);
        if has_bias {
            self.add(&format!("{layer}.bias"), &[n_out], Start::Zero);
        }
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.add(&format!("{name}.weight"), &[width], Start::One);
        self.add(&format!("{name}.bias"), &[width], Start::Zero);
    }
}

/// The layers behind the first one.
fn head(list: &mut List, config: &ModelConfig) {
    for (layer, widths) in config.hidden.windows(2).enumerate() {
        list.linear(&format!("hidden{}", layer + 1), widths[0], widths[1], true);
    }
    let last = config.hidden.last().copied().unwrap_or(1);
    let (head, n_tasks) = (config.head, config.n_tasks());
    if head.kind == HeadKind::Single {
        list.add("out.weight", &[n_tasks, last], Start::Zero);
        list.add("out.bias", &[n_tasks], Start::Zero);
    }
    if config.auxiliary > 0 {
        let n = n_tasks * config.auxiliary;
        list.add("aux.weight", &[n, last], Start::Zero);
        list.add("aux.bias", &[n], Start::Zero);
    }
    if head.kind == HeadKind::Single {
        return;
    }
    let mut shared = last;
    if head.kind == HeadKind::Mmoe {
        for expert in 0..head.experts {
            list.linear(&format!("head.expert{expert}"), last, head.expert, true);
        }
        for task in 0..n_tasks {
            list.linear(&format!("head.gate{task}"), last, head.experts, false);
        }
        shared = head.expert;
    }
    for task in 0..n_tasks {
        list.linear(&format!("head.tower{task}"), shared, head.tower, true);
        list.add(&format!("head.out{task}.weight"), &[1, head.tower], Start::Zero);
        list.add(&format!("head.out{task}.bias"), &[1], Start::Zero);
    }
}

fn fq_former(list: &mut List, config: &ModelConfig) {
    let content = &config.content;
    list.add(
        "content.queries",
        &[content.queries, content.width],
        Start::Xavier,
    );
    for (name, width) in MODALITIES.iter().zip(content.widths) {
        if width > 0 {
            // Frozen vectors have length 1: under Xavier's bound a token would drown in the queries, and contents would
            // all be alike.
            list.add(
                &format!("content.{name}.weight"),
                &[content.width, width],
                Start::Unit,
            );
            list.add(&format!("content.{name}.bias"), &[content.width], Start::Zero);
        }
    }
    for layer in 0..content.layers {
        let name = format!("content.layer{layer}");
        for part in ["query", "key", "value", "out"] {
            list.linear(&format!("{name}.{part}"), content.width, content.width, true);
        }
        list.norm(&format!("{name}.norm"), content.width);
    }
}

fn din(list: &mut List, config: &ModelConfig, token: usize) {
    let [first, second] = config.sequence.unit;
    list.linear("sequence.first", 4 * token, first, true);
    list.linear("sequence.second", first, second, true);
    list.linear("sequence.score", second, 1, true);
}

fn hstu(list: &mut List, config: &ModelConfig, token: usize) {
    let sequence = &config.sequence;
    let is_research = sequence.kind == SequenceKind::HstuResearch;
    let width = sequence.width;
    let usize_of = |n: i64| usize::try_from(n).unwrap_or(0);
    list.linear("sequence.token", token, width, true);
    // The last one is the placeholder of a candidate.
    list.add(
        "sequence.action",
        &[config.n_tasks() + 1, width],
        Start::Normal(100),
    );
    if !is_research {
        list.add(
            "sequence.position",
            &[sequence.history_len + 1, width],
            Start::Normal(20),
        );
        list.add(
            "sequence.time",
            &[usize_of(TIME_BUCKETS), width],
            Start::Normal(20),
        );
    }
    let (values, keys) = (sequence.heads * sequence.value, sequence.heads * sequence.key);
    for layer in 0..sequence.layers {
        let name = format!("sequence.layer{layer}");
        if !is_research {
            list.norm(&format!("{name}.norm"), width);
            list.norm(&format!("{name}.out_norm"), values);
        }
        list.linear(&format!("{name}.uvqk"), width, 2 * (values + keys), !is_research);
        let row = if is_research { values } else { 3 * values };
        list.linear(&format!("{name}.out"), row, width, is_research);
        if is_research {
            // History and one candidate behind it.
            let n = 2 * (sequence.history_len + 1) - 1;
            list.add(&format!("{name}.rab.position"), &[n], Start::Normal(20));
            list.add(
                &format!("{name}.rab.time"),
                &[usize_of(TIME_BUCKETS)],
                Start::Normal(20),
            );
        }
    }
}

/// Adapters of the layers that the configuration names, as far as they are there.
fn adapters(list: &mut List, config: &ModelConfig) {
    if config.lora.rank == 0 {
        return;
    }
    for layer in &config.lora.on {
        let weight = format!("{layer}.weight");
        let known = list.shapes.iter().find(|shape| shape.name == weight);
        let Some([n_out, n_in]) = known.map(|shape| shape.extents.as_slice()) else {
            continue;
        };
        let (a, b) = ([config.lora.rank, *n_in], [*n_out, config.lora.rank]);
        list.add(&format!("{layer}.lora_a"), &a, Start::Fan);
        list.add(&format!("{layer}.lora_b"), &b, Start::Zero);
    }
}

/// Whether a weight belongs to the base, which stands still once it is frozen: the blocks over content and history,
/// without their adapters.
#[must_use]
pub fn is_base(name: &str) -> bool {
    let is_block = ["content.", "interest.", "sequence."]
        .iter()
        .any(|block| name.starts_with(block));
    is_block && !is_adapter(name)
}

/// Whether a weight belongs to an adapter, which only learns once the base is frozen.
#[must_use]
pub fn is_adapter(name: &str) -> bool {
    name.ends_with(".lora_a") || name.ends_with(".lora_b")
}
