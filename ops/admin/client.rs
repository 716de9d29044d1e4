//! The command line's side of the admin socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use super::protocol::{AdminReply, AdminRequest, MAX_LINE_BYTES};

/// How long a daemon may take: writing a snapshot of some GB is the slowest it is asked for.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection to a running daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

impl Client {
    /// Connects to the daemon behind `path`; `None` when no daemon runs there.
    pub fn connect(path: &Path) -> anyhow::Result<Option<Self>> {
        let stream = match UnixStream::connect(path) {
            Ok(stream) => stream,
            // No file, or a file that a dead daemon left.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot connect to the admin socket {}", path.display()));
            }
        };
        let limited = stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        limited.with_context(|| format!("cannot use the admin socket {}", path.display()))?;
        Ok(Some(Self {
            stream: BufReader::new(stream),
            path: path.to_owned(),
        }))
    }

    /// Asks, and waits for the answer.
    pub fn ask(&mut self, request: &AdminRequest) -> anyhow::Result<AdminReply> {
        let place = || {
            format!(
                "cannot talk to the daemon on the admin socket {}",
                self.path.display()
            )
        };
        let mut text = serde_json::to_vec(request).with_context(place)?;
        text.push(b'\n');
        self.stream.get_mut().write_all(&text).with_context(place)?;
        let mut line = String::new();
        (&mut self.stream)
            .take(MAX_LINE_BYTES)
            .read_line(&mut line)
            .with_context(place)?;
        if line.is_empty() {
            bail!(
                "the daemon on the admin socket {} hung up without an answer",
                self.path.display()
            );
        }
        serde_json::from_str(&line).with_context(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_no_daemon_runs_there_is_no_client() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        assert!(Client::connect(&path).unwrap().is_none());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(Client::connect(&path).unwrap().is_none());
    }
}
