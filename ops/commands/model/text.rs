//! Models as a person reads them.

use std::io::{self, Write};

use ouzel_learner::model::backend::BackendKind;
use ouzel_learner::model::cost::Flops;

use super::{Description, Part};
use crate::commands::table::table;

/// Names with what they are; the third is whether it is the default.
pub(super) fn list(models: &[(&str, &str, bool)], out: &mut dyn Write) -> io::Result<()> {
    let rows: Vec<Vec<String>> = models
        .iter()
        .map(|(name, what, is_default)| {
            let what = if *is_default {
                format!("{what} The default.")
            } else {
                (*what).to_owned()
            };
            vec![(*name).to_owned(), what]
        })
        .collect();
    table(&rows, out)
}

/// Blocks, operations, rows and weights.
pub(super) fn describe(model: &Description, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "model {}, tasks {}", model.model, model.tasks.join(", "))?;
    match (model.backend, &model.backend_reason) {
        (BackendKind::Torch, Some(reason)) => {
            writeln!(out, "backend torch: the cpu backend cannot run it, {reason}")?
        }
        (BackendKind::Torch, None) => writeln!(out, "backend torch")?,
        (BackendKind::Cpu, _) => writeln!(out, "backend cpu")?,
    }
    for note in &model.notes {
        writeln!(out, "note: {note}")?;
    }
    writeln!(out)?;
    let mut rows = vec![header(&["BLOCK", "BASE", "ADAPTER", "HEAD", "WHAT"])];
    for part in &model.blocks {
        let of = part.parameters;
        let counts = [of.base, of.adapter, of.head].map(|n| digits(n as u64));
        rows.push([vec![name(&part.block)], counts.to_vec(), vec![part.what.clone()]].concat());
    }
    let of = model.parameters;
    let total = format!("{} parameters", digits(of.total() as u64));
    let counts = [of.base, of.adapter, of.head].map(|n| digits(n as u64));
    rows.push([vec!["all".to_owned()], counts.to_vec(), vec![total]].concat());
    table(&rows, out)?;
    writeln!(
        out,
        "The base learns until it is frozen, adapters from then on, heads always.\n"
    )?;

    let mut rows = vec![header(&[
        "FLOPS OF",
        "A REQUEST",
        "A CANDIDATE",
        "AN ITEM",
        "n",
        "A REQUEST",
        "A CANDIDATE",
    ])];
    for part in &model.blocks {
        let of = part.flops;
        rows.push(vec![
            name(&part.block),
            formula(of.request),
            formula(of.candidate),
            digits(of.item),
            part.history.to_string(),
            digits(of.request_at_history),
            digits(of.candidate_at_history),
        ]);
    }
    let all = model.totals;
    rows.push(vec![
        "all".to_owned(),
        String::new(),
        String::new(),
        digits(all.item),
        String::new(),
        digits(all.request),
        digits(all.candidate),
    ]);
    table(&rows, out)?;
    writeln!(
        out,
        "A request with {} candidates: {}. n entries of history; an item is paid for once, contrast in training only.\n",
        all.candidates,
        digits(all.slate)
    )?;

    for rows in &model.rows {
        let floats = if rows.width == 1 { "float" } else { "floats" };
        writeln!(
            out,
            "table {}: {} {floats} a row, {} bytes, and {} bytes of optimizer state",
            rows.table, rows.width, rows.weight_bytes, rows.state_bytes
        )?;
    }
    writeln!(out)?;
    let mut rows = vec![header(&["WEIGHT", "SHAPE", "PARAMETERS", "PART"])];
    for weight in &model.weights {
        let shape: Vec<String> = weight.shape.iter().map(ToString::to_string).collect();
        let part = match weight.part {
            Part::Base => "base",
            Part::Adapter => "adapter",
            Part::Head => "head",
        };
        rows.push(vec![
            weight.name.clone(),
            shape.join(" x "),
            digits(weight.parameters as u64),
            part.to_owned(),
        ]);
    }
    table(&rows, out)
}

fn header(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A name as JSON has it.
fn name(block: &impl serde::Serialize) -> String {
    let name = serde_json::to_value(block).unwrap_or_default();
    name.as_str().unwrap_or_default().to_owned()
}

/// `8,192 + 64 n + 2 n^2`, without what is 0.
fn formula(flops: Flops) -> String {
    let terms = [
        (flops.fixed, ""),
        (flops.per_entry, " n"),
        (flops.per_pair, " n^2"),
    ];
    let terms: Vec<String> = terms
        .iter()
        .filter(|(factor, _)| *factor > 0)
        .map(|(factor, power)| format!("{}{power}", digits(*factor)))
        .collect();
    if terms.is_empty() {
        "0".to_owned()
    } else {
        terms.join(" + ")
    }
}

/// Digits in groups of three.
fn digits(number: u64) -> String {
    let text = number.to_string();
    let mut grouped = String::new();
    for (i, digit) in text.chars().enumerate() {
        if i > 0 && (text.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_groups_and_sums_without_what_is_nothing() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(digits(number), text);
        }
        let flops = |fixed, per_entry, per_pair| Flops {
            fixed,
            per_entry,
            per_pair,
        };
        assert_eq!(formula(flops(0, 0, 0)), "0");
        assert_eq!(formula(flops(8192, 0, 2)), "8,192 + 2 n^2");
        assert_eq!(formula(flops(0, 64, 0)), "64 n");
    }
}
