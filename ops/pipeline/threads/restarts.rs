//! Starts the stages again: from another snapshot when an operator goes back, and once a log can be read that could not
//! be read at the start.

use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::anyhow;

use super::Running;
use crate::pipeline::control::Control;
use crate::pipeline::run::{RunHandles, STAGES, StoreChange};
use crate::pipeline::spec::{Parts, PipelineSpec};
use crate::supervisor::{Shutdown, Waited};

/// Time between two looks at the requests for new stages.
const RESTART_POLL: Duration = Duration::from_millis(20);

/// Time between two attempts to read a log that could not be read at the start.
const LOG_RETRY: Duration = Duration::from_secs(2);

impl<'a> Running<'a> {
    /// Refuses to start the stages again: the log cannot be read twice.
    pub fn refuse_restarts(&mut self) {
        (self.to_restart, self.restarts) = channel();
    }

    /// Waits until every thread has ended. Starts the stages again, from what `make_spec` returns, as often as the admin
    /// socket asks for it. Fails if a failed thread stopped the process.
    pub fn wait(mut self, make_spec: &dyn Fn() -> anyhow::Result<PipelineSpec<'a>>) -> anyhow::Result<()> {
        while self.run.get().no_log.is_some() && !self.process.shutdown.wait_timeout(LOG_RETRY) {
            let tried = self.try_log(make_spec);
            if tried.is_err() {
                self.process.shutdown.trigger();
                self.process.wait()?;
                return tried;
            }
        }
        while self.process.supervisor.wait_for(&STAGES, RESTART_POLL) == Waited::TimedOut {
            let Ok(restart) = self.restarts.try_recv() else {
                continue;
            };
            // The caller may have given up waiting.
            let answer = |result| restart.reply.send(result).is_ok();
            match self.restart(restart.change, make_spec) {
                Ok(changed) => {
                    let _is_received = answer(changed);
                }
                Err(error) => {
                    let _is_received = answer(Err(anyhow!("{error:#}")));
                    self.process.shutdown.trigger();
                    self.process.wait()?;
                    return Err(error.context("the stages could not start again"));
                }
            }
        }
        self.process.wait()
    }

    /// Ends the stages, changes the store, and starts stages that resume from it. Returns the result of the change.
    ///
    /// Fails if the stages cannot start.
    fn restart(
        &mut self,
        change: StoreChange,
        make_spec: &dyn Fn() -> anyhow::Result<PipelineSpec<'a>>,
    ) -> anyhow::Result<anyhow::Result<Vec<String>>> {
        tracing::info!("ending the stages, to start them again from another state");
        self.stop_stages.trigger();
        while self.process.supervisor.wait_for(&STAGES, RESTART_POLL) != Waited::Ended {
            if self.process.shutdown.is_triggered() {
                return Ok(Err(anyhow!("the process is stopping: nothing was changed")));
            }
        }
        let changed = change(&self.store);
        self.start_run(make_spec()?.build(Some(&self.store))?)?;
        tracing::info!("the stages run again");
        Ok(changed)
    }

    /// Starts the stages if the log can be read again.
    fn try_log(&mut self, make_spec: &dyn Fn() -> anyhow::Result<PipelineSpec<'a>>) -> anyhow::Result<()> {
        match make_spec()?.build(Some(&self.store)) {
            Ok(parts) => {
                self.start_run(parts)?;
                tracing::info!("the log can be read again: learning goes on");
                Ok(())
            }
            Err(error) if error.is::<ouzel_ingest::Error>() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn start_run(&mut self, parts: Parts) -> anyhow::Result<()> {
        let control = Control::new(parts.resumed_from);
        let (to_learner, from_admin) = channel();
        self.stop_stages = Shutdown::new();
        self.run
            .set(RunHandles::new(&parts, &control, to_learner, &self.to_restart));
        self.stages(parts, control, from_admin)
    }
}
