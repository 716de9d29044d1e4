//! Starts, stops and promotes the candidate of a running pipeline.

use std::sync::Arc;

use anyhow::Context;

use ouzel_sample::UserShare;
use ouzel_serving::Variant;
use ouzel_snapshot::{Alias, SnapshotId};

use super::{AdminHandler, Changed, TIMEOUT};
use crate::config::Config;
use crate::pipeline::candidate::CandidateRequest;
use crate::pipeline::candidate::choice::CandidateChoice;
use crate::pipeline::go_back::unpin;
use crate::pipeline::promoted::UsedConfig;
use crate::pipeline::second::promotion::promote_second;
use crate::pipeline::second::settings::settings_of;
use crate::pipeline::stages::learn::LearnerRequest;

impl AdminHandler {
    pub(super) fn start_candidate(
        &self,
        id: &str,
        variant: Variant,
        share: UserShare,
        note: String,
    ) -> anyhow::Result<SnapshotId> {
        let id = self.readable(id)?;
        let choice = CandidateChoice {
            snapshot: Some(id),
            learns: None,
            variant,
            share,
            note,
            at_ms: self.clock.now_ms(),
        };
        self.candidate(CandidateRequest::Start(choice))?;
        Ok(id)
    }

    /// Lets a second learner learn from the next batch on. The snapshot that follows has a state of it beside it, from which
    /// a restart goes on.
    pub(super) fn start_second(
        &self,
        (settings, file): (&str, &str),
        from: Option<&str>,
        (variant, share): (Variant, UserShare),
        note: String,
    ) -> anyhow::Result<Changed> {
        self.check_running()?;
        let latest = self.run.get().control.latest();
        let used = match latest {
            Some(latest) => UsedConfig::of(&self.config, &self.store.read(latest)?)?.config,
            None => Config::clone(&self.config),
        };
        let learns = settings_of(&used, &used.overlaid(settings, file)?)?;
        let from = from.map(|id| self.readable(id)).transpose()?;
        let choice = CandidateChoice {
            snapshot: from,
            learns: Some(learns),
            variant,
            share,
            note,
            at_ms: self.clock.now_ms(),
        };
        self.candidate(CandidateRequest::Start(choice))?;
        self.run.get().requests.request_snapshot();
        let report = self.run.get().status.candidate();
        let memory = report
            .and_then(|report| report.learner)
            .map(|learner| learner.memory.to_string());
        let also = memory.map(|memory| format!("memory of the second learner: {memory}"));
        Ok((from, also.into_iter().collect()))
    }

    /// Makes the candidate what serves and learns. The snapshot that follows makes it durable; before it, a crash leaves
    /// the candidate a candidate.
    pub(super) fn promote(&self, note: String) -> anyhow::Result<Changed> {
        self.check_running()?;
        let choice = CandidateChoice::read(&self.store)?;
        if choice.is_some_and(|choice| choice.learns.is_some()) {
            // Its state and that of the serving learner meet at the end of the stages; those that follow have its model.
            let (config, clock) = (Arc::clone(&self.config), Arc::clone(&self.clock));
            let also = self.restart(move |store| {
                let (_, also) = promote_second(store, &config, &note, clock.now_ms())?;
                Ok(also)
            })?;
            return Ok((self.run.get().control.latest(), also));
        }
        let pinned = self.store.alias(Alias::Pinned)?;
        self.candidate(CandidateRequest::Promote(note.clone()))?;
        let written = self.run.get().requests.snapshot_now(TIMEOUT).context(
            "the candidate serves and learning continues from it, but the snapshot after it was not written: a crash \
             before the next one makes it the candidate again",
        )?;
        CandidateChoice::end(&self.store, "promoted", self.clock.now_ms())?;
        Ok((
            Some(written),
            unpin(&self.store, pinned, &note, self.clock.now_ms())?,
        ))
    }

    pub(super) fn stop_candidate(&self, note: String) -> anyhow::Result<Changed> {
        self.candidate(CandidateRequest::Stop(note))?;
        Ok((None, Vec::new()))
    }

    fn candidate(&self, request: CandidateRequest) -> anyhow::Result<()> {
        self.request(LearnerRequest::Candidate(request))
    }
}
