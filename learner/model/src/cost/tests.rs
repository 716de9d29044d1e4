//! Small models counted by hand.

use ouzel_sample::N_DENSE;

use super::*;
use crate::config::{ContentConfig, HeadConfig, InterestConfig, LoraConfig, SequenceConfig};

/// Rows of 2, one hidden layer of 4: tokens are 4 wide.
fn plain() -> ModelConfig {
    ModelConfig {
        dim: 2,
        hidden: vec![4],
        ..ModelConfig::default()
    }
}

/// Two vectors of 5 and 3 to 2 queries of 4, so 4 tokens in one layer and a content vector of 8.
fn with_content() -> ModelConfig {
    ModelConfig {
        content: ContentConfig {
            enabled: true,
            vector_widths: [5, 3],
            width: 4,
            queries: 2,
            layers: 1,
            heads: 2,
        },
        interest: InterestConfig {
            enabled: true,
            width: 6,
            history_len: 7,
        },
        contrast_width: 3,
        ..plain()
    }
}

fn with_sequence(sequence: SequenceConfig) -> ModelConfig {
    ModelConfig { sequence, ..plain() }
}

#[track_caller]
fn of(config: &ModelConfig, block: Block) -> Cost {
    let found = costs(config).into_iter().find(|cost| cost.block == block);
    found.expect("the block is there")
}

fn flops(fixed: u64, per_entry: u64, per_pair: u64) -> Flops {
    Flops {
        fixed,
        per_entry,
        per_pair,
    }
}

#[test]
fn a_plain_model_costs_its_first_layer_its_products_and_its_output() {
    let blocks: Vec<Block> = costs(&plain()).iter().map(|cost| cost.block).collect();
    assert_eq!(blocks, [Block::Fields, Block::Features, Block::Fm, Block::Head]);
    let fields = of(&plain(), Block::Fields);
    // 4 outputs of 3 fields of 2, and of 2 fields of 2.
    assert_eq!(
        (fields.request, fields.candidate),
        (flops(48, 0, 0), flops(32, 0, 0))
    );
    assert_eq!(
        of(&plain(), Block::Features).candidate.fixed,
        2 * 4 * N_DENSE as u64
    );
    let fm = of(&plain(), Block::Fm);
    assert_eq!((fm.request.fixed, fm.candidate.fixed), (18, 12 + 6));
    assert_eq!(of(&plain(), Block::Head).candidate.fixed, 2 * 4);
}

#[test]
fn content_is_paid_once_an_item_and_interest_for_each_entry() {
    let config = with_content();
    let content = of(&config, Block::Content);
    // 5 -> 4 and 3 -> 4; four products 4 -> 4 of 4 tokens; 16 scores and 16 reads over 4 numbers.
    assert_eq!(content.item, 40 + 24 + 4 * 4 * 32 + 2 * 16 * 4 * 2);
    // 8 -> 4 into the first layer, 8 -> 2 as a field.
    assert_eq!(content.candidate, flops(64 + 32, 0, 0));
    let interest = of(&config, Block::Interest);
    // Key: 8 -> 6. Adapters by default, of rank 8: 8 -> 8 -> 6.
    let (layer, adapter) = (2 * 8 * 6, 2 * 8 * (8 + 6));
    assert_eq!((interest.history_len, interest.item), (7, layer));
    assert_eq!(interest.request, flops(0, adapter, 0));
    // Query, and 8 -> 4; an entry is a score over 6 numbers and a read of 8.
    assert_eq!(interest.candidate, flops(layer + adapter + 64, 12 + 16, 0));
    // 4 -> 3 and 8 -> 3.
    assert_eq!(of(&config, Block::Contrast).item, 24 + 48);
    // A content is one more field.
    assert_eq!(of(&config, Block::Fm).candidate.fixed, 18 + 6);
}

#[test]
fn din_pays_for_each_pair_of_candidate_and_entry_its_product_alone() {
    let din = SequenceConfig {
        kind: SequenceKind::Din,
        attention_hidden: [3, 2],
        history_len: 9,
        ..SequenceConfig::default()
    };
    let cost = of(&with_sequence(din.clone()), Block::Sequence);
    // 4 -> 3 is 24; the unit goes on 3 -> 2 -> 1; 4 numbers are read.
    assert_eq!(cost.history_len, 9);
    assert_eq!(cost.request, flops(0, 24, 0));
    assert_eq!(cost.candidate, flops(24 + 2 * 4 * 4, 24 + 12 + 4 + 8, 0));
    // An adapter of rank 1 is merged into the whole of the first layer, 16 -> 3.
    let adapted = ModelConfig {
        lora: LoraConfig {
            rank: 1,
            layers: vec!["sequence.first".to_owned()],
            ..LoraConfig::default()
        },
        ..with_sequence(din)
    };
    let with = of(&adapted, Block::Sequence);
    assert_eq!(
        (with.request, with.candidate),
        (flops(2 * 16 * 3, 24, 0), cost.candidate)
    );
}

#[test]
fn hstu_is_quadratic_in_the_history_in_all_layers_but_the_last() {
    let hstu = |layers, kind| SequenceConfig {
        kind,
        width: 3,
        layers,
        heads: 2,
        key_width: 1,
        value_width: 2,
        ..SequenceConfig::default()
    };
    // Tokens 4 -> 3; keys 2, values 4, so 3 -> 12; a pair is 2 * (2 + 4); out of 3 * 4 or, by the paper, of 4.
    let (embed, uvqk, pair, out, short) = (24, 72, 12, 72, 24);
    let one = of(&with_sequence(hstu(1, SequenceKind::Hstu)), Block::Sequence);
    assert_eq!(one.request, flops(0, embed + uvqk, 0));
    let first = 2 * 4 * 3;
    assert_eq!(one.candidate, flops(embed + uvqk + pair + out + first, pair, 0));
    let two = of(&with_sequence(hstu(2, SequenceKind::Hstu)), Block::Sequence);
    assert_eq!(two.request, flops(0, embed + 2 * uvqk + out, pair));
    assert_eq!(
        two.candidate,
        flops(embed + 2 * (uvqk + pair + out) + first, 2 * pair, 0)
    );
    let paper = of(
        &with_sequence(hstu(2, SequenceKind::HstuResearch)),
        Block::Sequence,
    );
    assert_eq!(paper.request, flops(0, embed + 2 * uvqk + short, pair));
    assert_eq!(paper.request.at(10), 10 * (24 + 144 + 24) + 100 * 12);
    // An adapter of rank 2 on 3 -> 12 is one more 3 -> 2 -> 12.
    let adapted = ModelConfig {
        lora: LoraConfig {
            rank: 2,
            layers: vec!["sequence.layer0.uvqk".to_owned()],
            ..LoraConfig::default()
        },
        ..with_sequence(hstu(1, SequenceKind::Hstu))
    };
    assert_eq!(
        of(&adapted, Block::Sequence).request,
        flops(0, embed + uvqk + 2 * 2 * (3 + 12), 0)
    );
}

#[test]
fn sasrec_pays_once_a_request_and_bst_once_a_candidate() {
    // Tokens of 4 to rows of 5; 2 heads with keys of 3 and values of 2.
    let model = |kind, layers| {
        with_sequence(SequenceConfig {
            kind,
            history_len: 9,
            width: 5,
            layers,
            heads: 2,
            key_width: 3,
            value_width: 2,
            ..SequenceConfig::default()
        })
    };
    let (token, key_value, pair) = (2 * 4 * 5, 2 * 5 * 10, 2 * 10);
    // Query, output and the two layers of the feed-forward network.
    let row = 2 * (5 * 6 + 4 * 5 + 5 * 5 + 5 * 5);
    let one = of(&model(SequenceKind::Sasrec, 1), Block::Sequence);
    assert_eq!(one.request, flops(row, token + key_value + pair, 0));
    assert_eq!(one.candidate, flops(token + 2 * 10 * 4, 0, 0));
    let two = of(&model(SequenceKind::Sasrec, 2), Block::Sequence);
    assert_eq!(two.request, flops(row, token + 2 * key_value + row + pair, pair));
    assert_eq!(two.candidate, one.candidate);

    let two = of(&model(SequenceKind::Bst, 2), Block::Sequence);
    assert_eq!(two.request, flops(0, token + 2 * key_value + row, pair));
    let of_candidate = token + 2 * 5 * 4 + 2 * (row + key_value + pair);
    assert_eq!(two.candidate, flops(of_candidate, 2 * pair, 0));
}

#[test]
fn dien_pays_for_a_step_of_its_second_scan_per_candidate_and_entry() {
    let model = |kind| {
        with_sequence(SequenceConfig {
            kind,
            width: 5,
            ..SequenceConfig::default()
        })
    };
    let token = 2 * plain().dim as u64;
    let step = 2 * 5 * 15;
    let gru = of(&model(SequenceKind::Gru), Block::Sequence);
    assert_eq!(gru.request.per_entry, 2 * token * 15 + step);
    assert_eq!(gru.candidate.per_entry, 0);
    let dien = of(&model(SequenceKind::Dien), Block::Sequence);
    assert_eq!(dien.request.per_entry, gru.request.per_entry + step);
    // A score over the state, and a step.
    assert_eq!(dien.candidate.per_entry, 2 * 5 + step);
    assert_eq!(dien.candidate.fixed, gru.candidate.fixed + 2 * token * 5);
}

#[test]
fn heads_cost_their_layers_for_each_task() {
    let head = |kind| ModelConfig {
        hidden: vec![4, 3],
        tasks: vec!["click".to_owned(), "order".to_owned()],
        head: HeadConfig {
            kind,
            experts: 2,
            expert_width: 5,
            tower_width: 6,
        },
        ..plain()
    };
    let cost = |kind| of(&head(kind), Block::Head).candidate.fixed;
    let hidden = 2 * 4 * 3;
    assert_eq!(cost(HeadKind::Single), hidden + 2 * 3 * 2);
    assert_eq!(cost(HeadKind::SharedBottom), hidden + 2 * (2 * 3 * 6 + 2 * 6));
    // Two experts 3 -> 5; a task has a gate 3 -> 2, their mixture of 5 numbers, a tower 5 -> 6 and an output.
    let task = 2 * 3 * 2 + 2 * 2 * 5 + 2 * 5 * 6 + 2 * 6;
    assert_eq!(cost(HeadKind::Mmoe), hidden + 2 * 2 * 3 * 5 + 2 * task);
    // With one gate the mixture is computed once.
    let gate = 2 * 3 * 2 + 2 * 2 * 5;
    assert_eq!(cost(HeadKind::Omoe), hidden + 2 * 2 * 3 * 5 + 2 * task - gate);
    let auxiliary = ModelConfig {
        auxiliary: 2,
        ..head(HeadKind::Single)
    };
    assert_eq!(
        of(&auxiliary, Block::Head).candidate.fixed,
        hidden + 2 * 3 * 2 + 2 * 3 * 4
    );
}

#[test]
fn gates_cost_their_layers_and_the_sum_of_the_users_weighed_fields() {
    let config = ModelConfig {
        senet: true,
        ppnet: true,
        hidden: vec![4, 3],
        ..plain()
    };
    let without = ModelConfig {
        senet: false,
        ppnet: false,
        ..config.clone()
    };
    let more = |block| of(&config, block).candidate.fixed - of(&without, block).candidate.fixed;
    // Five fields, three of them the user's.
    assert_eq!(more(Block::Fields), 2 * (5 * 5 + 5 * 5) + 2 * 3 * 4);
    // Three rows of 2 to 16 units, and on to the 4 and 3 of the layers.
    assert_eq!(more(Block::Head), 2 * (6 * 16 + 16 * 4 + 6 * 16 + 16 * 3));
    assert_eq!(
        of(&config, Block::Fields).request,
        of(&without, Block::Fields).request
    );
}

#[test]
fn every_weight_belongs_to_a_block_that_is_there() {
    for kind in [HeadKind::Single, HeadKind::Omoe, HeadKind::Mmoe] {
        for sequence in [
            SequenceKind::Mean,
            SequenceKind::Din,
            SequenceKind::Dien,
            SequenceKind::HstuResearch,
        ] {
            for config in [plain(), with_content()] {
                let config = ModelConfig {
                    head: HeadConfig {
                        kind,
                        ..HeadConfig::default()
                    },
                    sequence: SequenceConfig {
                        kind: sequence,
                        ..SequenceConfig::default()
                    },
                    learned_missing: true,
                    auxiliary: 1,
                    hidden: vec![4, 4],
                    ..config
                };
                let there: Vec<Block> = costs(&config).iter().map(|cost| cost.block).collect();
                for spec in weight_specs(&config) {
                    assert!(there.contains(&spec.block), "{}", spec.name);
                }
            }
        }
    }
}
