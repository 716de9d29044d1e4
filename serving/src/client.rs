//! A minimal blocking client of the scoring port: one keep-alive connection, JSON, no TLS.
//!
//! The demo and the tests rank with it. It reads only replies with a `content-length`, which is what this server sends.
//! The server's internals are unknown here.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use crate::{RankRequest, RankResponse};

/// Timeout of connecting, and of each read and write.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Largest reply accepted: 1,000 items take less, with ids of 512 bytes that JSON escapes and 8 tasks.
const MAX_REPLY_BYTES: usize = 16 * 1024 * 1024;
/// Longest status or header line accepted.
const MAX_LINE_BYTES: u64 = 16 * 1024;

/// Why a request got no usable reply.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages describe variants and fields")]
pub enum ClientError {
    #[error("cannot connect to {address}: {source}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("{method} {path} on {address} failed: {source}")]
    Io {
        address: SocketAddr,
        method: &'static str,
        path: String,
        source: io::Error,
    },
    /// The server refused the request. `code` is empty when the body is not this server's error object.
    #[error("the server answered {status} {code}: {message}")]
    Refused {
        status: u16,
        code: String,
        message: String,
    },
    #[error("cannot read the reply: {0}")]
    Reply(#[from] serde_json::Error),
}

/// An HTTP reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body as text.
    pub body: String,
}

impl Reply {
    /// The first header with this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// One connection to a scoring port. It reconnects when the server closed the connection between requests.
#[derive(Debug)]
pub struct RankClient {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl RankClient {
    /// Connects. Connecting and each read and write may take 5 s.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub fn connect(address: SocketAddr) -> Result<Self, ClientError> {
        let stream = Some(open(address)?);
        Ok(Self { address, stream })
    }

    /// Ranks the items of a request.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Refused`] for every status but 200.
    pub fn rank(&mut self, request: &RankRequest) -> Result<RankResponse, ClientError> {
        let reply = self.post("/v1/rank", &serde_json::to_string(request)?)?;
        if reply.status == 200 {
            return Ok(serde_json::from_str(&reply.body)?);
        }
        Err(refused(reply))
    }

    /// Sends `GET path` and returns the reply, whatever its status.
    ///
    /// # Errors
    /// [`ClientError::Connect`] and [`ClientError::Io`].
    pub fn get(&mut self, path: &str) -> Result<Reply, ClientError> {
        self.send("GET", path, &[], None)
    }

    /// Sends `POST path` with a JSON body and returns the reply, whatever its status.
    ///
    /// # Errors
    /// [`ClientError::Connect`] and [`ClientError::Io`].
    pub fn post(&mut self, path: &str, body: &str) -> Result<Reply, ClientError> {
        self.send("POST", path, &[("content-type", "application/json")], Some(body))
    }

    /// Sends any request. Every route of the server is idempotent, so when a reused connection turns out to be closed,
    /// the request is sent again over a new one.
    ///
    /// # Errors
    /// [`ClientError::Connect`] and [`ClientError::Io`].
    pub fn send(
        &mut self,
        method: &'static str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Result<Reply, ClientError> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.address);
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = body {
            request.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        request.push_str(body.unwrap_or_default());

        loop {
            let reused = self.stream.take();
            let is_reused = reused.is_some();
            let mut stream = reused.map_or_else(|| open(self.address), Ok)?;
            let sent = stream.get_mut().write_all(request.as_bytes());
            match sent.and_then(|()| read_reply(&mut stream)) {
                Ok(reply) => {
                    self.stream = (reply.header("connection") != Some("close")).then_some(stream);
                    return Ok(reply);
                }
                Err(error) if is_reused && is_closed(&error) => {}
                Err(source) => {
                    return Err(ClientError::Io {
                        address: self.address,
                        method,
                        path: path.to_owned(),
                        source,
                    });
                }
            }
        }
    }
}

fn open(address: SocketAddr) -> Result<BufReader<TcpStream>, ClientError> {
    let connect = || {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(BufReader::new(stream))
    };
    connect().map_err(|source| ClientError::Connect { address, source })
}

/// True for an error that means that the server closed the connection while it was idle.
fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        UnexpectedEof | BrokenPipe | ConnectionReset | ConnectionAborted
    )
}

fn read_reply(stream: &mut impl BufRead) -> io::Result<Reply> {
    let malformed = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let status = read_line(stream)?
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let mut reply = Reply {
        status: status.ok_or_else(|| malformed("the status line has no status"))?,
        headers: Vec::new(),
        body: String::new(),
    };
    loop {
        let line = read_line(stream)?;
        if line.is_empty() {
            break;
        }
        let header = line.split_once(':');
        let (name, value) = header.ok_or_else(|| malformed("a header line has no colon"))?;
        let header = (name.to_ascii_lowercase(), value.trim().to_owned());
        reply.headers.push(header);
    }
    let length = reply
        .header("content-length")
        .and_then(|length| length.parse().ok());
    let n_bytes: usize = length.ok_or_else(|| malformed("the reply has no valid content-length"))?;
    if n_bytes > MAX_REPLY_BYTES {
        return Err(malformed("the reply is larger than any of this server's"));
    }
    let mut body = vec![0; n_bytes];
    stream.read_exact(&mut body)?;
    reply.body = String::from_utf8(body).map_err(|_| malformed("the reply is not UTF-8"))?;
    Ok(reply)
}

fn read_line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    stream.take(MAX_LINE_BYTES).read_line(&mut line)?;
    if !line.ends_with('\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(line)
}

fn refused(Reply { status, body, .. }: Reply) -> ClientError {
    #[derive(Deserialize)]
    struct Body {
        error: ErrorBody,
    }
    #[derive(Deserialize)]
    struct ErrorBody {
        code: String,
        message: String,
    }
    let (code, message) = match serde_json::from_str(&body) {
        Ok(Body { error }) => (error.code, error.message),
        Err(_) => (String::new(), body),
    };
    ClientError::Refused {
        status,
        code,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_read_to_its_length_and_no_further() {
        let wire =
            b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200";
        let mut unread = &wire[..];
        let reply = read_reply(&mut unread).unwrap();
        assert_eq!((reply.status, reply.body.as_str()), (429, "{}"));
        assert_eq!(reply.header("retry-after"), Some("1"));
        assert_eq!(unread, b"HTTP/1.1 200");
    }

    #[test]
    fn a_malformed_reply_is_an_error_and_never_a_panic() {
        let cases: [&[u8]; 7] = [
            b"",
            b"HTTP/1.1",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab",
        ];
        for wire in cases {
            assert!(read_reply(&mut &wire[..]).is_err(), "{wire:?}");
        }
    }
}
