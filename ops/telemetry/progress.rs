//! The progress of a long command on stderr: a bar on a terminal, a line every few seconds elsewhere.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between two lines.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Redraws of the bar per second.
const REDRAWS: u8 = 10;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// A bar that redraws itself.
    Bar,
    /// A line every few seconds.
    Lines,
}

impl Style {
    /// A bar if stderr is a terminal and stdout is not JSON.
    pub(crate) fn detect(json: bool) -> Self {
        if !json && io::stderr().is_terminal() {
            Self::Bar
        } else {
            Self::Lines
        }
    }
}

/// Figures shown beside the progress. Unknown figures are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    /// Samples learned.
    pub(crate) samples: u64,
    pub(crate) samples_per_second: Option<f64>,
    /// AUC of the progressive validation over its window.
    pub(crate) auc: Option<f64>,
    /// Normalised entropy of the progressive validation over its window.
    pub(crate) ne: Option<f64>,
    /// Median freshness.
    pub(crate) freshness_seconds: Option<f64>,
    /// Snapshots written.
    pub(crate) snapshots: Option<u64>,
    /// Rank requests answered.
    pub(crate) requests: Option<u64>,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} samples", grouped(self.samples))?;
        if let Some(rate) = self.samples_per_second {
            write!(f, ", {rate:.0}/s")?;
        }
        if let Some(auc) = self.auc {
            write!(f, ", AUC {auc:.3}")?;
        }
        if let Some(ne) = self.ne {
            write!(f, ", NE {ne:.3}")?;
        }
        if let Some(freshness) = self.freshness_seconds {
            write!(f, ", fresh in {freshness:.2} s")?;
        }
        if let Some(snapshots) = self.snapshots {
            write!(f, ", {snapshots} snapshots")?;
        }
        if let Some(requests) = self.requests {
            write!(f, ", {} requests", grouped(requests))?;
        }
        Ok(())
    }
}

/// The progress of one command.
pub(crate) enum Progress {
    Bar(ProgressBar),
    Lines {
        what: String,
        total: Option<u64>,
        last: Instant,
        every: Duration,
        out: Box<dyn Write + Send>,
    },
}

impl Progress {
    /// Progress in units of `what`, such as `"events"`, up to `total` if it is known.
    pub(crate) fn new(what: &str, total: Option<u64>, style: Style) -> Self {
        match style {
            Style::Bar => Self::Bar(bar(what, total)),
            Style::Lines => lines(what, total, LINE_EVERY, Box::new(io::stderr())),
        }
    }

    /// Shows that `done` units are done. Cheap: it draws or writes at intervals.
    pub(crate) fn update(&mut self, done: u64, figures: &Figures) {
        match self {
            Self::Bar(bar) => {
                bar.set_position(done);
                bar.set_message(figures.to_string());
            }
            Self::Lines { last, every, .. } if last.elapsed() >= *every => {
                *last = Instant::now();
                self.write(done, figures);
            }
            Self::Lines { .. } => {}
        }
    }

    /// Removes the bar, or writes the last line.
    pub(crate) fn finish(mut self, done: u64, figures: &Figures) {
        match &self {
            Self::Bar(bar) => bar.finish_and_clear(),
            Self::Lines { .. } => self.write(done, figures),
        }
    }

    /// Writes a line of text without damaging the bar.
    pub(crate) fn note(&mut self, text: &str) {
        match self {
            Self::Bar(bar) => bar.suspend(|| write_line(&mut io::stderr(), text)),
            Self::Lines { out, .. } => write_line(out, text),
        }
    }

    /// Writes a progress line; a bar has none.
    fn write(&mut self, done: u64, figures: &Figures) {
        let Self::Lines { what, total, out, .. } = self else {
            return;
        };
        let done_text = grouped(done);
        let progress = match *total {
            Some(total) if total > 0 => {
                let percent = u128::from(done) * 100 / u128::from(total);
                format!("{done_text} of {} {what} ({percent}%)", grouped(total))
            }
            _ => format!("{done_text} {what}"),
        };
        write_line(out, &format!("{progress}: {figures}"));
    }
}

fn lines(what: &str, total: Option<u64>, every: Duration, out: Box<dyn Write + Send>) -> Progress {
    Progress::Lines {
        what: what.to_owned(),
        total,
        last: Instant::now(),
        every,
        out,
    }
}

fn write_line(out: &mut impl Write, text: &str) {
    // A closed stderr must not end the command.
    let _is_written = writeln!(out, "{text}").is_ok();
}

fn bar(what: &str, total: Option<u64>) -> ProgressBar {
    let target = ProgressDrawTarget::stderr_with_hz(REDRAWS);
    let template = match total {
        Some(_) => format!(
            "{{bar:24}} {{human_pos}}/{{human_len}} {what}, {{elapsed}} (about {{eta}} left)  {{wide_msg}}"
        ),
        None => format!("{{spinner}} {{human_pos}} {what}, {{elapsed}}  {{wide_msg}}"),
    };
    let style = ProgressStyle::with_template(&template).expect("the templates above are well-formed");
    ProgressBar::with_draw_target(total, target).with_style(style)
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Page {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn lines_are_written_at_intervals_and_at_the_end() {
        let page = Page::default();
        let figures = Figures {
            samples: 1_234,
            auc: Some(0.7712),
            ..Figures::default()
        };
        let hour = Duration::from_secs(3600);
        let mut progress = lines("events", Some(200_000), hour, Box::new(page.clone()));
        progress.update(1, &figures);
        progress.update(2, &figures);
        assert_eq!(page.text(), "");
        progress.finish(100_000, &figures);
        assert_eq!(
            page.text(),
            "100,000 of 200,000 events (50%): 1,234 samples, AUC 0.771\n"
        );

        let page = Page::default();
        let mut progress = lines("events", None, Duration::ZERO, Box::new(page.clone()));
        progress.update(7, &Figures::default());
        progress.note("half time");
        assert_eq!(page.text(), "7 events: 0 samples\nhalf time\n");
    }

    #[test]
    fn every_known_figure_is_shown() {
        let figures = Figures {
            samples: 1_000_000,
            samples_per_second: Some(10_499.6),
            auc: Some(0.5),
            ne: Some(0.9),
            freshness_seconds: Some(0.456),
            snapshots: Some(3),
            requests: Some(1_000),
        };
        assert_eq!(
            figures.to_string(),
            "1,000,000 samples, 10500/s, AUC 0.500, NE 0.900, fresh in 0.46 s, 3 snapshots, 1,000 requests"
        );
    }

    #[test]
    fn the_bar_is_well_formed_with_and_without_a_total() {
        for total in [Some(10), None] {
            let mut progress = Progress::new("events", total, Style::Bar);
            progress.update(5, &Figures::default());
            progress.finish(10, &Figures::default());
        }
    }
}
