//! What a remote copy needs of an object store, and the addresses of stores.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::dir::DirBucket;
use crate::Error;

/// An object with the tag of its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Changes with every write; for [`Bucket::put_if`].
    pub tag: String,
}

/// A flat map from keys to objects, shared by machines.
///
/// A write is seen whole or not at all. Keys are made of letters, digits, points, hyphens and `/`.
///
/// # Errors
/// Every method returns the error of the request; whether a failed write took place is not known.
pub trait Bucket: Send + Sync + fmt::Debug {
    /// Returns the object at `key`, if there is one.
    fn get(&self, key: &str) -> io::Result<Option<Object>>;
    /// Writes an object.
    fn put(&self, key: &str, bytes: &[u8]) -> io::Result<()>;
    /// Replaces the object whose tag is `expected`, or creates one that must not exist yet. Returns the new tag; `None`
    /// when the object is another one.
    fn put_if(&self, key: &str, bytes: &[u8], expected: Option<&str>) -> io::Result<Option<String>>;
    /// The keys that begin with `prefix`, which ends with `/`.
    fn list(&self, prefix: &str) -> io::Result<Vec<String>>;
    /// Removes an object; a missing one is no error.
    fn delete(&self, key: &str) -> io::Result<()>;
}

/// The place of a remote copy: a bucket and its address.
#[derive(Clone, Debug)]
pub struct Remote {
    bucket: Arc<dyn Bucket>,
    url: String,
}

impl Remote {
    /// The copy at `url`: `file:///DIR`, or `s3://BUCKET/PREFIX` in a build with the feature `s3`.
    ///
    /// Opening makes no request.
    ///
    /// # Errors
    /// [`Error::RemoteUrl`] for an address that cannot be used, or an environment without the settings it needs.
    pub fn open(url: &str) -> Result<Self, Error> {
        check_url(url).map_err(|why| refused(url, why))?;
        let bucket: Arc<dyn Bucket> = match url.split_once("://") {
            Some(("file", path)) => Arc::new(DirBucket::new(Path::new(path))),
            #[cfg(feature = "s3")]
            Some(("s3", path)) => {
                Arc::new(super::s3::S3Bucket::open(path).map_err(|why| refused(url, &why))?)
            }
            _ => {
                let why = "this build has no support for it: build with `--features s3`";
                return Err(refused(url, why));
            }
        };
        Ok(Self::on(bucket, url))
    }

    /// The copy in `bucket`, which messages call `url`.
    pub fn on(bucket: Arc<dyn Bucket>, url: &str) -> Self {
        Self {
            bucket,
            url: url.trim_end_matches('/').to_owned(),
        }
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Object>, Error> {
        self.attempt("read", key, self.bucket.get(key))
    }

    pub(super) fn put(&self, key: &str, bytes: &[u8]) -> Result<(), Error> {
        self.attempt("write", key, self.bucket.put(key, bytes))
    }

    pub(super) fn put_if(
        &self,
        key: &str,
        bytes: &[u8],
        expected: Option<&str>,
    ) -> Result<Option<String>, Error> {
        self.attempt("write", key, self.bucket.put_if(key, bytes, expected))
    }

    pub(super) fn list(&self, prefix: &str) -> Result<Vec<String>, Error> {
        self.attempt("list", prefix, self.bucket.list(prefix))
    }

    pub(super) fn delete(&self, key: &str) -> Result<(), Error> {
        self.attempt("remove", key, self.bucket.delete(key))
    }

    fn attempt<T>(&self, action: &'static str, key: &str, result: io::Result<T>) -> Result<T, Error> {
        result.map_err(|error| Error::Remote {
            action,
            object: self.object(key),
            error,
        })
    }

    /// The error of a request that another one of this writer has overtaken: it may be made again.
    pub(super) fn interrupted(&self) -> Error {
        Error::Remote {
            action: "write",
            object: self.object("index.json"),
            error: io::ErrorKind::Interrupted.into(),
        }
    }

    pub(super) fn object(&self, key: &str) -> String {
        format!("{}/{key}", self.url)
    }

    pub(super) fn damaged(&self, key: &str, why: impl Into<String>) -> Error {
        Error::damaged(Path::new(&self.object(key)), why)
    }
}

fn refused(url: &str, why: &str) -> Error {
    Error::RemoteUrl {
        // What may be a secret is not repeated.
        url: url.split('@').next_back().unwrap_or_default().to_owned(),
        why: why.to_owned(),
    }
}

/// Checks the form of an address.
pub(crate) fn check_url(url: &str) -> Result<(), &'static str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    match url.split_once("://") {
        Some((_, rest)) if rest.contains('@') => Err(
            "credentials come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), not from the address",
        ),
        Some(("s3", rest)) if !rest.starts_with('/') && !rest.is_empty() && rest.bytes().all(is_plain) => {
            Ok(())
        }
        Some(("file", path)) if path.starts_with('/') && path.len() > 1 => Ok(()),
        _ => Err("expected s3://BUCKET/PREFIX or file:///DIR"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_checked_and_no_credential_is_repeated() {
        for good in ["s3://bucket", "s3://bucket/a/b-c.d", "file:///mnt/copy"] {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "bucket",
            "s3://",
            "s3:///a",
            "http://host/a",
            "file://",
            "file://a",
            "s3://b/a?x=1",
        ] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
        let error = Remote::open("s3://KEY:hunter2@bucket/a").unwrap_err().to_string();
        assert!(
            error.contains("environment") && error.contains("bucket/a") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
