//! Progressive validation: every shown item is scored before it is learned from, and counts once.
//!
//! What is compared is the prediction made when the item was shown and its outcome, whatever samples the label
//! policy made of it. An item counts with its first sample. One told as a negative before its window has closed
//! counts as such until a late positive revises it; further copies of what is known already count nothing. So
//! figures of a finished log are exact under every policy. Live, an action still on its way counts as a negative
//! where the policy presumes one: a window of samples that spans less time than the delays do shows a calibration
//! above 1 for that reason alone.

mod auc;
mod buckets;
mod progressive;
mod score_log;

pub use auc::{auc, gauc};
pub use buckets::{Bucket, Buckets, ByBucket, Known};
pub use progressive::{Figures, Progressive};
pub use score_log::{ScoreLog, Scored};
