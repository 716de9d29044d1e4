//! The schemas that records name, fetched once and kept.
//!
//! What a record decodes to does not depend on when the registry answers: without an answer nothing is decided, and
//! reading waits. Only the registry's own word that it does not have an id makes a record unreadable, and only when it
//! says so twice, since a follower of a registry learns of a new schema a moment late.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use metrics::counter;
use ouzel_sample::{Reject, RejectReason};
use tracing::{info, warn};

use super::avro_schema::AvroSchema;
use super::protobuf::ProtobufSchema;
use super::registry::{NoSchema, RegisteredSchema, Registry};
use crate::metrics::SCHEMA_REQUESTS;

/// Most schemas that are kept. One chunk of a source names fewer.
const MAX_SCHEMAS: usize = 2048;
/// Pause between two attempts while the registry does not answer.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// Time after which an id that the registry does not have is asked for again.
const CONFIRM_AFTER: Duration = Duration::from_secs(1);

/// A compiled schema.
#[derive(Debug)]
pub(super) enum Schema {
    Avro(AvroSchema),
    Protobuf(ProtobufSchema),
}

/// The schemas of one registry.
pub(super) struct Schemas {
    registry: Registry,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: HashMap<u32, Known>,
    /// Counts uses; the schema of the oldest use is forgotten first.
    now: u64,
    /// Until when nothing is asked, after a request that failed.
    retry_at: Option<Instant>,
}

struct Known {
    last_use: u64,
    schema: Lookup,
}

#[derive(Clone)]
enum Lookup {
    Found(Arc<Schema>),
    /// Why the schema cannot be used.
    Unusable(Arc<str>),
    /// The registry did not have it at this time.
    Doubtful(Instant),
}

impl Schemas {
    pub(super) fn new(registry: Registry) -> Self {
        Self {
            registry,
            state: Mutex::default(),
        }
    }

    /// Fetches those of `ids` that are not known. False while the registry has not answered for all of them.
    pub(super) fn fetch(&self, ids: impl IntoIterator<Item = u32>) -> bool {
        let mut state = self.state();
        let mut is_complete = true;
        for id in ids {
            is_complete &= self.fetch_one(&mut state, id);
        }
        is_complete
    }

    /// The schema `id`. Waits for the registry where [`Schemas::fetch`] was not called before.
    ///
    /// # Errors
    /// When the registry does not have it, or it cannot be used.
    pub(super) fn get(&self, id: u32) -> Result<Arc<Schema>, Reject> {
        loop {
            let is_known = self.fetch([id]);
            let schema = self.state().known.get(&id).map(|known| known.schema.clone());
            match schema {
                Some(Lookup::Found(schema)) => return Ok(schema),
                Some(Lookup::Unusable(why)) => {
                    return Err(Reject::new(RejectReason::UnknownSchema, &*why));
                }
                _ if is_known => {}
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// True when `id` needs no request any more.
    fn fetch_one(&self, state: &mut State, id: u32) -> bool {
        state.now += 1;
        let now = state.now;
        let doubted = match state.known.get_mut(&id) {
            Some(known) => {
                known.last_use = now;
                match known.schema {
                    Lookup::Doubtful(since) => Some(since),
                    _ => return true,
                }
            }
            None => None,
        };
        let is_early = doubted.is_some_and(|since| since.elapsed() < CONFIRM_AFTER);
        if is_early || state.retry_at.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        let answer = self.registry.schema(id);
        let is_answer = !matches!(answer, Err(NoSchema::Unavailable(_)));
        if is_answer && state.retry_at.take().is_some() {
            info!("the schema registry answers again; reading continues");
        }
        let (outcome, schema) = match answer {
            Ok(registered) => match compile(&registered) {
                Ok(schema) => ("found", Lookup::Found(Arc::new(schema))),
                Err(why) => {
                    let why = format!("schema {id} of the registry {why}");
                    ("unusable", Lookup::Unusable(why.into()))
                }
            },
            Err(NoSchema::Unknown(why)) if doubted.is_some() => {
                let why = format!("the registry does not have schema {id}: {why}");
                ("unknown", Lookup::Unusable(why.into()))
            }
            Err(NoSchema::Unknown(_)) => ("unknown", Lookup::Doubtful(Instant::now())),
            Err(NoSchema::Unavailable(why)) => {
                counter!(SCHEMA_REQUESTS, "outcome" => "failed").increment(1);
                if state.retry_at.replace(Instant::now() + RETRY_EVERY).is_none() {
                    warn!(id, why, "reading waits for the schema registry");
                }
                return false;
            }
        };
        counter!(SCHEMA_REQUESTS, "outcome" => outcome).increment(1);
        let is_final = !matches!(schema, Lookup::Doubtful(_));
        let known = Known {
            last_use: now,
            schema,
        };
        state.known.insert(id, known);
        if state.known.len() > MAX_SCHEMAS {
            let oldest = state.known.iter().min_by_key(|(_, known)| known.last_use);
            if let Some(oldest) = oldest.map(|(id, _)| *id) {
                state.known.remove(&oldest);
            }
        }
        is_final
    }

    /// What a request to the registry says about address and login; `None` where it answers.
    pub(super) fn complaint(&self) -> Option<String> {
        match self.registry.ping() {
            Ok(()) => None,
            Err(NoSchema::Unknown(why) | NoSchema::Unavailable(why)) => Some(why),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn compile(registered: &RegisteredSchema) -> Result<Schema, String> {
    let refused = |why: String| format!("cannot be used: it {why}");
    match registered.kind.as_str() {
        "AVRO" => {
            let references: Vec<&str> = registered
                .references
                .iter()
                .map(|(_, text)| text.as_str())
                .collect();
            let schema = AvroSchema::parse(&registered.text, &references).map_err(refused)?;
            Ok(Schema::Avro(schema))
        }
        "PROTOBUF" => {
            let schema = ProtobufSchema::parse(&registered.text, &registered.references);
            let schema = schema.map_err(|why| format!("cannot be used: {why}"))?;
            Ok(Schema::Protobuf(schema))
        }
        other => Err(format!(
            "is of type {other}: only AVRO and PROTOBUF are read through it"
        )),
    }
}
