//! The client of a schema registry: the requests of Confluent's API that reading needs.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::typestate::AgentScope;

use crate::error::Error;

/// Longest wait for an answer. Reading waits meanwhile, and so does a shutdown.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of an answer.
const MAX_ANSWER: u64 = 4 << 20;
/// Most schemas that one schema may refer to, by way of others too.
const MAX_REFERENCES: usize = 256;
/// The registry's own code for a schema, a subject or a version that it does not have.
const NOT_FOUND: [u32; 3] = [40401, 40402, 40403];

type AgentBuilder = ConfigBuilder<AgentScope>;

/// How to reach a schema registry.
#[derive(Clone, Default)]
pub struct RegistryConfig {
    /// Where its API begins, `http://host:port`.
    pub url: String,
    /// `user:password` of HTTP basic authentication.
    pub login: Option<String>,
    /// Certificates of the authorities that may have signed the registry's own, PEM; those of browsers if there are none.
    pub authorities: Option<Vec<u8>>,
}

/// A client of one registry.
pub(super) struct Registry {
    agent: Agent,
    url: String,
    authorization: Option<String>,
}

/// A schema with all texts that it refers to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RegisteredSchema {
    pub(super) kind: String,
    pub(super) text: String,
    /// By the names of the references; each refers to earlier ones only.
    pub(super) references: Vec<(String, String)>,
}

/// Why there is no schema.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoSchema {
    /// The registry says that it does not have it.
    Unknown(String),
    /// No answer, or one that says nothing about the schema: the same request may succeed later.
    Unavailable(String),
}

/// An answer with a schema.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SchemaAnswer {
    schema: String,
    schema_type: Option<String>,
    #[serde(default)]
    references: Vec<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    name: String,
    subject: String,
    version: i32,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    error_code: u32,
    #[serde(default)]
    message: String,
}

impl Registry {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// When this build has no TLS for an `https` address, or the certificates cannot be read.
    pub(super) fn new(config: &RegistryConfig) -> Result<Self, Error> {
        let agent = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .user_agent("ouzel");
        let agent = match config.url.starts_with("https:") {
            true => with_tls(agent, config)?,
            false => agent,
        };
        let login = config.login.as_deref().map(str::trim);
        Ok(Self {
            agent: agent.build().into(),
            url: config.url.trim_end_matches('/').to_owned(),
            authorization: login.map(|login| format!("Basic {}", STANDARD.encode(login))),
        })
    }

    /// The schema with this id, and what it refers to.
    pub(super) fn schema(&self, id: u32) -> Result<RegisteredSchema, NoSchema> {
        let answer: SchemaAnswer = self.get(&format!("schemas/ids/{id}"))?;
        let mut references = Vec::new();
        self.references(answer.references, &mut references, 0)?;
        Ok(RegisteredSchema {
            kind: answer.schema_type.unwrap_or_else(|| "AVRO".to_owned()),
            text: answer.schema,
            references,
        })
    }

    /// Asks for something small, as a check of address and login.
    pub(super) fn ping(&self) -> Result<(), NoSchema> {
        self.get::<Vec<String>>("schemas/types").map(|_| ())
    }

    /// Adds the texts of `references` to `found`, each behind those that it refers to.
    fn references(
        &self,
        references: Vec<Reference>,
        found: &mut Vec<(String, String)>,
        depth: usize,
    ) -> Result<(), NoSchema> {
        for Reference {
            name,
            subject,
            version,
        } in references
        {
            if found.iter().any(|(known, _)| *known == name) {
                continue;
            }
            if found.len() + depth >= MAX_REFERENCES {
                let detail = format!("it refers to more than {MAX_REFERENCES} schemas");
                return Err(NoSchema::Unknown(detail));
            }
            let path = format!("subjects/{}/versions/{version}", escaped(&subject));
            let answer: SchemaAnswer = self.get(&path)?;
            self.references(answer.references, found, depth + 1)?;
            found.push((name, answer.schema));
        }
        Ok(())
    }

    fn get<T: for<'de> Deserialize<'de>>(&self, path: &str) -> Result<T, NoSchema> {
        let url = format!("{}/{path}", self.url);
        let failed = |detail: String| NoSchema::Unavailable(format!("{url}: {detail}"));
        let mut request = self.agent.get(&url).header(
            "Accept",
            "application/vnd.schemaregistry.v1+json, application/json;q=0.9",
        );
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let mut response = request.call().map_err(|error| failed(error.to_string()))?;
        let status = response.status();
        let body = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
        let body = body.map_err(|error| failed(error.to_string()))?;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map_err(|error| failed(format!("the answer is not a registry's: {error}")));
        }
        match serde_json::from_slice::<ErrorAnswer>(&body) {
            // Any server answers 404; only a registry has these codes.
            Ok(answer) if status.as_u16() == 404 && NOT_FOUND.contains(&answer.error_code) => {
                Err(NoSchema::Unknown(format!("{url}: {}", answer.message)))
            }
            Ok(answer) => Err(failed(format!("{status}, {}", answer.message))),
            Err(_) => Err(failed(format!("{status}, and not from a schema registry"))),
        }
    }
}

/// A subject as a part of a path.
fn escaped(subject: &str) -> String {
    let mut path = String::new();
    for byte in subject.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                path.push(char::from(byte));
            }
            other => path.push_str(&format!("%{other:02X}")),
        }
    }
    path
}

#[cfg(feature = "registry-tls")]
fn with_tls(agent: AgentBuilder, config: &RegistryConfig) -> Result<AgentBuilder, Error> {
    use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

    let Some(pem) = &config.authorities else {
        return Ok(agent);
    };
    let refused = |detail: String| Error::Registry {
        url: config.url.clone(),
        detail,
    };
    let mut authorities = Vec::new();
    for item in parse_pem(pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| refused(error.to_string()))? {
            authorities.push(certificate);
        }
    }
    if authorities.is_empty() {
        return Err(refused(
            "the file of its authorities holds no certificate in PEM form".to_owned(),
        ));
    }
    let roots = RootCerts::new_with_certs(&authorities);
    Ok(agent.tls_config(TlsConfig::builder().root_certs(roots).build()))
}

#[cfg(not(feature = "registry-tls"))]
fn with_tls(_: AgentBuilder, config: &RegistryConfig) -> Result<AgentBuilder, Error> {
    Err(Error::NotBuiltIn {
        what: format!("TLS to the schema registry at {}", config.url),
        feature: "tls",
    })
}
