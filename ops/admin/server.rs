//! The server of the admin socket, in the daemon.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tracing::{info, warn};

use super::protocol::{AdminReply, AdminRequest, MAX_LINE_BYTES};
use crate::supervisor::Shutdown;

/// Time between two looks for a connection.
const ACCEPT_POLL: Duration = Duration::from_millis(50);
/// Longest silence of a client before its connection is closed, so that the next client is served.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);

/// A bound admin socket. Dropping it removes the file.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Binds `path` with mode 0600. Replaces a socket that does not answer, which a crash left there.
    ///
    /// # Errors
    /// If another process answers at `path`, or if it is no socket.
    pub fn bind(path: &Path) -> anyhow::Result<Self> {
        let failed = || format!("cannot create the admin socket {}", path.display());
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(failed),
            Ok(metadata) if !metadata.file_type().is_socket() => {
                bail!(
                    "cannot create the admin socket: {} exists and is no socket",
                    path.display()
                );
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                bail!(
                    "another ouzel is running: it answers on the admin socket {}",
                    path.display()
                );
            }
            Ok(_) => {}
        }
        // Bound under another name, so that no client can connect before its mode is set.
        let new = path.with_added_extension("new");
        if let Err(error) = fs::remove_file(&new)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error).with_context(failed);
        }
        let socket = UnixListener::bind(&new).with_context(failed)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).with_context(failed)?;
        socket.set_nonblocking(true).with_context(failed)?;
        fs::rename(&new, path).with_context(failed)?;
        Ok(Self {
            socket,
            path: path.to_owned(),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            warn!(path = %self.path.display(), %error, "cannot remove the admin socket");
        }
    }
}

/// Answers requests with `handler`, one client at a time, until the shutdown.
pub fn serve(
    listener: &Listener,
    shutdown: &Shutdown,
    handler: impl Fn(AdminRequest) -> AdminReply,
) -> anyhow::Result<()> {
    while !shutdown.is_triggered() {
        match listener.socket.accept() {
            Ok((stream, _)) => {
                // An error of one client must not affect the next one.
                if let Err(error) = serve_client(&stream, shutdown, &handler) {
                    warn!(%error, "admin connection closed");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                shutdown.wait_timeout(ACCEPT_POLL);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("cannot accept on the admin socket {}", listener.path.display())
                });
            }
        }
    }
    Ok(())
}

/// Answers one client until it closes the connection.
fn serve_client(
    stream: &UnixStream,
    shutdown: &Shutdown,
    handler: &impl Fn(AdminRequest) -> AdminReply,
) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let mut reader = BufReader::new(stream);
    while !shutdown.is_triggered() {
        let mut line = Vec::new();
        let n_bytes = (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
        if n_bytes == 0 {
            return Ok(());
        }
        let is_complete = line.ends_with(b"\n");
        let reply = match serde_json::from_slice::<AdminRequest>(&line) {
            Ok(request) => {
                let fields = serde_json::to_value(&request)?;
                let field = |name| fields.get(name).and_then(Value::as_str);
                info!(
                    request = field("ask"),
                    snapshot = field("id"),
                    note = field("note"),
                    "admin request"
                );
                handler(request)
            }
            Err(error) => AdminReply::refused(format!("cannot read the admin request: {error}")),
        };
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        (&mut &*stream).write_all(&text)?;
        if !is_complete {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::thread;

    use super::*;
    use crate::admin::{Client, LearnFrom, Status};

    fn handler(request: AdminRequest) -> AdminReply {
        match request {
            AdminRequest::Status => AdminReply::Status(Box::new(Status {
                samples: 7,
                ..Status::default()
            })),
            AdminRequest::Rollback { id, .. } => AdminReply::Done {
                snapshot: Some(id),
                also: Vec::new(),
            },
            _ => AdminReply::refused("not in this test"),
        }
    }

    /// Calls `use_client` with the path of a served socket.
    fn with_server(use_client: impl FnOnce(&Path)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let shutdown = Shutdown::new();
        let listener = Listener::bind(&path).unwrap();
        thread::scope(|scope| {
            let server = scope.spawn(|| serve(&listener, &shutdown, handler));
            use_client(&path);
            shutdown.trigger();
            server.join().unwrap().unwrap();
        });
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn every_request_of_every_client_is_answered() {
        with_server(|path| {
            for _ in 0..2 {
                let mut client = Client::connect(path).unwrap().unwrap();
                let AdminReply::Status(status) = client.send(&AdminRequest::Status).unwrap() else {
                    panic!()
                };
                assert_eq!(status.samples, 7);
                let reply = client
                    .send(&AdminRequest::Rollback {
                        id: "a".to_owned(),
                        from: LearnFrom::Now,
                        note: String::new(),
                    })
                    .unwrap();
                assert_eq!(
                    reply,
                    AdminReply::Done {
                        snapshot: Some("a".to_owned()),
                        also: Vec::new(),
                    }
                );
                assert!(matches!(
                    client.send(&AdminRequest::Unpin { note: String::new() }).unwrap(),
                    AdminReply::Refused { .. }
                ));
            }
        });
    }

    #[test]
    fn a_malformed_request_is_refused_and_the_next_one_answered() {
        with_server(|path| {
            let stream = UnixStream::connect(path).unwrap();
            let mut lines = BufReader::new(&stream).lines();
            for (text, expected) in [
                ("{\"ask\":\"status\",\"x\":1}\n", "\"reply\":"),
                ("{}\n", "cannot read the admin request"),
                ("\u{1}\n", "cannot read the admin request"),
                ("{\"ask\":\"status\"}\n", "\"samples\":7"),
            ] {
                (&mut &stream).write_all(text.as_bytes()).unwrap();
                let reply = lines.next().unwrap().unwrap();
                assert!(reply.contains(expected), "{text:?}: {reply}");
            }
        });
    }

    #[test]
    fn a_line_beyond_the_limit_closes_the_connection() {
        with_server(|path| {
            let stream = UnixStream::connect(path).unwrap();
            let line = vec![b'x'; usize::try_from(MAX_LINE_BYTES).unwrap()];
            (&mut &stream).write_all(&line).unwrap();
            let mut text = String::new();
            (&mut &stream).read_to_string(&mut text).unwrap();
            assert!(text.contains("refused"), "{text}");
        });
    }

    #[test]
    fn only_the_owner_can_open_the_socket() {
        with_server(|path| {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        });
    }

    #[test]
    fn only_a_dead_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        drop(UnixListener::bind(&path).unwrap());
        let n_requests = Cell::new(0);
        let listener = Listener::bind(&path).unwrap();
        let shutdown = Shutdown::new();
        let message = Listener::bind(&path).unwrap_err().to_string();
        assert!(message.starts_with("another ouzel is running"), "{message}");
        // The second bind only connected, which is no request.
        shutdown.trigger();
        serve(&listener, &shutdown, |_| {
            n_requests.set(n_requests.get() + 1);
            AdminReply::Done {
                snapshot: None,
                also: Vec::new(),
            }
        })
        .unwrap();
        assert_eq!(n_requests.get(), 0);
        drop(listener);

        fs::write(&path, "mine").unwrap();
        assert!(
            Listener::bind(&path)
                .unwrap_err()
                .to_string()
                .contains("is no socket")
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
