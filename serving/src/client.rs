//! A minimal blocking client of the scoring port: one keep-alive connection, JSON, no TLS.
//!
//! The demo and the tests rank with it. It reads replies with a `content-length`, which is what this server
//! sends; it is no general HTTP client. Knows nothing of the server's insides.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use crate::{RankRequest, RankResponse};

/// A reply larger than this is not one of ours: 1,000 items of 128-byte ids and 8 tasks stay below it.
const MAX_REPLY_BYTES: usize = 4 * 1024 * 1024;
/// Longest status or header line read.
const MAX_LINE_BYTES: u64 = 16 * 1024;

/// Why a request got no usable reply.
#[derive(Debug, Error)]
pub enum ClientError {
    /// No connection.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke.
    #[error("{method} {path} on {address} failed: {source}")]
    Io {
        /// Where to.
        address: SocketAddr,
        /// The method.
        method: &'static str,
        /// The path.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The server refused.
    #[error("the server answered {status} {code}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The error's code, empty when the body is not this server's error shape.
        code: String,
        /// Its message.
        message: String,
    },
    /// The reply is not what the contract says.
    #[error("cannot read the reply: {0}")]
    Reply(#[from] serde_json::Error),
}

impl ClientError {
    /// True when asking again later may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            ClientError::Connect { .. } | ClientError::Io { .. } => true,
            ClientError::Refused { status, .. } => matches!(status, 408 | 429 | 503 | 504),
            ClientError::Reply(_) => false,
        }
    }
}

/// A reply as it came.
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
    /// The first header of this (lower-case) name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// One connection to a scoring port. Reconnects when the server has closed it between requests.
#[derive(Debug)]
pub struct RankClient {
    address: SocketAddr,
    timeout: Duration,
    stream: Option<BufReader<TcpStream>>,
}

impl RankClient {
    /// Connects, with 5 s for connecting and for each read and write.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub fn connect(address: SocketAddr) -> Result<Self, ClientError> {
        let mut client = Self {
            address,
            timeout: Duration::from_secs(5),
            stream: None,
        };
        client.stream()?;
        Ok(client)
    }

    /// Ranks.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Refused`] for every status but 200.
    pub fn rank(&mut self, request: &RankRequest) -> Result<RankResponse, ClientError> {
        let reply = self.post("/v1/rank", &serde_json::to_string(request)?)?;
        if reply.status == 200 {
            return Ok(serde_json::from_str(&reply.body)?);
        }
        Err(refused(&reply))
    }

    /// `GET path`, whatever the status.
    ///
    /// # Errors
    /// [`ClientError::Connect`] and [`ClientError::Io`].
    pub fn get(&mut self, path: &str) -> Result<Reply, ClientError> {
        self.send("GET", path, &[], None)
    }

    /// `POST path` with a JSON body, whatever the status.
    ///
    /// # Errors
    /// [`ClientError::Connect`] and [`ClientError::Io`].
    pub fn post(&mut self, path: &str, body: &str) -> Result<Reply, ClientError> {
        self.send("POST", path, &[("content-type", "application/json")], Some(body))
    }

    /// Any request. Every route of the server may be asked twice without harm, so a kept connection that turns
    /// out to be closed is replaced and the request sent once more.
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
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.address);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = body {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        head.push_str(body.unwrap_or_default());

        let is_reused = self.stream.is_some();
        match self.exchange(head.as_bytes()) {
            Err(ExchangeError::Broken(error)) if is_reused && is_closed(&error) => {
                self.exchange(head.as_bytes())
            }
            outcome => outcome,
        }
        .map_err(|error| match error {
            ExchangeError::Connect(error) => error,
            ExchangeError::Broken(source) => ClientError::Io {
                address: self.address,
                method,
                path: path.to_owned(),
                source,
            },
        })
    }

    fn exchange(&mut self, request: &[u8]) -> Result<Reply, ExchangeError> {
        let stream = self.stream().map_err(ExchangeError::Connect)?;
        let exchanged = stream
            .get_mut()
            .write_all(request)
            .and_then(|()| read_reply(stream));
        let stays_open = matches!(&exchanged, Ok(reply) if reply.header("connection").is_none_or(|value| value != "close"));
        if !stays_open {
            self.stream = None;
        }
        exchanged.map_err(ExchangeError::Broken)
    }

    fn stream(&mut self) -> Result<&mut BufReader<TcpStream>, ClientError> {
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => open(self.address, self.timeout).map_err(|source| ClientError::Connect {
                address: self.address,
                source,
            })?,
        };
        Ok(self.stream.insert(stream))
    }
}

enum ExchangeError {
    Connect(ClientError),
    Broken(io::Error),
}

fn open(address: SocketAddr, timeout: Duration) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    Ok(BufReader::new(stream))
}

/// True for what a kept connection shows when the server closed it while nobody looked.
fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        UnexpectedEof | BrokenPipe | ConnectionReset | ConnectionAborted
    )
}

fn read_reply(stream: &mut impl BufRead) -> io::Result<Reply> {
    let malformed = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let status_line = read_line(stream)?;
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| malformed("the status line has no status"))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(stream)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| malformed("a header line has no colon"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut reply = Reply {
        status,
        headers,
        body: String::new(),
    };
    let n_bytes: usize = match reply.header("content-length") {
        Some(length) => length
            .parse()
            .map_err(|_| malformed("content-length is no number"))?,
        None => return Err(malformed("the reply has no content-length")),
    };
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

fn refused(reply: &Reply) -> ClientError {
    #[derive(Deserialize)]
    struct Body {
        error: ErrorBody,
    }
    #[derive(Deserialize)]
    struct ErrorBody {
        code: String,
        message: String,
    }
    let error = serde_json::from_str::<Body>(&reply.body).map_or_else(
        |_| ErrorBody {
            code: String::new(),
            message: reply.body.clone(),
        },
        |body| body.error,
    );
    ClientError::Refused {
        status: reply.status,
        code: error.code,
        message: error.message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_read_to_its_length_and_no_further() {
        let wire =
            b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200";
        let mut rest = &wire[..];
        let reply = read_reply(&mut rest).unwrap();
        assert_eq!((reply.status, reply.body.as_str()), (429, "{}"));
        assert_eq!(reply.header("retry-after"), Some("1"));
        assert_eq!(rest, b"HTTP/1.1 200");
    }

    #[test]
    fn nonsense_is_an_error_and_never_a_panic() {
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
