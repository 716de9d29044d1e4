//! Progressive validation: every shown item is scored before it is learned from, and counts once.
//!
//! Every task has its metrics. The prediction made when an item was shown is compared with its outcome, whatever samples the label policy makes of it.
//! An item counts with its first sample. A presumed negative counts as a negative until a late positive revises it; further
//! copies of known labels do not count. So metrics of a finished log are exact under every policy. While live, an action that
//! has not arrived counts as a negative: a window shorter than the delays shows a calibration above 1 for that reason alone.

mod auc;
mod buckets;
mod comparison;
mod figures;
mod progressive;
mod recall;
mod score_log;

pub use auc::{auc, gauc};
pub use buckets::{Bucket, Buckets, ByBucket, Known};
pub use comparison::{ComparedBatch, Comparison, Difference, TaskComparison};
pub use figures::Figures;
pub(crate) use figures::{Sums, float};
pub use progressive::Progressive;
pub use recall::{MAX_RANKED_ITEMS, RankFigures, Recall, RecallFigures};
pub(crate) use score_log::{ScoreChange, score_changes};
pub use score_log::{ScoreLog, Scored};
