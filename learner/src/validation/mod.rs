//! Progressive validation: every sample is scored before it is learned from.

mod auc;
mod progressive;
mod score_log;

pub use auc::{auc, gauc};
pub use progressive::{Figures, Progressive};
pub use score_log::{ScoreLog, Scored};
