//! The output formats that commands share: tables, JSON and figures.

use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use ouzel_learner::validation::Figures;

/// Writes columns as wide as their widest cell, two spaces apart.
pub(super) fn table(rows: &[Vec<String>], out: &mut dyn Write) -> io::Result<()> {
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..n_columns).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// A row of cells.
pub(super) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// Writes one indented JSON document.
pub(super) fn json(value: &impl serde::Serialize, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "{}", serde_json::to_string_pretty(value)?)?;
    Ok(())
}

/// The text of a value, or a dash.
pub(super) fn or_dash<T>(value: Option<T>, text: impl Fn(T) -> String) -> String {
    value.map_or("-".to_owned(), text)
}

/// A time in UTC, or "unknown".
pub(super) fn time(ms: i64) -> String {
    /// 9999-12-31, the last day that RFC 3339 can express.
    const LAST_MS: u64 = 253_402_300_799_000;
    match u64::try_from(ms) {
        Ok(ms) if ms <= LAST_MS => {
            humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
        }
        _ => "unknown".to_owned(),
    }
}

/// A validation figure with four decimals, or a dash of the same width.
pub(super) fn figure(value: Option<f64>) -> String {
    value.map_or("  -   ".to_owned(), |value| format!("{value:.4}"))
}

/// AUC, per-request AUC, normalised entropy and calibration.
pub(super) fn figures(figures: &Figures) -> String {
    [figures.auc, figures.gauc, figures.ne, figures.calibration]
        .map(figure)
        .join("  ")
}
