//! What one record causes in the join, as data for the caller to carry out.

use std::sync::Arc;

use ouzel_sample::{Action, Candidate, Id, Impression, Position, Request, Sample};

/// The features of an impression as of its event time, in slate order.
#[derive(Clone, Debug)]
pub struct Captured {
    /// The user side.
    pub request: Arc<Request>,
    /// The item sides, one per shown item.
    pub candidates: Vec<Arc<Candidate>>,
}

impl From<(Request, Vec<Candidate>)> for Captured {
    fn from((request, candidates): (Request, Vec<Candidate>)) -> Self {
        Self {
            request: Arc::new(request),
            candidates: candidates.into_iter().map(Arc::new).collect(),
        }
    }
}

/// Captures the features of impressions.
pub trait FeatureSource {
    /// The features of `impression` before it is counted. Called once for each accepted impression, for no other, with
    /// the items that are new.
    fn capture(&mut self, impression: &Impression) -> Captured;
}

impl<F: FnMut(&Impression) -> Captured> FeatureSource for F {
    fn capture(&mut self, impression: &Impression) -> Captured {
        self(impression)
    }
}

/// What became of one record on arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// An impression was joined; some of its windows may have been over already.
    Accepted,
    /// An impression that shows nothing that its request has not shown before.
    Duplicate,
    /// A further impression of a request that has shown too many items already.
    Excess,
    /// An impression whose every window is over; no sample will be made of it.
    Late,
    /// An action made a positive.
    Matched,
    /// An action on an item that is positive already, or that waits already.
    DuplicateAction,
    /// An action after its window.
    LateAction,
    /// An action dated before its impression by more than the allowed skew.
    BeforeShown,
    /// An action waits until its item is shown.
    Early,
    /// An action whose item cannot be expected any more.
    Orphan,
    /// An action without a request that belongs to no impression.
    Unattributed,
    /// A record that could not be decoded.
    Rejected,
    /// No record of the join: an item, or a passage of time.
    #[default]
    Passed,
}

/// An action that counts in histories and counters from here on.
#[derive(Clone, Debug, PartialEq)]
pub struct CountedAction {
    /// The action.
    pub action: Action,
    /// Offset of its record in its partition.
    pub offset: i64,
    /// The impression that it was attributed to, while a window of that is open.
    pub impression: Option<(Position, Arc<Request>)>,
    /// It made no positive: it came after its window, or without a request and an impression.
    pub is_late: bool,
}

impl CountedAction {
    /// The context of its impression; empty where that is not known any more.
    pub fn context(&self) -> &[Id] {
        match &self.impression {
            Some((_, request)) => &request.context,
            None => &[],
        }
    }

    /// Number of items in the slate of its impression, while that is known.
    #[must_use]
    pub fn slate_size(&self) -> Option<u16> {
        let (_, request) = self.impression.as_ref()?;
        Some(request.n_items)
    }
}

/// An impression whose last window closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedImpression {
    /// Position of its record.
    pub shown_at: Position,
    /// Who saw it.
    pub user: Id,
}

/// An event whose time was held because it is far ahead of its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeJump {
    /// Position of its record.
    pub position: Position,
    /// How far it is ahead of the newest event before it, ms.
    pub ahead_ms: i64,
}

/// What one input caused. The next input overwrites it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JoinEffects {
    /// What became of the record.
    pub outcome: Outcome,
    /// Of an accepted or late impression, the items that its request had not shown before; `None` when that is all of it.
    pub new_part: Option<Impression>,
    /// How far the event is ahead of its partition, ms, where time does not follow it before other requests confirm it.
    pub ahead_ms: Option<i64>,
    /// New samples. A group is what one event decided of one impression; a batch never splits it.
    pub groups: Vec<Vec<Sample>>,
    /// Actions that count from here on: the record's own, or those that had waited for its impression, in order of
    /// arrival with the late ones last. The impression's own features must not contain them.
    pub actions: Vec<CountedAction>,
    /// Impressions whose last window closed, in order.
    pub closed: Vec<ClosedImpression>,
}

impl JoinEffects {
    /// Empties it and keeps its memory.
    pub(crate) fn clear(&mut self) {
        self.outcome = Outcome::Passed;
        self.new_part = None;
        self.ahead_ms = None;
        self.groups.clear();
        self.actions.clear();
        self.closed.clear();
    }
}
