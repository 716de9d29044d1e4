//! The client of the admin socket, for the command line.

use std::io::ErrorKind::{ConnectionRefused, NotFound};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use super::protocol::{AdminReply, AdminRequest, MAX_LINE_BYTES};

/// Longest wait for an answer. The slowest request writes a snapshot, of up to some GB.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// A connection to a running daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

impl Client {
    /// Connects to the daemon that serves the socket `path`; `None` if none does.
    pub fn connect(path: &Path) -> anyhow::Result<Option<Self>> {
        let failed = || format!("cannot connect to the admin socket {}", path.display());
        let stream = match UnixStream::connect(path) {
            // There is no file, or the file of a dead daemon.
            Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => return Ok(None),
            connected => connected.with_context(failed)?,
        };
        stream
            .set_read_timeout(Some(ANSWER_TIMEOUT))
            .with_context(failed)?;
        stream
            .set_write_timeout(Some(ANSWER_TIMEOUT))
            .with_context(failed)?;
        Ok(Some(Self {
            stream: BufReader::new(stream),
            path: path.to_owned(),
        }))
    }

    /// Sends a request and waits for the reply.
    pub fn send(&mut self, request: &AdminRequest) -> anyhow::Result<AdminReply> {
        let failed = || {
            format!(
                "cannot use the admin socket {} of the daemon",
                self.path.display()
            )
        };
        let mut text = serde_json::to_vec(request).with_context(failed)?;
        text.push(b'\n');
        self.stream.get_mut().write_all(&text).with_context(failed)?;
        let mut line = String::new();
        (&mut self.stream)
            .take(MAX_LINE_BYTES)
            .read_line(&mut line)
            .with_context(failed)?;
        if line.is_empty() {
            bail!(
                "the daemon on the admin socket {} closed the connection without an answer",
                self.path.display()
            );
        }
        serde_json::from_str(&line).with_context(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_client_without_a_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        assert!(Client::connect(&path).unwrap().is_none());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(Client::connect(&path).unwrap().is_none());
    }
}
