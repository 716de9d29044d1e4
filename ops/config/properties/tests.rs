//! Nothing that was planted as a secret is ever printed.

use super::*;

const PLANTED: &str = "hunter2";

fn properties<const N: usize>(written: [(&str, String); N]) -> Properties {
    let written = written.map(|(name, value)| (name.to_owned(), value));
    Properties {
        written: written.into(),
    }
}

fn env(name: &str) -> Option<String> {
    (name == "KAFKA_PASSWORD").then(|| PLANTED.to_owned())
}

#[test]
fn dotted_names_need_no_quotes_and_numbers_need_none_either() {
    let quoted: Properties = toml::from_str(
        "\"ssl.ca.location\" = \"ca.pem\"\n\"check.crcs\" = \"true\"\n\"fetch.wait.max.ms\" = \"50\"",
    )
    .unwrap();
    let plain: Properties =
        toml::from_str("ssl.ca.location = \"ca.pem\"\ncheck.crcs = true\nfetch.wait.max.ms = 50").unwrap();
    assert_eq!(quoted, plain);
    assert!(toml::from_str::<Properties>("a = [1]").is_err());
    assert!(toml::from_str::<Properties>("a.b = 1\n\"a.b\" = 2").is_err());
}

#[test]
fn references_are_followed_only_when_asked_and_never_printed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    fs::write(&path, format!("{PLANTED}\n")).unwrap();
    let properties = properties([
        ("sasl.password", "${env:KAFKA_PASSWORD}".to_owned()),
        ("client.id", "a-${env:KAFKA_PASSWORD}-b".to_owned()),
        ("ssl.key.password_file", path.display().to_string()),
    ]);
    let resolved = properties.resolve(env).unwrap();
    let value = |name: &str| resolved.get(name).map(String::as_str);
    assert_eq!(value("sasl.password"), Some(PLANTED));
    assert_eq!(value("ssl.key.password"), Some(PLANTED));
    assert_eq!(value("client.id"), Some("a-hunter2-b"));
    assert_eq!(value("ssl.key.password_file"), None);
    for printed in [format!("{properties:?}"), toml::to_string(&properties).unwrap()] {
        assert!(!printed.contains(PLANTED), "{printed}");
    }
}

#[test]
fn a_secret_in_plain_text_is_found_and_redacted() {
    let properties = properties([
        ("sasl.password", PLANTED.to_owned()),
        ("ssl.key.password", format!("{PLANTED}${{env:X}}")),
        ("sasl.username", "me".to_owned()),
    ]);
    assert_eq!(
        properties.plain_secrets().collect::<Vec<_>>(),
        ["sasl.password", "ssl.key.password"]
    );
    assert!(!format!("{properties:?}").contains(PLANTED));
    assert!(!toml::to_string(&properties).unwrap().contains(PLANTED));
}

#[test]
fn an_error_names_the_reference_that_cannot_be_followed() {
    for (name, value, expected) in [
        (
            "sasl.password",
            "${env:NOBODY}",
            "environment variable NOBODY is not set",
        ),
        ("sasl.password", "${NOBODY}", "written ${env:NAME}"),
        ("client.id", "x${env:NOBODY", "written ${env:NAME}"),
        (
            "sasl.password_file",
            "/nowhere/at/all",
            "cannot set kafka property sasl.password from the file",
        ),
    ] {
        let properties = properties([(name, value.to_owned())]);
        let message = properties.resolve(env).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}
