//! The daemon's side of the admin socket.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tracing::{info, warn};

use super::protocol::{AdminReply, AdminRequest, MAX_LINE_BYTES};
use crate::supervisor::Shutdown;

/// How often the listener looks up from its socket.
const LOOK: Duration = Duration::from_millis(50);
/// How long a caller may be silent before the next one is heard.
const PATIENCE: Duration = Duration::from_secs(2);

/// A bound admin socket. Its file goes with it.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Binds `path` with mode 0600. A socket that nobody answers on is left from a crash and is replaced;
    /// anything else there is left alone and is an error.
    pub fn bind(path: &Path) -> anyhow::Result<Self> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot look at the admin socket {}", path.display()));
            }
            Ok(there) if !there.file_type().is_socket() => {
                bail!(
                    "cannot make the admin socket: {} exists and is no socket",
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
        let made = || format!("cannot make the admin socket {}", path.display());
        // Bound under another name until its mode is right: nobody can connect in between.
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        if let Err(error) = fs::remove_file(&new)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error).with_context(made);
        }
        let socket = UnixListener::bind(&new).with_context(made)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).with_context(made)?;
        socket.set_nonblocking(true).with_context(made)?;
        fs::rename(&new, path).with_context(made)?;
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

/// Answers requests with `handler`, one caller at a time, until the shutdown.
pub fn serve(
    listener: &Listener,
    shutdown: &Shutdown,
    handler: impl Fn(AdminRequest) -> AdminReply,
) -> anyhow::Result<()> {
    while !shutdown.is_triggered() {
        match listener.socket.accept() {
            Ok((stream, _)) => {
                // A caller that went away or talks nonsense is no matter for the next one.
                if let Err(error) = converse(&stream, shutdown, &handler) {
                    warn!(%error, "admin caller dropped");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                shutdown.wait_timeout(LOOK);
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

/// Answers one caller until it hangs up.
fn converse(
    stream: &UnixStream,
    shutdown: &Shutdown,
    handler: &impl Fn(AdminRequest) -> AdminReply,
) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    while !shutdown.is_triggered() {
        let mut line = Vec::new();
        let n_bytes = (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
        if n_bytes == 0 {
            return Ok(());
        }
        let whole = line.ends_with(b"\n");
        let reply = match serde_json::from_slice::<AdminRequest>(&line) {
            Ok(request) => {
                info!(?request, "admin request");
                handler(request)
            }
            Err(error) => AdminReply::refused(format!("cannot read the admin request: {error}")),
        };
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        (&mut &*stream).write_all(&text)?;
        if !whole {
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
    use crate::admin::{Client, Status};

    fn handler(request: AdminRequest) -> AdminReply {
        match request {
            AdminRequest::Status => AdminReply::Status(Status {
                samples: 7,
                ..Status::default()
            }),
            AdminRequest::Rollback { id, .. } => AdminReply::Done { snapshot: Some(id) },
            request => AdminReply::refused(format!("{request:?} is not for this test")),
        }
    }

    /// Runs `talk` against a served socket in a new folder.
    fn with_server(talk: impl FnOnce(&Path)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let shutdown = Shutdown::new();
        let listener = Listener::bind(&path).unwrap();
        thread::scope(|scope| {
            let server = scope.spawn(|| serve(&listener, &shutdown, handler));
            talk(&path);
            shutdown.trigger();
            server.join().unwrap().unwrap();
        });
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn every_request_of_a_caller_is_answered_and_so_is_the_next_caller() {
        with_server(|path| {
            for _ in 0..2 {
                let mut client = Client::connect(path).unwrap().unwrap();
                let AdminReply::Status(status) = client.ask(&AdminRequest::Status).unwrap() else {
                    panic!()
                };
                assert_eq!(status.samples, 7);
                let reply = client
                    .ask(&AdminRequest::Rollback {
                        id: "a".to_owned(),
                        note: String::new(),
                    })
                    .unwrap();
                assert_eq!(
                    reply,
                    AdminReply::Done {
                        snapshot: Some("a".to_owned())
                    }
                );
                assert!(matches!(
                    client.ask(&AdminRequest::Unpin { note: String::new() }).unwrap(),
                    AdminReply::Refused { .. }
                ));
            }
        });
    }

    #[test]
    fn nonsense_is_refused_and_the_next_line_is_heard() {
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
    fn a_line_without_end_is_cut_off() {
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
    fn the_socket_is_for_its_owner_alone() {
        with_server(|path| {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        });
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_or_a_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        drop(UnixListener::bind(&path).unwrap());
        let asked = Cell::new(0);
        let listener = Listener::bind(&path).unwrap();
        let shutdown = Shutdown::new();
        let message = Listener::bind(&path).unwrap_err().to_string();
        assert!(message.starts_with("another ouzel is running"), "{message}");
        // The second bind's probe hung up without a word, which is no request.
        shutdown.trigger();
        serve(&listener, &shutdown, |_| {
            asked.set(asked.get() + 1);
            AdminReply::Done { snapshot: None }
        })
        .unwrap();
        assert_eq!(asked.get(), 0);
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
