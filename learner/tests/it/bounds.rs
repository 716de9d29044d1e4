//! A task that is a click and then a conversion, learned beside both.

use ouzel_learner::loss::{TaskChain, divergence, sigmoid};
use ouzel_learner::model::{ModelConfig, uniform};
use ouzel_learner::{Error, LearnerConfig, Trainer};
use ouzel_sample::{Batch, Batcher};

use crate::world::{configs, slates};

const N_REQUESTS: u64 = 6_000;
/// Of what was clicked, how much is bought.
const CONVERSION: f32 = 0.3;

fn configs_with(weight: f32) -> (ModelConfig, LearnerConfig) {
    let (model, learner) = configs();
    let model = ModelConfig {
        tasks: ["click", "order", "conversion"].map(str::to_owned).to_vec(),
        ..model
    };
    let chain = TaskChain {
        first: "click".to_owned(),
        then: "conversion".to_owned(),
        both: "order".to_owned(),
        weight,
    };
    let learner = LearnerConfig {
        task_chains: vec![chain],
        ..learner
    };
    (model, learner)
}

/// The world with orders; nobody ever sends an event of a conversion.
fn batches() -> Vec<Batch> {
    let mut batcher = Batcher::new(64);
    slates(41, N_REQUESTS, [0.15, 0.5])
        .filter_map(|mut slate| {
            for sample in &mut slate {
                let is_bought = uniform(7, sample.request.id.0, sample.candidate.item.0) < CONVERSION;
                let is_clicked = sample.labels.get(0) == Some(true);
                sample.labels = sample.labels.with(1, is_clicked && is_bought).with(2, false);
            }
            batcher.push(slate)
        })
        .collect()
}

/// Of the second half: the mean probability of a conversion, and the mean divergence of the tasks.
fn learned(weight: f32) -> (f64, f64) {
    let (model, learner) = configs_with(weight);
    let mut trainer = Trainer::new(model, learner).unwrap();
    let (mut conversion, mut apart, mut n) = (0.0, 0.0, 0.0);
    let batches = batches();
    for (i, batch) in batches.iter().enumerate() {
        let report = trainer.step(batch).unwrap();
        assert!(report.is_learned);
        for logits in report.logits.chunks_exact(3).filter(|_| i > batches.len() / 2) {
            conversion += f64::from(sigmoid(logits[2]));
            apart += divergence(logits[0], logits[2], logits[1]).value;
            n += 1.0;
        }
    }
    (conversion / n, apart / n)
}

#[test]
fn a_conversion_is_learned_among_clicks_and_a_bound_draws_the_tasks_together() {
    let (without, apart) = learned(0.0);
    let (with, together) = learned(1.0);
    println!("{without} {apart}, {with} {together}");
    for found in [without, with] {
        assert!((found / f64::from(CONVERSION) - 1.0).abs() < 0.1, "{found}");
    }
    assert!(together < 0.7 * apart, "{together} {apart}");
}

#[test]
fn bounds_and_weights_of_unknown_tasks_are_refused() {
    let change = |change: &dyn Fn(&mut LearnerConfig)| {
        let (model, mut learner) = configs_with(0.1);
        change(&mut learner);
        Trainer::new(model, learner).map(|_| ()).unwrap_err()
    };
    let refused = change(&|config| config.task_chains[0].then = "like".to_owned());
    assert!(
        matches!(&refused, Error::Config(error) if error.message.contains("\"like\"")),
        "{refused}"
    );
    let refused = change(&|config| {
        config.optimizer.task_weights.insert("like".to_owned(), 2.0);
    });
    assert!(
        matches!(&refused, Error::Config(error) if error.message.contains("\"like\"")),
        "{refused}"
    );
    let refused = change(&|config| config.task_chains[0].both = "click".to_owned());
    assert!(refused.to_string().contains("each once"), "{refused}");
    let refused = change(&|config| {
        let chain = &mut config.task_chains[0];
        std::mem::swap(&mut chain.first, &mut chain.then);
    });
    assert!(refused.to_string().contains("primary"), "{refused}");
}
