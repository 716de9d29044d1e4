//! Names, shapes, groups and initial values of the dense weights that a configuration asks for.

use ouzel_sample::{MODALITIES, N_DENSE};

use crate::block::{Block, WeightGroup};
use crate::blocks::hstu::TIME_BUCKETS;
use crate::config::{DinShape, HeadKind, ModelConfig, RETRIEVAL_USER_FIELDS, SequenceKind, TOKEN_FIELDS};
use crate::fields::{CANDIDATE_FIELDS, GATE_ROWS, USER_FIELDS};
use crate::random::{normal, uniform};

/// Width of the layer inside a gate of a hidden layer, floats.
const GATE_WIDTH: usize = 16;

/// A dense weight as the configuration describes it, without values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightSpec {
    /// Unique name, also its name in a snapshot.
    pub name: String,
    /// Shape, row-major; a linear layer is `[out, in]`.
    pub shape: Vec<usize>,
    /// The block it belongs to; a weight of the first layer belongs to the block whose output it reads.
    pub block: Block,
    /// Its parameter group.
    pub group: WeightGroup,
    /// The linear layer whose matrix it is; none for biases, norms, embeddings and adapters.
    pub layer: Option<String>,
    init: Init,
}

/// Distribution of a weight's initial values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Init {
    Zero,
    One,
    /// Uniform within `sqrt(6 / (in + out))` (Glorot and Bengio 2010).
    Xavier,
    /// Uniform within `1 / sqrt(in)`.
    FanIn,
    /// Uniform within `sqrt(3)`: the output for an input of length 1 has variance 1.
    UnitVariance,
    /// Normal with this standard deviation, in thousandths.
    Normal(u16),
    /// The sum of the fields of an input, `[width, n_fields * width]`; of narrower or wider fields the floats that both have.
    SumOfFields(usize),
}

impl WeightSpec {
    /// Initial values: a pure function of `seed` and `stream`, the weight's place among all weights.
    #[must_use]
    pub fn initial(&self, seed: u64, stream: u64) -> Vec<f32> {
        let n = self.shape.iter().product::<usize>();
        let lanes = || 0..n as u64;
        let within = |bound: f32| {
            lanes()
                .map(|lane| bound * (2.0 * uniform(seed, stream, lane) - 1.0))
                .collect()
        };
        #[expect(clippy::cast_precision_loss, reason = "a layer's width")]
        let width = |n: usize| n.max(1) as f32;
        match self.init {
            Init::Zero => vec![0.0; n],
            Init::One => vec![1.0; n],
            Init::Xavier => within((6.0 / width(self.shape.iter().sum())).sqrt()),
            Init::FanIn => within(width(self.shape.last().copied().unwrap_or(1)).sqrt().recip()),
            Init::UnitVariance => within(3f32.sqrt()),
            Init::SumOfFields(field) => {
                let n_in = self.shape.last().copied().unwrap_or(1);
                let is_same = |at: usize| (at % n_in) % field == at / n_in;
                (0..n).map(|at| f32::from(u8::from(is_same(at)))).collect()
            }
            Init::Normal(thousandths) => lanes()
                .map(|lane| f32::from(thousandths) / 1000.0 * normal(seed, stream, lane))
                .collect(),
        }
    }
}

/// All dense weights of a model, in the order that snapshots, optimizers and initial values follow.
///
/// Output layers start at 0, so that a new network adds nothing to the prior until it has learned something. The second
/// factor of an adapter starts at 0 too, so that a new adapter changes nothing.
#[must_use]
pub fn weight_specs(config: &ModelConfig) -> Vec<WeightSpec> {
    let first = config.hidden.first().copied().unwrap_or(1);
    let (token, content) = (TOKEN_FIELDS * config.dim, config.content.out());
    let mut list = SpecList::new();
    list.add("first.user", &[first, USER_FIELDS * config.dim], Init::Xavier);
    list.add(
        "first.candidate",
        &[first, CANDIDATE_FIELDS * config.dim],
        Init::Xavier,
    );
    list.begin(Block::Features, WeightGroup::Head);
    list.add("first.dense", &[first, N_DENSE], Init::Xavier);
    list.begin(Block::Fields, WeightGroup::Head);
    list.add("first.bias", &[first], Init::Zero);
    head(&mut list, config);
    if config.learned_missing {
        list.begin(Block::Features, WeightGroup::Head);
        list.add("missing", &[N_DENSE], Init::Zero);
    }
    if config.content.enabled {
        list.begin(Block::Content, WeightGroup::Readout);
        list.add("first.content", &[first, content], Init::Zero);
        if config.fm {
            list.add("fm.content", &[config.dim, content], Init::Zero);
        }
        fq_former(&mut list, config);
    }
    if config.interest.enabled {
        list.begin(Block::Interest, WeightGroup::Readout);
        list.add("first.interest", &[first, content], Init::Zero);
        list.begin(Block::Interest, WeightGroup::Base);
        list.matrix("interest.query", content, config.interest.width, Init::Xavier);
        list.matrix("interest.key", content, config.interest.width, Init::Xavier);
    }
    if config.contrast_width > 0 {
        list.begin(Block::Contrast, WeightGroup::Contrast);
        list.linear("cic.id", token, config.contrast_width);
        list.linear("cic.content", content, config.contrast_width);
    }
    list.begin(Block::Sequence, WeightGroup::Base);
    match config.sequence.kind {
        SequenceKind::Mean => {}
        SequenceKind::Din => din(&mut list, config.sequence.din(), token),
        SequenceKind::Gru | SequenceKind::Dien => dien(&mut list, config, token),
        SequenceKind::Sasrec | SequenceKind::Bst => transformer(&mut list, config, token),
        SequenceKind::Hstu | SequenceKind::HstuResearch => hstu(&mut list, config, token),
    }
    if config.sequence.kind != SequenceKind::Mean {
        list.begin(Block::Sequence, WeightGroup::Readout);
        let out = config.sequence.out(config.dim);
        list.add("first.sequence", &[first, out], Init::Zero);
    }
    if config.long_history.enabled {
        list.begin(Block::LongHistory, WeightGroup::Base);
        din(&mut list, config.long_history.din(), token);
        list.begin(Block::LongHistory, WeightGroup::Readout);
        let out = config.long_history.out(config.dim);
        list.add("first.long", &[first, out], Init::Zero);
    }
    gates(&mut list, config);
    adapters(&mut list, config);
    // Behind all others, whose initial values depend on their places.
    start_at_zero(&mut list, config);
    if config.retrieval.is_on() {
        retrieval(&mut list, config);
    }
    list.specs
}

/// Specs in order; new ones get the current block and group.
struct SpecList {
    specs: Vec<WeightSpec>,
    block: Block,
    group: WeightGroup,
}

impl SpecList {
    fn new() -> Self {
        Self {
            specs: Vec::new(),
            block: Block::Fields,
            group: WeightGroup::Head,
        }
    }

    /// Sets block and group of the weights added from here on.
    fn begin(&mut self, block: Block, group: WeightGroup) {
        (self.block, self.group) = (block, group);
    }

    fn add(&mut self, name: &str, shape: &[usize], init: Init) {
        self.specs.push(WeightSpec {
            name: name.to_owned(),
            shape: shape.to_vec(),
            block: self.block,
            group: self.group,
            layer: None,
            init,
        });
    }

    /// The matrix of a linear layer.
    fn matrix(&mut self, layer: &str, n_in: usize, n_out: usize, init: Init) {
        self.add(&format!("{layer}.weight"), &[n_out, n_in], init);
        if let Some(spec) = self.specs.last_mut() {
            spec.layer = Some(layer.to_owned());
        }
    }

    /// A linear layer with a bias.
    fn linear(&mut self, layer: &str, n_in: usize, n_out: usize) {
        self.matrix(layer, n_in, n_out, Init::Xavier);
        self.add(&format!("{layer}.bias"), &[n_out], Init::Zero);
    }

    /// A linear layer with a bias that starts at 0.
    fn output(&mut self, layer: &str, n_in: usize, n_out: usize) {
        self.matrix(layer, n_in, n_out, Init::Zero);
        self.add(&format!("{layer}.bias"), &[n_out], Init::Zero);
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.add(&format!("{name}.weight"), &[width], Init::One);
        self.add(&format!("{name}.bias"), &[width], Init::Zero);
    }
}

/// The layers behind the first one.
fn head(list: &mut SpecList, config: &ModelConfig) {
    list.begin(Block::Head, WeightGroup::Head);
    for (layer, widths) in config.hidden.windows(2).enumerate() {
        list.linear(&format!("hidden{}", layer + 1), widths[0], widths[1]);
    }
    let last = config.hidden.last().copied().unwrap_or(1);
    let (head, n_tasks) = (config.head, config.n_tasks());
    if head.kind == HeadKind::Single {
        list.output("out", last, n_tasks);
    }
    if config.auxiliary > 0 {
        list.output("aux", last, n_tasks * config.auxiliary);
    }
    if head.kind == HeadKind::Single {
        return;
    }
    let mut shared = last;
    if matches!(head.kind, HeadKind::Omoe | HeadKind::Mmoe) {
        for expert in 0..head.experts {
            list.linear(&format!("head.expert{expert}"), last, head.expert_width);
        }
        for gate in head.gates(n_tasks) {
            list.matrix(&gate, last, head.experts, Init::Xavier);
        }
        shared = head.expert_width;
    }
    for task in 0..n_tasks {
        list.linear(&format!("head.tower{task}"), shared, head.tower_width);
        list.output(&format!("head.out{task}"), head.tower_width, 1);
    }
}

fn fq_former(list: &mut SpecList, config: &ModelConfig) {
    let content = &config.content;
    list.begin(Block::Content, WeightGroup::Base);
    list.add("content.queries", &[content.queries, content.width], Init::Xavier);
    for (name, width) in MODALITIES.iter().zip(content.vector_widths) {
        if width > 0 {
            // Frozen vectors have length 1: under Xavier's bound a token would be far smaller than the queries, and all
            // content vectors would be alike.
            let layer = format!("content.{name}");
            list.matrix(&layer, width, content.width, Init::UnitVariance);
            list.add(&format!("{layer}.bias"), &[content.width], Init::Zero);
        }
    }
    for layer in 0..content.layers {
        let name = format!("content.layer{layer}");
        for part in ["query", "key", "value", "out"] {
            list.linear(&format!("{name}.{part}"), content.width, content.width);
        }
        list.norm(&format!("{name}.norm"), content.width);
    }
}

fn din(list: &mut SpecList, shape: DinShape, token: usize) {
    let ([first, second], prefix) = (shape.hidden, shape.prefix);
    list.linear(&format!("{prefix}.first"), 4 * token, first);
    list.linear(&format!("{prefix}.second"), first, second);
    list.linear(&format!("{prefix}.score"), second, shape.heads);
    if shape.time_buckets {
        let n_buckets = usize::try_from(TIME_BUCKETS).unwrap_or(0);
        list.add(&format!("{prefix}.time"), &[n_buckets, token], Init::Normal(20));
    }
}

/// The GRU that both read; DIEN's attention and second scan.
fn dien(list: &mut SpecList, config: &ModelConfig, token: usize) {
    let width = config.sequence.width;
    list.linear("sequence.extract.input", token, 3 * width);
    list.linear("sequence.extract.state", width, 3 * width);
    if config.sequence.kind == SequenceKind::Dien {
        list.matrix("sequence.attention", token, width, Init::Xavier);
        list.linear("sequence.evolve.input", width, 3 * width);
        list.linear("sequence.evolve.state", width, 3 * width);
    }
}

/// SASRec has a position for each entry; BST the time to each entry and to the candidate, which is 0.
fn transformer(list: &mut SpecList, config: &ModelConfig, token: usize) {
    let sequence = &config.sequence;
    let width = sequence.width;
    list.linear("sequence.token", token, width);
    let (name, n) = match sequence.kind {
        SequenceKind::Bst => ("sequence.time", usize::try_from(TIME_BUCKETS).unwrap_or(0)),
        _ => ("sequence.position", sequence.history_len),
    };
    list.add(name, &[n, width], Init::Normal(20));
    let (values, keys) = (
        sequence.heads * sequence.value_width,
        sequence.heads * sequence.key_width,
    );
    for layer in 0..sequence.layers {
        let name = |part: &str| format!("sequence.layer{layer}.{part}");
        list.norm(&name("norm"), width);
        list.linear(&name("query"), width, keys);
        list.linear(&name("key_value"), width, keys + values);
        list.linear(&name("out"), values, width);
        list.norm(&name("ffn_norm"), width);
        list.linear(&name("expand"), width, width);
        list.linear(&name("contract"), width, width);
    }
    list.norm("sequence.norm", width);
}

fn hstu(list: &mut SpecList, config: &ModelConfig, token: usize) {
    let sequence = &config.sequence;
    let is_research = sequence.kind == SequenceKind::HstuResearch;
    let width = sequence.width;
    let n_buckets = usize::try_from(TIME_BUCKETS).unwrap_or(0);
    list.linear("sequence.token", token, width);
    // The last one is the placeholder of a candidate.
    list.add(
        "sequence.action",
        &[config.n_tasks() + 1, width],
        Init::Normal(100),
    );
    if !is_research {
        list.add(
            "sequence.position",
            &[sequence.history_len + 1, width],
            Init::Normal(20),
        );
        list.add("sequence.time", &[n_buckets, width], Init::Normal(20));
    }
    let (values, keys) = (
        sequence.heads * sequence.value_width,
        sequence.heads * sequence.key_width,
    );
    for layer in 0..sequence.layers {
        let name = format!("sequence.layer{layer}");
        let (uvqk, out) = (format!("{name}.uvqk"), format!("{name}.out"));
        if is_research {
            list.matrix(&uvqk, width, 2 * (values + keys), Init::Xavier);
            list.linear(&out, values, width);
            // Relative positions of the history and one candidate behind it.
            let n = 2 * (sequence.history_len + 1) - 1;
            list.add(&format!("{name}.rab.position"), &[n], Init::Normal(20));
            list.add(&format!("{name}.rab.time"), &[n_buckets], Init::Normal(20));
        } else {
            list.norm(&format!("{name}.norm"), width);
            list.norm(&format!("{name}.out_norm"), values);
            list.linear(&uvqk, width, 2 * (values + keys));
            list.matrix(&out, 3 * values, width, Init::Xavier);
        }
    }
}

/// The linear term over frozen vectors, and what the pooled head reads with.
fn start_at_zero(list: &mut SpecList, config: &ModelConfig) {
    let n_tasks = config.n_tasks();
    list.begin(Block::ContentLinear, WeightGroup::Head);
    for (name, width) in MODALITIES.iter().zip(config.linear_widths()) {
        if width > 0 {
            list.add(&format!("linear.{name}"), &[n_tasks, width], Init::Zero);
        }
    }
    if config.pool_slate {
        let last = config.hidden.last().copied().unwrap_or(1);
        list.begin(Block::Head, WeightGroup::Head);
        list.add("pool.weight", &[n_tasks, 2 * last], Init::Zero);
    }
}

/// Gates start at 1, as their last layers at 0.
fn gates(list: &mut SpecList, config: &ModelConfig) {
    if config.senet {
        let n_fields = USER_FIELDS + CANDIDATE_FIELDS;
        list.begin(Block::Fields, WeightGroup::Head);
        list.linear("field_gate.in", n_fields, n_fields);
        list.output("field_gate.out", n_fields, n_fields);
    }
    if config.ppnet {
        list.begin(Block::Head, WeightGroup::Head);
        for (layer, width) in config.hidden.iter().enumerate() {
            list.linear(&format!("gate{layer}.in"), GATE_ROWS * config.dim, GATE_WIDTH);
            list.output(&format!("gate{layer}.out"), GATE_WIDTH, *width);
        }
    }
}

/// The towers of retrieval. Each starts near the sum of its fields, as in a factorisation: the hidden layer starts at 0.
fn retrieval(list: &mut SpecList, config: &ModelConfig) {
    list.begin(Block::Retrieval, WeightGroup::Retrieval);
    let (retrieval, field) = (&config.retrieval, config.retrieval_row_width());
    let mut n_item_fields = CANDIDATE_FIELDS;
    for (name, width) in MODALITIES.iter().zip(config.retrieval_vector_widths()) {
        if width > 0 {
            list.add(
                &format!("retrieval.content.{name}.weight"),
                &[field, width],
                Init::Xavier,
            );
            n_item_fields += 1;
        }
    }
    for (tower, n_fields) in [("user", RETRIEVAL_USER_FIELDS), ("item", n_item_fields)] {
        let (name, n_in) = (format!("retrieval.{tower}"), n_fields * field);
        let sum = Init::SumOfFields(field);
        list.add(&format!("{name}.linear.weight"), &[retrieval.width, n_in], sum);
        list.add(&format!("{name}.linear.bias"), &[retrieval.width], Init::Zero);
        if retrieval.hidden > 0 {
            list.add(
                &format!("{name}.hidden.weight"),
                &[retrieval.hidden, n_in],
                Init::Xavier,
            );
            list.add(&format!("{name}.hidden.bias"), &[retrieval.hidden], Init::Zero);
            list.add(
                &format!("{name}.out.weight"),
                &[retrieval.width, retrieval.hidden],
                Init::Zero,
            );
        }
    }
}

/// Adapters of the layers that `lora.layers` names, as far as the model has them.
fn adapters(list: &mut SpecList, config: &ModelConfig) {
    for layer in adapted_layers(config, &list.specs) {
        let Some(spec) = list.specs.iter().find(|spec| spec.layer.as_ref() == Some(&layer)) else {
            continue;
        };
        let [n_out, n_in] = [spec.shape[0], spec.shape[1]];
        list.begin(spec.block, WeightGroup::Adapter);
        list.add(&format!("{layer}.lora_a"), &[config.lora.rank, n_in], Init::FanIn);
        list.add(&format!("{layer}.lora_b"), &[n_out, config.lora.rank], Init::Zero);
    }
}

/// The linear layers among `specs` that have an adapter, in the order of `lora.layers`.
pub(crate) fn adapted_layers(config: &ModelConfig, specs: &[WeightSpec]) -> Vec<String> {
    if config.lora.rank == 0 {
        return Vec::new();
    }
    let has_layer = |layer: &&String| specs.iter().any(|spec| spec.layer.as_ref() == Some(layer));
    config.lora.layers.iter().filter(has_layer).cloned().collect()
}
