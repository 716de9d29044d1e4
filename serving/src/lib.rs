//! Serving: scores rank requests with the newest model version.
//!
//! # The path of a request
//! 1. [`http`] reads the body within its limits and decodes a [`RankRequest`].
//! 2. [`RankRequest::check`] turns it into a [`CheckedRequest`].
//! 3. The request waits in the bounded [`Queue`], or is refused at once.
//! 4. A worker thread, in [`run_worker`], passes it to its [`Ranker`].
//! 5. The [`Scorer`] reads current features, takes the newest [`Version`] from [`Published`], runs the model once,
//!    and makes one score of the tasks by its [`ScoreExpression`]. Where no version can score, popularity does.
//! 6. [`RankResponse::new`] orders the items; the reply names the version that computed it.
//!
//! A request for items of the catalog takes the same path with a [`retrieval::RecommendRequest`]: the worker finds them in
//! the newest [`ItemIndex`], which [`run_indexer`] keeps up to date, and ranks them by the same scorer.
//!
//! A candidate may take part for a share of the users: [`CandidateSlot`].
//!
//! Events that a client posts take another path: [`http`] passes an [`EventsCall`](events::EventsCall) to a writer outside
//! of this crate and waits for its answer.
//!
//! The crate owns that path and its limits. It knows nothing of training, event sources or snapshot directories. It
//! starts no thread ([`run_worker`] is a loop), and async code stays inside [`http`].

mod candidate;
pub mod client;
mod config;
pub mod events;
pub mod http;
mod index;
pub mod metrics;
mod published;
mod queue;
mod ranker;
mod request;
pub mod retrieval;
mod score_expression;
mod scorer;
mod worker;

pub use candidate::{
    CANDIDATE_NAME, CandidateCounts, CandidateRole, CandidateSlot, CandidateVersions, MAX_SHADOW_JOBS,
    ShadowJob, Variant, run_shadow,
};
pub use config::ServingConfig;
pub use index::{ItemIndex, MAX_INDEX_ITEMS, run_indexer};
pub use published::{LoadedVersion, Published};
pub use queue::{Job, PushError, Queue, Work};
pub use ranker::{CheckedRequest, NamedValues, RankError, Ranked, Ranker, ServedModel};
pub use request::{
    DescribedItem, InvalidRequest, MAX_CONTEXT, RankItem, RankRequest, RankResponse, ScoredBy, ScoredItem,
};
pub use score_expression::{ScoreError, ScoreExpression};
pub use scorer::{Features, Now, Scorer, Version};
pub use worker::run_worker;
