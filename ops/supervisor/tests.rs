//! Tests the supervisor with fake tasks.

use std::sync::mpsc::sync_channel;

use super::*;

const LONG: Duration = Duration::from_secs(30);

fn listener(shutdown: &Shutdown) -> impl FnOnce() -> anyhow::Result<()> + Send + 'static {
    let shutdown = shutdown.clone();
    move || match shutdown.wait_timeout(LONG) {
        true => Ok(()),
        false => Err(anyhow!("no shutdown within the limit")),
    }
}

fn failing() -> anyhow::Result<()> {
    Err(anyhow!("failed on purpose"))
}

#[test]
fn records_in_flight_at_shutdown_are_drained_stage_by_stage() {
    let shutdown = Shutdown::new();
    let mut supervisor = Supervisor::new(shutdown.clone());
    let (to_join, from_poll) = sync_channel::<u64>(4);
    let (to_learner, from_join) = sync_channel::<u64>(4);
    let (report, total) = sync_channel::<(u64, u64)>(1);
    let token = shutdown.clone();
    supervisor
        .spawn(Task::Poll, move || {
            let mut sum = 0;
            for n in 1.. {
                if token.is_triggered() {
                    break;
                }
                to_join.send(n)?;
                sum += n;
                if n == 1_000 {
                    token.trigger();
                }
            }
            report.send((sum, 0))?;
            Ok(())
        })
        .unwrap();
    supervisor
        .spawn(Task::Join, move || {
            for n in from_poll {
                to_learner.send(n)?;
            }
            Ok(())
        })
        .unwrap();
    let (done, learned) = sync_channel::<u64>(1);
    supervisor
        .spawn(Task::Learner, move || {
            done.send(from_join.into_iter().sum())?;
            Ok(())
        })
        .unwrap();
    supervisor.wait().into_result().unwrap();
    assert_eq!(learned.recv().unwrap(), total.recv().unwrap().0);
}

/// Runs `task` with `body` beside a listener. Returns whether its end stopped the process, and the message.
fn outcome_of(
    task: Task,
    body: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> (bool, Option<String>) {
    let shutdown = Shutdown::new();
    let mut supervisor = Supervisor::new(shutdown.clone());
    let beside = if task == Task::Http {
        Task::Admin
    } else {
        Task::Http
    };
    supervisor.spawn(beside, listener(&shutdown)).unwrap();
    supervisor.spawn(task, body).unwrap();
    let is_others_running = supervisor.wait_for(&[task], LONG) == Waited::Ended;
    if is_others_running {
        assert!(supervisor.is_running(beside), "{task}: the others stopped");
        shutdown.trigger();
    }
    let outcome = supervisor.wait();
    let message = outcome
        .others
        .first()
        .map(|failure| format!("{:#}", failure.error));
    match outcome.into_result() {
        Ok(()) => (false, message),
        Err(error) => (true, Some(format!("{error:#}"))),
    }
}

#[test]
fn every_error_and_every_end_follows_the_policy_of_its_task() {
    let text = |text: &str| Some(text.to_owned());
    for task in [
        Task::Poll,
        Task::Join,
        Task::Learner,
        Task::Http,
        Task::Feeder,
        Task::Scorer(0),
    ] {
        let expected = format!("the {task} task failed: failed on purpose");
        assert_eq!(outcome_of(task, failing), (true, Some(expected)), "{task}");
    }
    for task in [Task::Snapshot, Task::Admin, Task::Caller, Task::Telemetry] {
        assert_eq!(
            outcome_of(task, failing),
            (false, text("failed on purpose")),
            "{task}"
        );
    }
    for task in [
        Task::Poll,
        Task::Join,
        Task::Learner,
        Task::Snapshot,
        Task::Scorer(0),
        Task::Feeder,
    ] {
        assert_eq!(outcome_of(task, || Ok(())), (false, None), "{task}");
    }
    let early = "the http task failed: ended before the shutdown";
    assert_eq!(outcome_of(Task::Http, || Ok(())), (true, text(early)));
    assert_eq!(
        outcome_of(Task::Admin, || Ok(())),
        (false, text("ended before the shutdown"))
    );
}

#[test]
fn a_panic_is_the_error_of_its_task() {
    let (stopped, message) = outcome_of(Task::Learner, || panic!("row {} is gone", 7));
    assert!(stopped);
    assert_eq!(
        message.unwrap(),
        "the learner task failed: panicked: row 7 is gone"
    );
}

#[test]
fn one_scorer_may_fail_and_the_last_may_not() {
    let shutdown = Shutdown::new();
    let mut supervisor = Supervisor::new(shutdown.clone());
    let (close, input) = sync_channel::<()>(1);
    supervisor.spawn(Task::Scorer(0), failing).unwrap();
    supervisor
        .spawn(Task::Scorer(1), move || {
            input.recv()?;
            failing()
        })
        .unwrap();
    assert_eq!(supervisor.wait_for(&[Task::Scorer(0)], LONG), Waited::Ended);
    assert!(!shutdown.is_triggered());
    close.send(()).unwrap();
    assert_eq!(
        supervisor.wait_for(&[Task::Http, Task::Scorer(1)], LONG),
        Waited::Stopping
    );
    let outcome = supervisor.wait();
    assert_eq!(outcome.fatal.unwrap().task, Task::Scorer(1));
    assert_eq!(outcome.others.len(), 1);
}

#[test]
fn the_first_fatal_failure_is_the_cause() {
    let mut supervisor = Supervisor::new(Shutdown::new());
    let (samples, from_join) = sync_channel::<()>(0);
    supervisor
        .spawn(Task::Learner, move || {
            let _input = from_join;
            Err(anyhow!("loss is not finite"))
        })
        .unwrap();
    assert_eq!(supervisor.wait_for(&[Task::Learner], LONG), Waited::Stopping);
    supervisor
        .spawn(Task::Join, move || {
            samples.send(()).context("the learner is gone")
        })
        .unwrap();
    let outcome = supervisor.wait();
    assert_eq!(outcome.fatal.as_ref().unwrap().task, Task::Learner);
    assert_eq!(outcome.others.len(), 1);
    assert!(outcome.into_result().is_err());
}

#[test]
fn a_task_runs_once_at_a_time() {
    let mut supervisor = Supervisor::new(Shutdown::new());
    supervisor.spawn(Task::Poll, || Ok(())).unwrap();
    assert!(supervisor.spawn(Task::Poll, || Ok(())).is_err());
    assert!(supervisor.wait().fatal.is_none());
}
