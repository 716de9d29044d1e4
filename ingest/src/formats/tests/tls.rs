//! A registry behind TLS: its certificate is checked by the authorities of the configuration, and by no others.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::*;

/// The TLS listener in front of a registry; it ends when it is dropped.
struct TlsFront {
    process: Child,
    url: String,
}

impl TlsFront {
    fn start(server: &RegistryServer, folder: &Path) -> Self {
        let url = server.url();
        let mut process = Command::new("python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/tls_front.py"))
            .arg(url.trim_start_matches("http://"))
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut port)
            .unwrap();
        assert!(
            !port.is_empty(),
            "the TLS listener needs python3 and the command openssl"
        );
        Self {
            process,
            url: format!("https://127.0.0.1:{}", port.trim()),
        }
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        drop(self.process.wait());
    }
}

#[test]
fn a_registry_behind_tls_is_believed_only_if_a_named_authority_signed_its_certificate() {
    let server = RegistryServer::start();
    server.ask_for("Basic dXNlcjpwYXNz");
    server.schema(5, "AVRO", r#""string""#, &json!([]));
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [front, other] = folders
        .each_ref()
        .map(|folder| TlsFront::start(&server, folder.path()));
    let authority = |of: usize| std::fs::read(folders[of].path().join("authority.pem")).unwrap();
    let formats = |url: &str, authorities: Option<Vec<u8>>| {
        let registry = RegistryConfig {
            url: url.to_owned(),
            login: Some("user:pass".to_owned()),
            authorities,
        };
        RecordFormats::new(|_| PayloadFormat::Avro, Some(&registry))
    };

    let read = framed(5, &[4, b'o', b'k']);
    let trusted = formats(&front.url, Some(authority(0))).unwrap();
    assert_eq!(trusted.registry_complaint(), None);
    assert!(trusted.are_readable(&[record(Stream::Items, read.clone())]));
    assert_eq!(trusted.value(Stream::Items, &read).unwrap(), json!("ok"));

    let n_requests = server.n_requests();
    for (url, authorities) in [
        (&front.url, None),
        (&front.url, Some(authority(1))),
        (&other.url, Some(authority(0))),
    ] {
        let refused = formats(url, authorities).unwrap();
        let why = refused.registry_complaint().unwrap();
        assert!(why.contains(url.as_str()) && why.contains("certificate"), "{why}");
        assert!(!refused.are_readable(&[record(Stream::Items, read.clone())]));
    }
    // No login was sent to a server that could be anybody.
    assert_eq!(server.n_requests(), n_requests);

    let refused = formats(&front.url, Some(b"no certificate".to_vec()));
    let why = refused.err().unwrap().to_string();
    assert!(why.contains("no certificate in PEM form"), "{why}");
}
