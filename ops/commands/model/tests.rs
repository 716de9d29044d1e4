//! The model commands.

use std::ffi::OsString;

use serde_json::Value;

use super::*;

/// Runs `ouzel model <args>`; returns the exit code, stdout and stderr.
fn model(args: &[&str]) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = ["ouzel", "model"].iter().chain(args).map(OsString::from);
    let exit = crate::commands::run(args, &mut out, &mut err);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (exit.code(), text(out), text(err))
}

#[track_caller]
fn json_of(args: &[&str]) -> Value {
    let (code, out, err) = model(&[args, &["--json"]].concat());
    assert_eq!((code, err.as_str()), (0, ""), "{args:?}");
    serde_json::from_str(&out).unwrap()
}

fn block<'a>(described: &'a Value, name: &str) -> &'a Value {
    let blocks = described["blocks"].as_array().unwrap();
    let found = blocks.iter().find(|part| part["block"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {described}"))
}

#[test]
fn the_ready_made_models_are_listed_and_described() {
    let listed = json_of(&["list"]);
    let listed = listed["models"].as_array().unwrap();
    assert_eq!(listed.len(), READY_MADE.len());
    let (_, text, _) = model(&["list"]);
    assert!(
        text.contains("em3-hstu") && text.contains("The default."),
        "{text}"
    );
    for entry in listed {
        let name = entry["name"].as_str().unwrap();
        let described = json_of(&["describe", name]);
        assert_eq!(described["model"], name);
        let count = |part: &str| described["parameters"][part].as_u64().unwrap();
        let weights = described["weights"].as_array().unwrap();
        let sum: u64 = weights.iter().map(|w| w["parameters"].as_u64().unwrap()).sum();
        assert_eq!(count("base") + count("adapter") + count("head"), sum, "{name}");
        let (code, text, _) = model(&["describe", name]);
        assert_eq!(code, 0);
        for weight in weights {
            assert!(text.contains(weight["name"].as_str().unwrap()), "{text}");
        }
    }
    let default = json_of(&["describe"]);
    assert_eq!(default, json_of(&["describe", "em3-hstu"]));
}

#[test]
fn the_figures_are_those_of_the_requested_history_and_candidates() {
    let long = json_of(&["describe", "em3-hstu", "--candidates", "3"]);
    let short = json_of(&["describe", "em3-hstu", "--history", "10", "--candidates", "0"]);
    let (totals, sequence) = (&long["totals"], block(&long, "sequence"));
    let number = |value: &Value| value.as_u64().unwrap();
    assert_eq!(
        number(&totals["slate"]),
        number(&totals["request"]) + 3 * number(&totals["candidate"])
    );
    assert_eq!(
        (
            number(&sequence["history"]),
            number(&short["totals"]["candidates"])
        ),
        (50, 0)
    );
    assert_eq!(short["totals"]["slate"], short["totals"]["request"]);
    let (sequence, flops) = (block(&short, "sequence"), &block(&short, "sequence")["flops"]);
    assert_eq!(sequence["history"], 10);
    assert_eq!(
        number(&flops["request_at_history"]),
        number(&flops["request"]["fixed"])
            + 10 * number(&flops["request"]["per_entry"])
            + 100 * number(&flops["request"]["per_pair"])
    );
    assert!(number(&short["totals"]["request"]) < number(&totals["request"]));
    // A history has at most as many entries as a block reads.
    let longest = json_of(&[
        "describe",
        "em3-hstu",
        "--history",
        "4000000",
        "--candidates",
        "3",
    ]);
    assert_eq!(longest, long);
}

#[test]
fn adapters_rows_and_assumptions_are_described() {
    let described = json_of(&["describe", "em3-din"]);
    // Rank 8 between 128 floats of content and 64 of query and key.
    assert_eq!(described["parameters"]["adapter"], 2 * 8 * (128 + 64));
    assert_eq!(described["rows"][0]["weight_bytes"], 32);
    assert_eq!(described["rows"][0]["state_bytes"], 4);
    assert_eq!(described["rows"][1]["state_bytes"], 8);
    let note = described["notes"][0].as_str().unwrap();
    assert!(note.contains("384 and 1280"), "{note}");
    assert_eq!(json_of(&["describe", "deepfm"])["notes"], json!([]));
}

#[test]
fn a_model_is_described_under_its_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let config = write(
        "ouzel.toml",
        "join.tasks = [{ name = \"click\", window = \"10m\" }, { name = \"order\", window = \"1d\" }]\n\
         model.from = \"mmoe\"",
    );
    let described = json_of(&["describe", "--config", &config]);
    assert_eq!(
        (&described["model"], &described["tasks"][1]),
        (&json!("mmoe"), &json!("order"))
    );
    // Without an encoder there is no content, as in a daemon.
    let bare = json_of(&["describe", "em3-hstu", "--config", &config]);
    assert_eq!(bare["model"], "em3-hstu");
    assert!(bare["notes"][0].as_str().unwrap().contains("left out"), "{bare}");
    assert!(
        bare["blocks"]
            .as_array()
            .unwrap()
            .iter()
            .all(|part| part["block"] != "content")
    );

    let mine = write(
        "mine.toml",
        "from = \"din\"\ndim = 16\n[sequence]\nattention_hidden = [8, 4]",
    );
    let described = json_of(&["describe", &mine]);
    assert_eq!(described["rows"][0]["width"], 16);
    let what = block(&described, "sequence")["what"].as_str().unwrap();
    assert!(what.contains("DIN of 8 and 4"), "{what}");
}

#[test]
fn the_backend_is_named_with_the_reason_where_it_is_not_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep.toml");
    std::fs::write(&path, "from = \"hstu\"\n[sequence]\nlayers = 2").unwrap();
    let deep = path.display().to_string();
    for (name, backend, line) in [
        ("em3-hstu", "cpu", "\nbackend cpu\n"),
        (
            &deep,
            "torch",
            "\nbackend torch: the cpu backend cannot run it, it has HSTU of more than one layer\n",
        ),
    ] {
        assert_eq!(json_of(&["describe", name])["backend"], backend);
        let (_, text, _) = model(&["describe", name]);
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn an_unusable_model_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let odd = write("odd.toml", "from = \"em3-din\"\n[content]\nheads = 3");
    let unknown = write("unknown.toml", "[sequence]\nkinds = \"din\"");
    let round = write(
        "round.toml",
        &format!("from = {:?}", dir.path().join("round.toml")),
    );
    for (name, expected) in [
        ("em4", "no model is called em4\nhint: `ouzel model list`"),
        ("nowhere.toml", "cannot read the model file nowhere.toml"),
        (&odd, "model.content.heads: must divide content.width"),
        (&unknown, "sequence.kinds: unknown key"),
        (&round, "start from each other"),
    ] {
        let (code, out, err) = model(&["describe", name]);
        assert_eq!((code, out.as_str()), (2, ""), "{name}: {err}");
        assert!(
            err.starts_with("error: ") && err.contains(expected),
            "{name}: {err}"
        );
    }
}
