//! A schema registry for tests: the three endpoints that ouzel reads, on loopback.
//!
//! It stands for a real one: Confluent's and Karapace are in no package registry that the tests may use, and Apicurio's
//! server is an application of several hundred packages. What it answers is Confluent's documented API, errors included.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};

/// A running registry; it stops when it is dropped.
pub(crate) struct RegistryServer {
    address: String,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    answers: BTreeMap<String, Value>,
    /// The value of the header `Authorization` that is asked for.
    authorization: Option<String>,
    is_down: bool,
    is_stopped: bool,
    n_requests: usize,
}

impl RegistryServer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State::default()));
        state
            .lock()
            .unwrap()
            .answers
            .insert("/schemas/types".to_owned(), json!(["AVRO", "PROTOBUF"]));
        let shared = Arc::clone(&state);
        #[allow(clippy::disallowed_methods, reason = "a server of a test")]
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut state = shared.lock().unwrap();
                if state.is_stopped {
                    return;
                }
                state.n_requests += 1;
                // An outage: the connection ends without an answer.
                if !state.is_down {
                    answer(&state, stream.unwrap());
                }
            }
        });
        Self {
            address,
            state,
            thread: Some(thread),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Registers a schema under an id; `references` are of the API's form.
    pub(crate) fn schema(&self, id: u32, kind: &str, text: &str, references: &Value) {
        let mut schema = json!({"schema": text, "references": references});
        // The registry leaves the type out where it is Avro.
        if kind != "AVRO" {
            schema["schemaType"] = json!(kind);
        }
        self.put(format!("/schemas/ids/{id}"), schema);
    }

    /// Registers version 1 of a subject.
    pub(crate) fn subject(&self, subject: &str, text: &str, references: &Value) {
        let schema = json!({"subject": subject, "version": 1, "schema": text, "references": references});
        self.put(format!("/subjects/{subject}/versions/1"), schema);
    }

    fn put(&self, path: String, answer: Value) {
        self.state.lock().unwrap().answers.insert(path, answer);
    }

    pub(crate) fn set_down(&self, is_down: bool) {
        self.state.lock().unwrap().is_down = is_down;
    }

    pub(crate) fn ask_for(&self, authorization: &str) {
        self.state.lock().unwrap().authorization = Some(authorization.to_owned());
    }

    pub(crate) fn n_requests(&self) -> usize {
        self.state.lock().unwrap().n_requests
    }
}

impl Drop for RegistryServer {
    fn drop(&mut self) {
        self.state.lock().unwrap().is_stopped = true;
        drop(TcpStream::connect(&self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn answer(state: &State, mut stream: TcpStream) {
    let (mut request, mut chunk) = (Vec::new(), [0; 4096]);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(n) => request.extend_from_slice(&chunk[..n]),
        }
    }
    let request = String::from_utf8(request).unwrap();
    let path = request.split(' ').nth(1).unwrap();
    let authorization = request.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("authorization").then_some(value)
    });
    let (status, body) = match state.answers.get(path) {
        _ if state.authorization.as_deref() != authorization => (
            "401 Unauthorized",
            json!({"error_code": 401, "message": "Unauthorized"}),
        ),
        Some(answer) => ("200 OK", answer.clone()),
        None => (
            "404 Not Found",
            json!({"error_code": 40403, "message": "Schema not found"}),
        ),
    };
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/vnd.schemaregistry.v1+json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    drop(stream.write_all((head + &body).as_bytes()));
}
