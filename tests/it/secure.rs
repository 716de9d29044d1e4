//! Kafka over TLS, with SCRAM and with tokens of an OpenID provider, against a real broker.
//!
//! They run in a build with the feature `tls`, as `make build` makes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ouzel_serving::client::RankClient;
use serde_json::json;

use super::broker::{Broker, skipped};
use super::daemon::Home;
use super::own_broker::OwnBroker;
use super::world::World;
use super::{CommandOutput, run};

/// Longest time until a refused connection is reported.
const SOON: Duration = Duration::from_secs(20);

/// A broker with a TLS listener, if this build has TLS and this machine can run one.
fn secure(test: &str) -> Option<(OwnBroker, Broker, String)> {
    if !cfg!(feature = "tls") {
        skipped(test, "run it with `--features tls`");
        return None;
    }
    let (own, address) = OwnBroker::start_secure(test)?;
    let broker = Broker::at(own.address.clone(), test, 1);
    Some((own, broker, address))
}

/// A configuration that reads the topics of `broker` over the TLS listener at `address`.
fn home(broker: &Broker, address: &str, properties: &str, settings: &str) -> Home {
    let home = Home::new(broker, settings);
    let path = home.config();
    let text = std::fs::read_to_string(&path).unwrap();
    let plain = format!("{:?}", broker.bootstrap);
    let text = text.replacen(&plain, &format!("{address:?}"), 1);
    let properties = format!("[kafka.properties]\n{properties}\n");
    std::fs::write(&path, format!("{text}\n{properties}")).unwrap();
    home
}

fn scram(password: &str, ca: Option<&Path>) -> String {
    let ca = ca.map_or_else(String::new, |ca| format!("\"ssl.ca.location\" = {ca:?}\n"));
    format!(
        "\"security.protocol\" = \"sasl_ssl\"\n\"sasl.mechanism\" = \"SCRAM-SHA-512\"\n\"sasl.username\" = \"ouzel\"\n\
         \"sasl.password_file\" = {password:?}\n{ca}"
    )
}

/// `ouzel config check --connect`; must end soon.
fn check(home: &Home) -> CommandOutput {
    let started = Instant::now();
    let config = home.config();
    let output = run(["config", "check", "--connect", config.to_str().unwrap()]);
    assert!(
        started.elapsed() < SOON,
        "{output:?} took {:?}",
        started.elapsed()
    );
    output
}

#[test]
fn scram_over_tls_works_and_each_refusal_says_which_setting_is_wrong() {
    let Some((own, broker, address)) = secure("scram") else {
        return;
    };
    let ca = own.certificate();
    let secrets = tempfile::tempdir().unwrap();
    let [right, wrong] = ["ouzel-secret", "wrong"].map(|password| {
        let path = secrets.path().join(password);
        std::fs::write(&path, password).unwrap();
        path.to_str().unwrap().to_owned()
    });

    for (properties, expected) in [
        (
            scram(&wrong, Some(&ca)),
            &["SASL authentication error", "`sasl.username` and `sasl.password`"][..],
        ),
        (
            scram(&right, None),
            &["certificate", "set `ssl.ca.location` in `kafka.properties`"],
        ),
        (
            "\"security.protocol\" = \"plaintext\"".to_owned(),
            &["`security.protocol` in `kafka.properties`"],
        ),
    ] {
        let refused = check(&home(&broker, &address, &properties, ""));
        assert_eq!(refused.code, Some(3), "{refused:?}");
        for part in expected.iter().chain(&[address.as_str()]) {
            assert!(refused.err.contains(part), "{part} is not in {refused:?}");
        }
    }

    let properties = scram(&right, Some(&ca));
    let mut home = home(
        &broker,
        &address,
        &properties,
        "serving.events_listen = \"127.0.0.1:0\"",
    );
    let found = check(&home);
    assert_eq!(found.code, Some(0), "{found:?}");
    let daemon = home.start();
    let world = World::generate(50, &home.path().join("world"));
    broker.feed(&world.events);
    daemon.wait_joined(broker.n_records());
    let event = json!({ "stream": "impressions", "event": {
        "request_id": "posted", "user_id": "u", "ts_ms": world.end_ms, "items": [{ "item_id": "item-0" }] } });
    let mut client = RankClient::connect(daemon.address).unwrap();
    let reply = client.post("/v1/events", &event.to_string()).unwrap();
    assert_eq!(reply.status, 200, "{}", reply.body);
    daemon.wait_joined(broker.n_records() + 1);
    daemon.stop();
}

#[test]
fn a_daemon_with_a_wrong_password_ends_soon_with_the_reason() {
    let Some((own, broker, address)) = secure("wrong_password") else {
        return;
    };
    let secrets = tempfile::tempdir().unwrap();
    let path = secrets.path().join("password");
    std::fs::write(&path, "wrong").unwrap();
    let properties = scram(path.to_str().unwrap(), Some(&own.certificate()));
    let home = home(&broker, &address, &properties, "");
    let started = Instant::now();
    let ended = run(["daemon", "--config", home.config().to_str().unwrap()]);
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("SASL authentication error"), "{ended:?}");
}

#[test]
fn tokens_of_an_openid_provider_are_fetched_and_accepted() {
    let Some((own, broker, address)) = secure("oidc") else {
        return;
    };
    let provider = TokenEndpoint::start();
    let properties = format!(
        "\"security.protocol\" = \"sasl_ssl\"\n\"ssl.ca.location\" = {:?}\n\"sasl.mechanism\" = \"OAUTHBEARER\"\n\
         \"sasl.oauthbearer.method\" = \"oidc\"\n\"sasl.oauthbearer.client.id\" = \"ouzel\"\n\
         \"sasl.oauthbearer.client.secret\" = \"${{env:PATH}}\"\n\
         \"sasl.oauthbearer.token.endpoint.url\" = \"http://{}/token\"",
        own.certificate(),
        provider.0,
    );
    let found = check(&home(&broker, &address, &properties, ""));
    assert_eq!(found.code, Some(0), "{found:?}");

    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let properties = properties.replace(&provider.0.to_string(), &nobody.to_string());
    let refused = check(&home(&broker, &address, &properties, ""));
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(
        refused.err.contains("sasl.oauthbearer.token.endpoint.url"),
        "{refused:?}"
    );
}

/// An OpenID token endpoint that gives everybody an unsigned token; it ends with the test program.
struct TokenEndpoint(SocketAddr);

impl TokenEndpoint {
    #[allow(clippy::disallowed_methods, reason = "a test has no supervisor")]
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let (mut line, mut length) = (String::new(), 0);
                while stream.read_line(&mut line).unwrap_or(0) > 2 {
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).unwrap();
                let reply = json!({ "access_token": token(), "token_type": "Bearer", "expires_in": 3600 });
                let reply = reply.to_string();
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    reply.len()
                );
                stream.get_mut().write_all((head + &reply).as_bytes()).unwrap();
            }
        });
        Self(address)
    }
}

/// An unsigned JSON web token that is valid for an hour.
#[allow(clippy::disallowed_methods, reason = "the broker compares it with its clock")]
fn token() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({ "sub": "ouzel", "iat": now, "exp": now + 3600, "scope": "kafka" });
    let part = |value: serde_json::Value| base64_url(value.to_string().as_bytes());
    format!("{}.{}.", part(json!({ "alg": "none" })), part(claims))
}

/// Base 64 with the alphabet of URLs, without padding.
fn base64_url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let padded = [chunk[0], *chunk.get(1).unwrap_or(&0), *chunk.get(2).unwrap_or(&0)];
        let bits = padded
            .iter()
            .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        for place in 0..=chunk.len() {
            let index = bits >> (18 - 6 * place) & 63;
            text.push(char::from(ALPHABET[usize::try_from(index).unwrap()]));
        }
    }
    text
}
