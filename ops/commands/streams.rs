//! What became of every record of a run, stream by stream, and what is wrong with a log that cannot be learned.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use ouzel_ingest::accounts::{Accounts, StreamAccount};
use ouzel_ingest::join::Counters;
use ouzel_ingest::{ActionCounts, CatalogCounts};
use ouzel_sample::Stream;

use crate::config::Config;
use crate::log_problems::{CAUSES, listed, rejected_problem, unmatched_problem};

/// The records of one stream by what became of them.
#[derive(Debug, Default, Serialize)]
pub(crate) struct StreamFigures {
    /// Records, or rows of files, read.
    pub read: u64,
    /// Records by what became of them; they add up to `read`.
    pub records: BTreeMap<String, u64>,
    /// The first record of each reason for a rejection: its coordinates and what is wrong.
    pub first: BTreeMap<String, String>,
    /// Events of the used records by what became of them.
    pub events: BTreeMap<String, u64>,
    /// Positives whose value was below 0 or beyond `value_cap`, and was clamped.
    pub clamped_values: u64,
    /// Fields that nothing reads, by name.
    pub unread_fields: BTreeMap<String, u64>,
    /// Actions of no task, by name.
    pub unused_actions: BTreeMap<String, u64>,
}

/// The accounts of a run.
#[derive(Debug, Serialize)]
pub(crate) struct StreamReport {
    /// Figures by stream.
    pub streams: BTreeMap<&'static str, StreamFigures>,
    /// What is wrong with the log, one sentence each; empty for a log that can be learned.
    pub problems: Vec<String>,
}

/// The sources of a report.
pub(crate) struct Sources<'a> {
    pub(crate) config: &'a Config,
    /// The accounts of the reader.
    pub(crate) accounts: &'a Accounts,
    /// The counters of the join.
    pub(crate) counters: &'a Counters,
    /// The item events.
    pub(crate) items: CatalogCounts,
    /// The events of users' profiles.
    pub(crate) users: CatalogCounts,
    /// The rows of the users' histories of a folder.
    pub(crate) histories: Option<&'a StreamAccount>,
    /// The actions of a run with immediate labels, which the join does not see.
    pub(crate) immediate: Option<ActionCounts>,
}

impl StreamReport {
    /// The report of a run.
    pub(crate) fn new(sources: &Sources<'_>) -> anyhow::Result<Self> {
        sources.accounts.check().map_err(anyhow::Error::msg)?;
        let mut streams = BTreeMap::new();
        let events = Stream::EVENTS.map(|stream| (stream.name(), Some(stream), sources.accounts.of(stream)));
        let histories = sources
            .histories
            .map(|account| ("user_history", None, account.clone()));
        for (name, stream, account) in events.into_iter().chain(histories) {
            let mut figures = StreamFigures {
                read: account.read,
                events: stream.map_or_else(BTreeMap::new, |stream| sources.events(stream, account.used)),
                unread_fields: account.unread_fields.clone(),
                unused_actions: account.unused_actions.clone(),
                ..StreamFigures::default()
            };
            if stream == Some(Stream::Actions) {
                let tasks = sources.counters.tasks.iter();
                figures.clamped_values = tasks.map(|task| task.values_clamped).sum();
            }
            let fates = [("used", account.used), ("repeated", account.repeated)];
            figures
                .records
                .extend(fates.map(|(name, n)| (name.to_owned(), n)));
            for (reason, rejected) in &account.rejected {
                figures.records.insert((*reason).to_owned(), rejected.count);
                figures.first.insert((*reason).to_owned(), rejected.first.clone());
            }
            streams.insert(name, figures);
        }
        Ok(Self {
            streams,
            problems: sources.problems(),
        })
    }

    /// Impressions and actions that became no event, unneeded ones included.
    pub(crate) fn n_rejected(&self) -> u64 {
        let streams = [Stream::Impressions, Stream::Actions].into_iter();
        let figures = streams.filter_map(|stream| self.streams.get(stream.name()));
        let rejected = figures.flat_map(|figures| &figures.records);
        let rejected = rejected.filter(|(fate, _)| !["used", "repeated"].contains(&fate.as_str()));
        rejected.map(|(_, n)| n).sum()
    }

    /// Writes the streams as lines of a table, problems last.
    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        for (stream, figures) in &self.streams {
            if figures.read == 0 {
                continue;
            }
            let records = named(&figures.records);
            writeln!(out, "  {stream:<12} {} read: {records}", figures.read)?;
            let events = named(&figures.events);
            if !events.is_empty() {
                writeln!(out, "               {events}")?;
            }
            for (reason, first) in &figures.first {
                writeln!(out, "               first {reason}: {first}")?;
            }
            if figures.clamped_values > 0 {
                writeln!(
                    out,
                    "               {} values below 0 or beyond value_cap, which were clamped",
                    figures.clamped_values
                )?;
            }
            if !figures.unused_actions.is_empty() {
                writeln!(
                    out,
                    "               of no task: {}",
                    listed(&figures.unused_actions)
                )?;
            }
            if !figures.unread_fields.is_empty() {
                writeln!(
                    out,
                    "               not learned from: {}",
                    listed(&figures.unread_fields)
                )?;
            }
        }
        self.problems
            .iter()
            .try_for_each(|problem| writeln!(out, "  problem      {problem}"))
    }
}

impl Sources<'_> {
    /// The events of a stream's used records by what became of them.
    fn events(&self, stream: Stream, used: u64) -> BTreeMap<String, u64> {
        let join = self.counters;
        let fates: Vec<(&str, u64)> = match stream {
            Stream::Impressions => {
                let task = join.tasks.first().copied().unwrap_or_default();
                vec![
                    ("positive", task.positive),
                    ("negative", task.negative),
                    ("pending", task.pending),
                    ("late", task.late),
                    ("duplicate", join.duplicate_items),
                    ("excess", join.excess_items),
                ]
            }
            Stream::Actions => match self.immediate {
                // The join sees only the actions that name no request.
                Some(counts) => vec![
                    ("matched", counts.matched + join.matched),
                    ("duplicate", counts.duplicates + join.duplicate_actions),
                    ("late", join.late_actions),
                    ("orphan", counts.orphans()),
                    ("unattributed", join.unattributed),
                    ("before_shown", join.before_shown),
                ],
                None => {
                    let joined = join.actions - join.rejected_actions;
                    vec![
                        ("matched", join.matched),
                        ("duplicate", join.duplicate_actions),
                        ("late", join.late_actions),
                        ("orphan", join.orphans),
                        ("unattributed", join.unattributed),
                        ("before_shown", join.before_shown),
                        ("waiting", join.waiting),
                        // Read with the file, and behind the end of a limited run.
                        ("not_reached", used.saturating_sub(joined)),
                    ]
                }
            },
            stream => {
                let counts = match stream {
                    Stream::Users => self.users,
                    _ => self.items,
                };
                vec![
                    ("stored", counts.stored),
                    ("outdated", counts.outdated),
                    ("deleted", counts.deleted),
                    ("unknown_deletion", counts.unknown_deletions),
                ]
            }
        };
        let fates = fates.into_iter().filter(|(_, n)| *n > 0);
        fates.map(|(name, n)| (name.to_owned(), n)).collect()
    }

    fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = [Stream::Impressions, Stream::Actions, Stream::Items, Stream::Users]
            .into_iter()
            .filter_map(|stream| rejected_problem(stream, &self.accounts.of(stream)))
            .collect();
        problems.extend(self.action_problem());
        problems
    }

    /// What is wrong with the actions as a whole.
    fn action_problem(&self) -> Option<String> {
        let account = self.accounts.of(Stream::Actions);
        let tasks = self.config.task_names().join(", ");
        if account.read == 0 {
            return Some(
                "there are no actions, so every shown item is a negative and nothing can be learned"
                    .to_owned(),
            );
        }
        if account.used == 0 && !account.unused_actions.is_empty() {
            let n: u64 = account.unused_actions.values().sum();
            return Some(format!(
                "{n} actions match no task: {}; the tasks are {tasks}. Name the task after the action in [[join.tasks]], or map \
                 the names: actions = {{ {} = \"{}\" }} in [events.actions]",
                listed(&account.unused_actions),
                account
                    .unused_actions
                    .keys()
                    .next()
                    .map(|name| format!("{name:?}"))
                    .unwrap_or_default(),
                self.config.task_names().first().cloned().unwrap_or_default()
            ));
        }
        let events = self.events(Stream::Actions, account.used);
        let count = |name: &str| events.get(name).copied().unwrap_or(0);
        let unmatched = CAUSES.map(|(name, _)| count(name));
        if let Some(problem) = unmatched_problem(count("matched"), unmatched) {
            return Some(problem);
        }
        let positives = self.counters.tasks.first().map_or(0, |task| task.positive);
        (positives == 0 && account.used > 0).then(|| {
            format!("no shown item has the action of the first task, so nothing can be learned; the tasks are {tasks}")
        })
    }
}

/// Counts as `3 used, 1 late`.
fn named(counts: &BTreeMap<String, u64>) -> String {
    let parts = counts.iter().filter(|(_, n)| **n > 0);
    let parts = parts.map(|(name, n)| format!("{n} {}", name.replace('_', " ")));
    parts.collect::<Vec<_>>().join(", ")
}
