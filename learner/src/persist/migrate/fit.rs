//! Which values of a former weight are which of a present one.

use ouzel_model::{ModelConfig, SequenceKind};
use ouzel_sample::TaskMap;

/// How a weight of the present model fits the former one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// Every value is that of this former weight.
    Same(String),
    /// Some values are those of this former weight, the others start anew.
    Part(String, Places),
    /// It starts at 0: a part of the first layer, whose others have learned.
    Zero,
    /// It starts at its initial values.
    New,
}

/// The former place of each row and column of a weight, `[n_rows, n_columns]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Places {
    rows: Vec<Option<usize>>,
    columns: Vec<Option<usize>>,
    former_columns: usize,
}

impl Places {
    /// Copies the values that have a former place.
    pub(super) fn copy(&self, former: &[f32], present: &mut [f32]) {
        for (row, from_row) in present
            .chunks_exact_mut(self.columns.len().max(1))
            .zip(&self.rows)
        {
            let Some(from_row) = from_row else { continue };
            let start = from_row * self.former_columns;
            for (value, from) in row.iter_mut().zip(&self.columns) {
                if let Some(known) = from.and_then(|from| former.get(start + from)) {
                    *value = *known;
                }
            }
        }
    }
}

/// Compares two models.
pub(super) struct Fitting<'a> {
    former: &'a ModelConfig,
    present: &'a ModelConfig,
    tasks: TaskMap,
    /// False where live features are read in other scales than those that were learned.
    has_scales: bool,
}

/// Weights whose columns, or with `true` whose rows, are blocks of `model.dim` values.
const BLOCKS: [(&str, bool); 13] = [
    ("first.user", false),
    ("first.candidate", false),
    ("first.sequence", false),
    ("fm.content", true),
    ("sequence.token.weight", false),
    ("sequence.token.lora_a", false),
    ("sequence.first.weight", false),
    ("sequence.first.lora_a", false),
    ("sequence.extract.input.weight", false),
    ("sequence.extract.input.lora_a", false),
    ("sequence.attention.weight", false),
    ("sequence.attention.lora_a", false),
    ("cic.id.weight", false),
];

impl<'a> Fitting<'a> {
    /// `has_norm` is false where the former weights have no statistics of live features.
    pub(super) fn new(
        former: &'a ModelConfig,
        present: &'a ModelConfig,
        tasks: TaskMap,
        has_norm: bool,
    ) -> Self {
        let has_scales = has_norm && former.features.normalize == present.features.normalize;
        Self {
            former,
            present,
            tasks,
            has_scales,
        }
    }

    /// Whether the towers of retrieval read what they have learned to read.
    pub(super) fn keeps_retrieval(&self) -> bool {
        let (former, present) = (self.former, self.present);
        former.retrieval == present.retrieval
            && former.retrieval_vector_widths() == present.retrieval_vector_widths()
            && former.retrieval_row_width() == present.retrieval_row_width()
    }

    /// The match of the tasks.
    pub(super) fn tasks(&self) -> &TaskMap {
        &self.tasks
    }

    /// How the present weight `name` of this shape fits; `shape_of` gives the shape of a former weight.
    pub(super) fn fit<'s>(
        &self,
        name: &str,
        shape: &[usize],
        shape_of: impl Fn(&str) -> Option<&'s [usize]>,
    ) -> Fit {
        let anew = self.anew(name);
        let Some(former) = self.former_name(name).filter(|_| !self.starts_anew(name)) else {
            return anew;
        };
        let Some(was) = shape_of(&former) else { return anew };
        let (rows, columns) = (self.rows(name, shape, was), self.columns(name, shape, was));
        let (Some(rows), Some(columns)) = (rows, columns) else {
            return anew;
        };
        let is_whole = |places: &[Option<usize>], n: usize| {
            places.len() == n && places.iter().enumerate().all(|(at, from)| *from == Some(at))
        };
        if is_whole(&rows, height(was)) && is_whole(&columns, width(was)) && shape == was {
            return Fit::Same(former);
        }
        if rows.iter().all(Option::is_none) {
            return anew;
        }
        let places = Places {
            rows,
            columns,
            former_columns: width(was),
        };
        Fit::Part(former, places)
    }

    /// A part of the first layer adds nothing at 0, unless the layer starts anew as a whole.
    fn anew(&self, name: &str) -> Fit {
        let is_input = name.starts_with("first.") && name != "first.bias";
        match is_input && self.former.hidden == self.present.hidden {
            true => Fit::Zero,
            false => Fit::New,
        }
    }

    /// True for a weight whose input has another meaning than the one it has learned.
    fn starts_anew(&self, name: &str) -> bool {
        let (former, present) = (self.former, self.present);
        let of = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        let tower = ["first.", "hidden", "out.", "aux.", "head.", "pool."];
        former.hidden != present.hidden && of(&tower)
            || former.head != present.head && of(&["out.", "head."])
            // The layer inside a gate reads whole rows.
            || (former.dim, &former.hidden) != (present.dim, &present.hidden) && of(&["gate"])
            || name == "first.dense" && !self.has_scales
            || former.sequence != present.sequence && of(&["sequence.", "first.sequence"])
            || former.content != present.content
                && of(&[
                    "content.",
                    "first.content",
                    "fm.content",
                    "interest.",
                    "first.interest",
                    "cic.content",
                ])
            || former.content.vector_widths != present.content.vector_widths && of(&["linear."])
            || former.interest != present.interest && of(&["interest.", "first.interest"])
            || former.contrast_width != present.contrast_width && of(&["cic."])
            || !self.keeps_retrieval() && of(&["retrieval."])
    }

    /// The former name of a weight; `None` for one of a task that is new.
    fn former_name(&self, name: &str) -> Option<String> {
        for kind in ["head.gate", "head.tower", "head.out"] {
            let Some((task, part)) = name.strip_prefix(kind).and_then(|rest| rest.split_once('.')) else {
                continue;
            };
            let Ok(task) = task.parse::<usize>() else { continue };
            let former = self.tasks.former().nth(task).flatten()?;
            return Some(format!("{kind}{former}.{part}"));
        }
        Some(name.to_owned())
    }

    /// The former row of each row; `None` where the weight does not fit.
    fn rows(&self, name: &str, shape: &[usize], was: &[usize]) -> Option<Vec<Option<usize>>> {
        let (n, n_before) = (height(shape), height(was));
        let is_by_task = ["out.", "aux.", "linear.", "pool."]
            .iter()
            .any(|kind| name.starts_with(kind));
        if is_by_task || name == "sequence.action" {
            // The last row of the actions is the placeholder of a candidate.
            let more = usize::from(name == "sequence.action");
            if n != self.tasks.n_present() + more || n_before != self.tasks.n_former() + more {
                return None;
            }
            let mut rows: Vec<Option<usize>> =
                self.tasks.former().map(|from| from.map(usize::from)).collect();
            rows.extend((more > 0).then_some(Some(self.tasks.n_former())));
            return Some(rows);
        }
        self.places(n, n_before, BLOCKS.contains(&(name, true)))
    }

    fn columns(&self, name: &str, shape: &[usize], was: &[usize]) -> Option<Vec<Option<usize>>> {
        // With a block of another kind, the width of the field is not that of rows.
        let is_rows = name != "first.sequence" || self.present.sequence.kind == SequenceKind::Din;
        self.places(
            width(shape),
            width(was),
            is_rows && BLOCKS.contains(&(name, false)),
        )
    }

    /// The former places along an axis, in blocks of `model.dim` values if it has them.
    fn places(&self, n: usize, n_before: usize, has_blocks: bool) -> Option<Vec<Option<usize>>> {
        let (dim, before) = (self.present.dim, self.former.dim);
        if has_blocks && dim != before && dim > 0 && before > 0 {
            let same_blocks =
                n.is_multiple_of(dim) && n_before.is_multiple_of(before) && n / dim == n_before / before;
            let place = |at: usize| (at % dim < before).then_some(at / dim * before + at % dim);
            return same_blocks.then(|| (0..n).map(place).collect());
        }
        (n == n_before).then(|| (0..n).map(Some).collect())
    }
}

fn height(shape: &[usize]) -> usize {
    shape.first().copied().unwrap_or(1)
}

fn width(shape: &[usize]) -> usize {
    shape.iter().skip(1).product()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(tasks: &[&str]) -> ModelConfig {
        ModelConfig {
            dim: 2,
            tasks: tasks.iter().map(|task| (*task).to_owned()).collect(),
            ..ModelConfig::default()
        }
    }

    fn check(former: &ModelConfig, present: &ModelConfig, name: &str, shapes: [&[usize]; 2]) -> Fit {
        let tasks = TaskMap::new(&former.tasks, &present.tasks);
        let fitting = Fitting::new(former, present, tasks, true);
        let was = shapes[0];
        fitting.fit(name, shapes[1], |_| Some(was))
    }

    /// The weight after copying `former` over values of -1.
    fn copied(fit: &Fit, former: &[f32], n: usize) -> Vec<f32> {
        let Fit::Part(_, places) = fit else {
            panic!("{fit:?}")
        };
        let mut present = vec![-1.0; n];
        places.copy(former, &mut present);
        present
    }

    #[test]
    fn rows_of_outputs_follow_their_tasks() {
        let (former, present) = (model(&["click", "like"]), model(&["buy", "like"]));
        let fit = check(&former, &present, "out.weight", [&[2, 2], &[2, 2]]);
        assert_eq!(copied(&fit, &[1.0, 2.0, 3.0, 4.0], 4), [-1.0, -1.0, 3.0, 4.0]);
        let fit = check(&former, &present, "out.bias", [&[2], &[2]]);
        assert_eq!(copied(&fit, &[1.0, 2.0], 2), [-1.0, 2.0]);
        let fit = check(&former, &model(&["like"]), "sequence.action", [&[3, 1], &[2, 1]]);
        assert_eq!(copied(&fit, &[1.0, 2.0, 3.0], 2), [2.0, 3.0]);
        let same = check(&former, &former, "out.weight", [&[2, 2], &[2, 2]]);
        assert_eq!(same, Fit::Same("out.weight".to_owned()));
        let none = check(&former, &model(&["x", "y"]), "out.weight", [&[2, 2], &[2, 2]]);
        assert_eq!(none, Fit::New);
    }

    #[test]
    fn wider_rows_leave_each_block_at_its_place() {
        let former = model(&["click"]);
        let wider = ModelConfig {
            dim: 3,
            ..former.clone()
        };
        let fit = check(&former, &wider, "first.candidate", [&[1, 4], &[1, 6]]);
        assert_eq!(
            copied(&fit, &[1.0, 2.0, 3.0, 4.0], 6),
            [1.0, 2.0, -1.0, 3.0, 4.0, -1.0]
        );
        let fit = check(&wider, &former, "first.candidate", [&[1, 6], &[1, 4]]);
        assert_eq!(
            copied(&fit, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 4),
            [1.0, 2.0, 4.0, 5.0]
        );
        let fit = check(&former, &wider, "fm.content", [&[2, 1], &[3, 1]]);
        assert_eq!(copied(&fit, &[1.0, 2.0], 3), [1.0, 2.0, -1.0]);
    }

    #[test]
    fn what_reads_a_part_that_starts_anew_starts_anew() {
        let former = model(&["click"]);
        let deeper = ModelConfig {
            hidden: vec![64, 8],
            ..former.clone()
        };
        let shapes: [&[usize]; 2] = [&[64, 4], &[64, 4]];
        assert_eq!(check(&former, &deeper, "first.candidate", shapes), Fit::New);
        let sequence = ModelConfig {
            sequence: ouzel_model::SequenceConfig {
                layers: former.sequence.layers + 1,
                ..former.sequence.clone()
            },
            ..former.clone()
        };
        assert_eq!(check(&former, &sequence, "first.sequence", shapes), Fit::Zero);
        assert_eq!(
            check(&former, &sequence, "sequence.token.weight", shapes),
            Fit::New
        );
        let same = check(&former, &sequence, "first.candidate", shapes);
        assert_eq!(same, Fit::Same("first.candidate".to_owned()));
    }
}
