//! `ouzel model choose`: replays the ready-made models on the first part of a log, and says which earns its cost.
//!
//! The cheapest model is recommended that no dearer one beats by more than two seeds of one model differ. Cost is the
//! operations of a request of 100 candidates, not time, so that the answer is the same on every machine.

use std::io::Write;

use anyhow::anyhow;
use serde::Serialize;

use crate::cli::{ChooseArgs, ReplayArgs};
use crate::commands::{output, replay};
use crate::config::{Config, READY_MADE};
use crate::error::{ErrorExt, Exit};

use super::cost_of_slate;

/// Candidates of the request whose operations are compared.
const CANDIDATES: u32 = 100;

/// One model on the log; figures are means over the seeds, of the second half of the part that was read.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Candidate {
    model: String,
    auc: f64,
    gauc: Option<f64>,
    ne: Option<f64>,
    calibration: Option<f64>,
    /// The largest difference in AUC between two seeds.
    auc_of_seeds: f64,
    /// Operations of a request with its candidates.
    operations: u64,
    samples_per_second: f64,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Choice {
    /// By cost, the cheapest first.
    models: Vec<Candidate>,
    /// Models that cannot run on this log or configuration, and why.
    left_out: Vec<(String, String)>,
    judged: u64,
    /// What two seeds of one model differ by, the largest over the models.
    noise: f64,
    choice: String,
    why: String,
}

/// Runs the command.
pub(super) fn run(args: &ChooseArgs, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let base = Config::load_or_default(args.config.as_deref())?;
    let names: Vec<&str> = match args.models.is_empty() {
        true => READY_MADE.iter().map(|(name, _)| *name).collect(),
        false => args.models.iter().map(String::as_str).collect(),
    };
    let (mut models, mut left_out, mut judged) = (Vec::new(), Vec::new(), 0);
    for name in names {
        let config = match base.clone().with_model(name) {
            Ok(config) => config,
            // A model that was asked for by name is refused, one of the list is left out.
            Err(error) if args.models.is_empty() => {
                left_out.push((name.to_owned(), error.to_string()));
                continue;
            }
            Err(error) => return Err(anyhow!(error)).exit(Exit::Usage),
        };
        let (candidate, n) = measure(name, &config, args)?;
        judged = n;
        match candidate {
            Some(candidate) => models.push(candidate),
            None => left_out.push((
                name.to_owned(),
                "the second half has no AUC: it lacks positives or negatives".to_owned(),
            )),
        }
    }
    models.sort_by_key(|model| model.operations);
    let noise = models.iter().map(|model| model.auc_of_seeds).fold(0.0, f64::max);
    let Some((choice, why)) = choose(&models, noise) else {
        return Err(anyhow!(
            "no model can be judged on {}: its first {judged} shown items have too few labels of either kind",
            args.data.display()
        ))
        .hint("raise --limit, or look at what `ouzel replay` says about the log")
        .exit(Exit::Check);
    };
    let choice = Choice {
        models,
        left_out,
        judged,
        noise,
        choice,
        why,
    };
    match json {
        true => output::json(&choice, out)?,
        false => write_text(&choice, args, out)?,
    }
    Ok(Exit::Ok)
}

/// A model's figures, and how many shown items they are of.
fn measure(name: &str, config: &Config, args: &ChooseArgs) -> anyhow::Result<(Option<Candidate>, u64)> {
    let mut runs = Vec::new();
    for seed in 0..u64::from(args.seeds) {
        let mut config = config.clone();
        config.learner.seed = config.learner.seed.wrapping_add(seed);
        let replay = ReplayArgs {
            data: Some(args.data.clone()),
            labels: args.labels,
            limit: Some(args.limit),
            ..ReplayArgs::default()
        };
        runs.push(replay::measure(name, &config, &replay)?);
    }
    let judged = runs.first().map_or(0, |run| run.second_half.judged);
    let aucs: Option<Vec<f64>> = runs.iter().map(|run| run.second_half.auc).collect();
    let Some(aucs) = aucs else {
        return Ok((None, judged));
    };
    let n = f64::from(args.seeds);
    let mean = |figure: fn(&replay::Measurement) -> Option<f64>| {
        let sum = runs.iter().map(figure).sum::<Option<f64>>();
        sum.map(|sum| sum / n)
    };
    let (low, high) = aucs.iter().fold((f64::MAX, f64::MIN), |(low, high), auc| {
        (low.min(*auc), high.max(*auc))
    });
    let candidate = Candidate {
        model: name.to_owned(),
        auc: aucs.iter().sum::<f64>() / n,
        gauc: mean(|run| run.second_half.gauc),
        ne: mean(|run| run.second_half.ne),
        calibration: mean(|run| run.second_half.calibration),
        auc_of_seeds: high - low,
        operations: cost_of_slate(config, CANDIDATES),
        samples_per_second: mean(|run| Some(run.samples_per_second)).unwrap_or_default(),
    };
    Ok((Some(candidate), judged))
}

/// The recommended model and the reason; `None` without models. `models` are sorted by cost.
fn choose(models: &[Candidate], noise: f64) -> Option<(String, String)> {
    let best = models.iter().max_by(|a, b| a.auc.total_cmp(&b.auc))?;
    let choice = models.iter().find(|model| model.auc >= best.auc - noise)?;
    let why = if choice.model == best.model {
        let dearer = models.iter().any(|model| model.operations > choice.operations);
        match dearer {
            true => format!(
                "{} has the highest AUC, and no dearer model beats it",
                choice.model
            ),
            false => format!(
                "{} has the highest AUC by more than two seeds differ ({noise:.4})",
                choice.model
            ),
        }
    } else {
        format!(
            "{} is {:.4} of AUC below {}, the best, where two seeds differ by {noise:.4}, and costs {:.0} % of its operations",
            choice.model,
            best.auc - choice.auc,
            best.model,
            percent(choice.operations, best.operations)
        )
    };
    Some((choice.model.clone(), why))
}

fn percent(part: u64, whole: u64) -> f64 {
    100.0 * crate::telemetry::float(part) / crate::telemetry::float(whole.max(1))
}

fn write_text(choice: &Choice, args: &ChooseArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let header = [
        "model",
        "AUC",
        "GAUC",
        "NE",
        "calibration",
        "operations",
        "samples/s",
    ];
    let mut rows = vec![output::row(header)];
    for model in &choice.models {
        let figures = [Some(model.auc), model.gauc, model.ne, model.calibration].map(output::figure);
        let cost = [
            format!("{:.1} M", crate::telemetry::float(model.operations) / 1e6),
            format!("{:.0}", model.samples_per_second),
        ];
        rows.push([vec![model.model.clone()], figures.to_vec(), cost.to_vec()].concat());
    }
    output::table(&rows, out)?;
    writeln!(
        out,
        "\nSecond half of the first {} shown items, {} of them judged; means of {} seeds. Operations: one request of {CANDIDATES} \
         candidates.",
        args.limit, choice.judged, args.seeds
    )?;
    for (model, why) in &choice.left_out {
        writeln!(out, "{model} is left out: {why}")?;
    }
    writeln!(out, "\n{}: {}.", choice.choice, choice.why)?;
    writeln!(
        out,
        "Set `model.from = \"{}\"`; a longer log may pay for more: see docs/experiments.md.",
        choice.choice
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(model: &str, auc: f64, operations: u64) -> Candidate {
        Candidate {
            model: model.to_owned(),
            auc,
            gauc: None,
            ne: None,
            calibration: None,
            auc_of_seeds: 0.001,
            operations,
            samples_per_second: 1.0,
        }
    }

    #[test]
    fn the_cheapest_model_within_the_noise_of_the_best_is_chosen() {
        let models = [
            candidate("small", 0.70, 10),
            candidate("middle", 0.7495, 40),
            candidate("large", 0.75, 160),
        ];
        let (name, why) = choose(&models, 0.001).unwrap();
        assert_eq!(name, "middle");
        assert_eq!(
            why,
            "middle is 0.0005 of AUC below large, the best, where two seeds differ by 0.0010, and costs 25 % of its operations"
        );
        let (name, why) = choose(&models, 0.0001).unwrap();
        assert_eq!(name, "large");
        assert_eq!(
            why,
            "large has the highest AUC by more than two seeds differ (0.0001)"
        );
        let (name, why) = choose(&models[..2], 0.06).unwrap();
        assert_eq!(name, "small", "{why}");
        assert_eq!(choose(&[], 0.1), None);
    }
}
