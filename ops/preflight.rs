//! The checks that a daemon makes before it looks at its state or at the broker. `ouzel config check` makes the same.
//!
//! A problem stops the daemon. A warning says what may be otherwise where the daemon runs, or what may surprise.

mod broker;

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;

use ouzel_ingest::check_properties;
use ouzel_learner::Trainer;
use ouzel_sample::settings::KeyError;

use crate::config::{Config, ConfigError};
use crate::pipeline::contents::Contents;

pub(crate) use broker::check_broker;

/// The findings of a check.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// What stops a daemon.
    pub(crate) problems: Vec<KeyError>,
    /// What does not.
    pub(crate) warnings: Vec<KeyError>,
    /// What was not checked, and why.
    pub(crate) notes: Vec<String>,
}

impl Findings {
    pub(crate) fn problem(&mut self, key: &str, message: impl Into<String>) {
        self.problems.push(KeyError::new(key, message));
    }

    fn warning(&mut self, key: &str, message: impl Into<String>) {
        self.warnings.push(KeyError::new(key, message));
    }

    /// Fails if there is a problem; each names its place in the file at `path`.
    pub(crate) fn into_result(self, path: &Path) -> Result<(), ConfigError> {
        if self.problems.is_empty() {
            return Ok(());
        }
        let problems = Config::locate(path, self.problems);
        Err(ConfigError::Invalid { problems })
    }

    /// Adds the findings of another check.
    pub(crate) fn extend(&mut self, other: Self) {
        self.problems.extend(other.problems);
        self.warnings.extend(other.warnings);
        self.notes.extend(other.notes);
    }

    /// The warnings, a line each.
    pub(crate) fn warning_lines(&self) -> impl Iterator<Item = String> {
        let line = |found: &KeyError| format!("{}: {}", found.key, found.message);
        self.warnings.iter().map(line)
    }
}

/// Checks a configuration that has no invalid value on its own, as the daemon does at its start.
pub(crate) fn preflight(config: &Config) -> Findings {
    let mut findings = Findings::default();
    properties(config, &mut findings);
    encoders(config, &mut findings);
    model(config, &mut findings);
    addresses(config, &mut findings);
    directories(config, &mut findings);
    findings
}

/// The properties of Kafka clients, with a stand-in for each secret that this machine lacks.
fn properties(config: &Config, findings: &mut Findings) {
    let (kafka, unresolved) = config.kafka_config_to_check();
    for error in unresolved {
        findings.warning("kafka.properties", format!("{error} on this machine"));
    }
    if let Err(error) = check_properties(&kafka) {
        findings.problem("kafka.properties", error.to_string());
    }
    if let Err(error) = config.record_formats() {
        findings.problem("kafka.schema_registry", format!("{error:#}"));
    }
    if config.serving.events_listen.is_some()
        && let Err(error) = config.event_producer(&kafka)
    {
        findings.problem("kafka.properties", error.to_string());
    }
}

fn encoders(config: &Config, findings: &mut Findings) {
    if let Err(error) = Contents::load_encoders(config) {
        findings.problem("content", format!("{error:#}"));
    }
    let content = &config.content;
    if content.image_encoder != Path::new("") && !content.image_root.is_dir() {
        let root = content.image_root.display();
        findings.warning(
            "content.image_root",
            format!("{root} is no folder on this machine: items have no pictures"),
        );
    }
}

/// The model and its learner, made as for a new lineage.
fn model(config: &Config, findings: &mut Findings) {
    if let Err(error) = Trainer::new(config.model_config(), config.learner_config()) {
        findings.problem("model", format!("cannot be made: {error}"));
    }
}

/// Two listeners on one address, and addresses that this machine lacks.
fn addresses(config: &Config, findings: &mut Findings) {
    let (scoring, events, tier) = (
        config.serving.listen,
        config.serving.events_listen,
        config.tier.listen,
    );
    if let Some(events) = events
        && events != scoring
        && collide(events, scoring)
    {
        let message = format!(
            "is {events}, and serving.listen is {scoring}: two listeners cannot share a port; choose another, or the same \
             address to share the scoring port"
        );
        findings.problem("serving.events_listen", message);
    }
    for (key, other) in [
        ("serving.listen", Some(scoring)),
        ("serving.events_listen", events),
    ] {
        let Some((tier, other)) = tier.zip(other).filter(|(tier, other)| collide(*tier, *other)) else {
            continue;
        };
        let message = format!(
            "is {tier}, and {key} is {other}: `ouzel join` and the daemon cannot both listen there on one machine"
        );
        findings.warning("tier.listen", message);
    }
    let listeners = [
        ("serving.listen", Some(scoring)),
        ("serving.events_listen", events),
    ];
    for (key, address) in listeners.into_iter().filter_map(|(key, at)| Some((key, at?))) {
        // Any port will do: the one named may be in use by the daemon that the check is for.
        if let Err(error) = std::net::TcpListener::bind(SocketAddr::new(address.ip(), 0)) {
            findings.warning(
                key,
                format!("cannot listen on {} on this machine: {error}", address.ip()),
            );
        }
    }
}

/// True if two listeners on these addresses get in each other's way.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let is_any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.port() != 0 && (is_any || one.ip() == other.ip())
}

fn directories(config: &Config, findings: &mut Findings) {
    let mut check = |key: &str, dir: &Path| {
        if let Err(why) = check_writable(dir) {
            let dir = dir.display();
            findings.problem(
                key,
                format!("{dir} cannot be used: {why}; choose another or create it"),
            );
        }
    };
    check("snapshot.dir", &config.snapshot.dir);
    if config.local_dir() != config.snapshot.dir {
        check("snapshot.local_dir", config.local_dir());
    }
    if config.content.text_encoder != Path::new("") || config.content.image_encoder != Path::new("") {
        check("content.vector_dir", &config.vector_dir());
    }
    if let Some(folder) = config.admin.socket.as_deref().and_then(Path::parent)
        && folder != Path::new("")
        && !folder.is_dir()
    {
        let message = format!("cannot be made: {} is no folder; create it", folder.display());
        findings.problem("admin.socket", message);
    }
}

/// Whether a file can be made in `dir`, or `dir` itself in the nearest folder above it that exists.
fn check_writable(dir: &Path) -> Result<(), String> {
    let dir = std::path::absolute(dir).map_err(|error| error.to_string())?;
    let mut above = dir.ancestors();
    let existing = above
        .find(|folder| fs::symlink_metadata(folder).is_ok())
        .ok_or_else(|| "no folder above it exists".to_owned())?;
    if !existing.is_dir() {
        return Err(format!("{} is not a folder", existing.display()));
    }
    let probe = existing.join(".ouzel-check");
    match fs::File::create(&probe).and_then(|_| fs::remove_file(&probe)) {
        Ok(()) => Ok(()),
        // A daemon waits for a full disk.
        Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => Ok(()),
        Err(error) => Err(format!(
            "nothing can be written to {}: {error}",
            existing.display()
        )),
    }
}

#[cfg(test)]
mod tests;
