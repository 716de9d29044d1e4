//! A bucket in an S3-compatible store.

use std::env;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    RetryConfig, UpdateVersion,
};
use tokio::runtime::{Builder, Runtime};

use super::bucket::{Bucket, Object};

/// Longest wait for an answer. A piece of 8 MiB passes over a line of 3 Mbit/s in that time.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Attempts of one request, beyond the first; the caller makes it again later.
const RETRIES: usize = 2;

/// Objects below a prefix. Credentials, endpoint and region come from the environment, as for every tool of AWS.
#[derive(Debug)]
pub(super) struct S3Bucket {
    store: AmazonS3,
    prefix: String,
    /// Requests run on the thread that makes them, one at a time.
    runtime: Mutex<Runtime>,
}

impl S3Bucket {
    /// The bucket and prefix in `BUCKET/PREFIX`.
    pub(super) fn open(path: &str) -> Result<Self, String> {
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        // Another library may have chosen already, and any choice will do.
        let _is_first = rustls::crypto::ring::default_provider().install_default().is_ok();
        let options = ClientOptions::new()
            .with_timeout(TIMEOUT)
            .with_connect_timeout(TIMEOUT / 3)
            // For tests and stores within a machine, as the environment says.
            .with_allow_http(
                env::var("AWS_ALLOW_HTTP").is_ok_and(|value| value.eq_ignore_ascii_case("true")),
            );
        let retry = RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: RETRIES,
            retry_timeout: TIMEOUT,
        };
        let store = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_client_options(options)
            .with_retry(retry)
            .build()
            .map_err(|error| error.to_string())?;
        let runtime = Builder::new_current_thread().enable_all().build();
        Ok(Self {
            store,
            prefix: prefix.trim_end_matches('/').to_owned(),
            runtime: Mutex::new(runtime.map_err(|error| error.to_string())?),
        })
    }

    fn path(&self, key: &str) -> Path {
        match self.prefix.as_str() {
            "" => Path::from(key),
            prefix => Path::from(format!("{prefix}/{key}")),
        }
    }

    fn wait<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        // A request that panicked leaves nothing half done in the runtime.
        let runtime = self
            .runtime
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        runtime.block_on(request)
    }
}

impl Bucket for S3Bucket {
    fn get(&self, key: &str) -> io::Result<Option<Object>> {
        let path = self.path(key);
        let read = async {
            let found = self.store.get(&path).await?;
            let tag = found.meta.e_tag.clone().unwrap_or_default();
            let bytes = found.bytes().await?.to_vec();
            Ok(Object { bytes, tag })
        };
        match self.wait(read) {
            Ok(object) => Ok(Some(object)),
            Err(Error::NotFound { source, .. }) if !source.to_string().contains("NoSuchBucket") => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    fn put(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        let (path, payload) = (self.path(key), PutPayload::from(bytes.to_vec()));
        let written = self.wait(async { self.store.put(&path, payload).await });
        written.map(drop).map_err(|error| failed(&error))
    }

    fn put_if(&self, key: &str, bytes: &[u8], expected: Option<&str>) -> io::Result<Option<String>> {
        let (path, payload) = (self.path(key), PutPayload::from(bytes.to_vec()));
        let mode = match expected {
            None => PutMode::Create,
            Some(tag) => PutMode::Update(UpdateVersion {
                e_tag: Some(tag.to_owned()),
                version: None,
            }),
        };
        let written = self.wait(async {
            let options = PutOptions::from(mode);
            self.store.put_opts(&path, payload, options).await
        });
        match written {
            Ok(written) => match written.e_tag {
                Some(tag) => Ok(Some(tag)),
                None => Err(io::Error::other("the store returns no ETag")),
            },
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<String>> {
        let (path, root) = (self.path(prefix), self.path(""));
        let listed = self.wait(async {
            let mut pages = self.store.list(Some(&path));
            let mut found = Vec::new();
            while let Some(entry) = futures_util::TryStreamExt::try_next(&mut pages).await? {
                found.push(entry.location);
            }
            Ok(found)
        });
        let listed = listed.map_err(|error| failed(&error))?;
        let key = |location: Path| {
            let parts = location.prefix_match(&root)?;
            let parts: Vec<String> = parts.map(|part| part.as_ref().to_owned()).collect();
            Some(parts.join("/"))
        };
        Ok(listed.into_iter().filter_map(key).collect())
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        let path = self.path(key);
        match self.wait(async { self.store.delete(&path).await }) {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(&error)),
        }
    }
}

/// The error of a request. Its text has the address and the answer of the store, and no credential: those are in headers.
fn failed(error: &Error) -> io::Error {
    let kind = match error {
        Error::NotFound { .. } => io::ErrorKind::NotFound,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error.to_string())
}
