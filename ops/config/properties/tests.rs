//! Nothing that was planted as a secret is ever printed.

use super::*;

const PLANTED: &str = "hunter2";

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
    let properties = Properties::from_written([
        ("sasl.password".to_owned(), "${env:KAFKA_PASSWORD}".to_owned()),
        ("client.id".to_owned(), "a-${env:KAFKA_PASSWORD}-b".to_owned()),
        ("ssl.key.password_file".to_owned(), path.display().to_string()),
    ]);
    let resolved = properties.resolve(env).unwrap();
    assert_eq!(resolved.get("sasl.password"), Some(PLANTED));
    assert_eq!(resolved.get("ssl.key.password"), Some(PLANTED));
    assert_eq!(resolved.get("client.id"), Some("a-hunter2-b"));
    assert_eq!(resolved.get("ssl.key.password_file"), None);
    for printed in [
        format!("{properties:?}"),
        format!("{resolved:?}"),
        toml::to_string(&properties).unwrap(),
    ] {
        assert!(!printed.contains(PLANTED), "{printed}");
    }
}

#[test]
fn a_secret_in_plain_sight_is_found_and_redacted() {
    let properties = Properties::from_written([
        ("sasl.password".to_owned(), PLANTED.to_owned()),
        ("ssl.key.password".to_owned(), format!("{PLANTED}${{env:X}}")),
        ("sasl.username".to_owned(), "me".to_owned()),
    ]);
    assert_eq!(
        properties.plain_secrets().collect::<Vec<_>>(),
        ["sasl.password", "ssl.key.password"]
    );
    assert!(!format!("{properties:?}").contains(PLANTED));
    assert!(!toml::to_string(&properties).unwrap().contains(PLANTED));
}

#[test]
fn a_reference_that_leads_nowhere_names_itself() {
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
        let properties = Properties::from_written([(name.to_owned(), value.to_owned())]);
        let message = properties.resolve(env).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}
