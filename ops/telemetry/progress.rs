//! How far a long command is, on stderr: a bar with live figures on a terminal, plain lines elsewhere.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a plain line is written.
const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// Redraws of the bar, per second.
const REDRAWS: u8 = 10;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A bar that redraws itself.
    Bar,
    /// A line every few seconds.
    Lines,
}

impl Style {
    /// A bar when a person watches stderr and stdout is not meant for a machine.
    #[must_use]
    pub fn detect(json: bool) -> Self {
        if !json && io::stderr().is_terminal() {
            Self::Bar
        } else {
            Self::Lines
        }
    }
}

/// What is shown beside how far it is. A figure that is not known yet is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Samples learned, count.
    pub samples: u64,
    /// Samples learned a second, of late.
    pub samples_per_second: Option<f64>,
    /// AUC of the progressive validation, of late, in `[0, 1]`.
    pub auc: Option<f64>,
    /// Normalised entropy of the progressive validation, of late; below 1 is better than the prior.
    pub ne: Option<f64>,
    /// Freshness, median, s.
    pub freshness_seconds: Option<f64>,
    /// Snapshots written, count.
    pub snapshots: Option<u64>,
    /// Rank requests answered, count.
    pub requests: Option<u64>,
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
pub struct Progress {
    bar: Option<ProgressBar>,
    lines: Option<Lines>,
}

struct Lines {
    what: String,
    total: Option<u64>,
    last: Instant,
    every: Duration,
    out: Box<dyn Write + Send>,
}

impl Progress {
    /// Progress of `what`, such as `"events"`; `total` when it is known.
    #[must_use]
    pub fn new(what: &str, total: Option<u64>, style: Style) -> Self {
        match style {
            Style::Bar => Self {
                bar: Some(bar(what, total)),
                lines: None,
            },
            Style::Lines => Self::lines(what, total, PLAIN_EVERY, Box::new(io::stderr())),
        }
    }

    fn lines(what: &str, total: Option<u64>, every: Duration, out: Box<dyn Write + Send>) -> Self {
        let lines = Lines {
            what: what.to_owned(),
            total,
            last: Instant::now(),
            every,
            out,
        };
        Self {
            bar: None,
            lines: Some(lines),
        }
    }

    /// Says that `done` are through. Cheap: draws or writes only now and then.
    pub fn update(&mut self, done: u64, figures: &Figures) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(figures.to_string());
        }
        if let Some(lines) = &mut self.lines
            && lines.last.elapsed() >= lines.every
        {
            lines.last = Instant::now();
            lines.write(done, figures);
        }
    }

    /// Takes the bar away, or writes the last line.
    pub fn finish(mut self, done: u64, figures: &Figures) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if let Some(lines) = &mut self.lines {
            lines.write(done, figures);
        }
    }

    /// Writes a line of its own without spoiling the bar.
    pub fn note(&mut self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.suspend(|| say(&mut io::stderr(), text));
        }
        if let Some(lines) = &mut self.lines {
            say(&mut lines.out, text);
        }
    }
}

impl Lines {
    fn write(&mut self, done: u64, figures: &Figures) {
        let done_text = grouped(done);
        let far = match self.total {
            Some(total) if total > 0 => {
                let percent = u128::from(done) * 100 / u128::from(total);
                format!("{done_text} of {} {} ({percent}%)", grouped(total), self.what)
            }
            _ => format!("{done_text} {}", self.what),
        };
        say(&mut self.out, &format!("{far}: {figures}"));
    }
}

fn say(out: &mut impl Write, text: &str) {
    // A closed stderr must not end the work.
    let _written = writeln!(out, "{text}").is_ok();
}

fn bar(what: &str, total: Option<u64>) -> ProgressBar {
    let target = ProgressDrawTarget::stderr_with_hz(REDRAWS);
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::with_draw_target(Some(total), target),
            format!(
                "{{bar:24}} {{human_pos}}/{{human_len}} {what}, {{elapsed}} (about {{eta}} left)  {{wide_msg}}"
            ),
        ),
        None => (
            ProgressBar::with_draw_target(None, target),
            format!("{{spinner}} {{human_pos}} {what}, {{elapsed}}  {{wide_msg}}"),
        ),
    };
    let style = ProgressStyle::with_template(&template).expect("the templates above are well-formed");
    bar.with_style(style)
}

/// `1234567` as `1,234,567`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
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
    fn lines_come_now_and_then_and_at_the_end() {
        let page = Page::default();
        let figures = Figures {
            samples: 1_234,
            auc: Some(0.7712),
            ..Figures::default()
        };
        let hour = Duration::from_secs(3600);
        let mut progress = Progress::lines("events", Some(200_000), hour, Box::new(page.clone()));
        progress.update(1, &figures);
        progress.update(2, &figures);
        assert_eq!(page.text(), "");
        progress.finish(100_000, &figures);
        assert_eq!(
            page.text(),
            "100,000 of 200,000 events (50%): 1,234 samples, AUC 0.771\n"
        );

        let page = Page::default();
        let mut progress = Progress::lines("events", None, Duration::ZERO, Box::new(page.clone()));
        progress.update(7, &Figures::default());
        progress.note("half time");
        assert_eq!(page.text(), "7 events: 0 samples\nhalf time\n");
    }

    #[test]
    fn every_figure_that_is_known_is_shown() {
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
