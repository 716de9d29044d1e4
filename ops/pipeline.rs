//! One pipeline for daemon, demo, replay and join process; what differs between them is data.
//!
//! ```text
//! intake -> sequencer (order, plan log, join) -> learner -> checkpoints -> snapshots (disk)
//!                        ^ |                        \-> publisher -> scorers <- HTTP
//!               encoder -/ \-> feature state ------------------------^
//! ```
//!
//! [`spec`] says what a pipeline is made of and builds its parts from a [`resume`] point. [`threads`] runs the parts as
//! [`stages`], serves and saves; [`in_place`] runs them in the calling thread, for replays. Both take the same steps.
//! [`status`] is what a pipeline reports, [`control`] what it decides by. [`join_process`] runs a member of the join
//! tier on the same [`process`].

mod admin_handler;
pub mod checkpoint;
pub mod contents;
pub mod control;
pub mod gauges;
pub mod in_place;
pub mod intake;
pub mod join_process;
pub mod learner;
pub mod messages;
pub mod model_op;
pub mod process;
pub mod provenance;
pub mod publisher;
pub mod resume;
pub mod spec;
pub mod stages;
pub mod status;
pub mod threads;
