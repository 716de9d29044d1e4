//! The text output of `ouzel model`.

use std::io::{self, Write};

use ouzel_learner::model::backend::BackendKind;
use ouzel_learner::model::cost::Flops;

use super::{Description, Parameters};
use crate::commands::output::{row, table};
use crate::telemetry::progress::grouped;

/// Writes each model's name and summary. The third value says whether the model is the default.
pub(super) fn list(models: &[(&str, &str, bool)], out: &mut dyn Write) -> io::Result<()> {
    let rows: Vec<Vec<String>> = models
        .iter()
        .map(|(name, summary, is_default)| {
            let suffix = if *is_default { " The default." } else { "" };
            row([name, &format!("{summary}{suffix}")])
        })
        .collect();
    table(&rows, out)
}

/// Writes blocks, operations, rows and weights.
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
    let parameters = |block: &str, count: Parameters, text: &str| {
        let [base, adapter, head] = [count.base, count.adapter, count.head].map(|n| grouped(n as u64));
        row([block, &base, &adapter, &head, text])
    };
    let mut rows = vec![row(["BLOCK", "BASE", "ADAPTER", "HEAD", "WHAT"])];
    for part in &model.blocks {
        rows.push(parameters(&name(&part.block), part.parameters, &part.what));
    }
    let total = format!("{} parameters", grouped(model.parameters.total() as u64));
    rows.push(parameters("all", model.parameters, &total));
    table(&rows, out)?;
    writeln!(
        out,
        "The base learns until it is frozen, adapters from then on, heads always.\n"
    )?;

    let header = [
        "FLOPS OF",
        "A REQUEST",
        "A CANDIDATE",
        "AN ITEM",
        "n",
        "A REQUEST",
        "A CANDIDATE",
    ];
    let mut rows = vec![row(header)];
    for part in &model.blocks {
        let flops = part.flops;
        rows.push(vec![
            name(&part.block),
            formula(flops.request),
            formula(flops.candidate),
            grouped(flops.item),
            part.history.to_string(),
            grouped(flops.request_at_history),
            grouped(flops.candidate_at_history),
        ]);
    }
    let all = model.totals;
    let [item, request, candidate] = [all.item, all.request, all.candidate].map(grouped);
    rows.push(row(["all", "", "", &item, "", &request, &candidate]));
    table(&rows, out)?;
    writeln!(
        out,
        "A request with {} candidates: {}. n: entries of history. An item costs once, contrast costs in training only.\n",
        all.candidates,
        grouped(all.slate)
    )?;

    for member in &model.members {
        writeln!(
            out,
            "member {}: {} parameters, {} bytes a row; {} flops a request, {} a candidate, in the sums above until it sleeps",
            member.name,
            grouped(member.parameters as u64),
            member.row_bytes,
            grouped(member.request),
            grouped(member.candidate)
        )?;
    }
    for rows in &model.rows {
        let floats = if rows.width == 1 { "float" } else { "floats" };
        writeln!(
            out,
            "table {}: {} {floats} a row, {} bytes, and {} bytes of optimizer state",
            rows.table, rows.width, rows.weight_bytes, rows.state_bytes
        )?;
    }
    writeln!(out)?;
    let mut rows = vec![row(["WEIGHT", "SHAPE", "PARAMETERS", "PART"])];
    for weight in &model.weights {
        let shape: Vec<String> = weight.shape.iter().map(ToString::to_string).collect();
        let parameters = grouped(weight.parameters as u64);
        rows.push(row([
            &weight.name,
            &shape.join(" x "),
            &parameters,
            &name(&weight.part),
        ]));
    }
    table(&rows, out)
}

/// The name of an enum value in JSON.
fn name(value: &impl serde::Serialize) -> String {
    let name = serde_json::to_value(value).unwrap_or_default();
    name.as_str().unwrap_or_default().to_owned()
}

/// `8,192 + 64 n + 2 n^2`, without terms that are 0.
fn formula(flops: Flops) -> String {
    let terms = [
        (flops.fixed, ""),
        (flops.per_entry, " n"),
        (flops.per_pair, " n^2"),
    ];
    let terms: Vec<String> = terms
        .iter()
        .filter(|(factor, _)| *factor > 0)
        .map(|(factor, power)| format!("{}{power}", grouped(*factor)))
        .collect();
    if terms.is_empty() {
        "0".to_owned()
    } else {
        terms.join(" + ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_and_terms_that_are_0_left_out() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
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
