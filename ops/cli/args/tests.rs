//! Every documented command line.

use clap::CommandFactory;

use super::*;

fn parse(line: &str) -> Verb {
    let args = ["ouzel"].into_iter().chain(line.split_whitespace());
    Cli::try_parse_from(args)
        .unwrap_or_else(|error| panic!("{line}: {error}"))
        .verb
}

#[test]
fn the_commands_are_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn every_documented_command_line_is_parsed() {
    let Verb::Demo(demo) = parse("demo --data d --keep-serving --json --state s --listen 127.0.0.1:0") else {
        panic!()
    };
    assert!(demo.keep_serving && demo.json);
    assert_eq!(demo.listen.unwrap().port(), 0);

    let Verb::Replay(replay) = parse("replay --data d --config a b --labels immediate --seed 7 --json")
    else {
        panic!()
    };
    assert_eq!(replay.config.len(), 2);
    assert_eq!((replay.labels, replay.seed), (Labels::Immediate, Some(7)));
    let Verb::Replay(replay) = parse("replay --from start --to 100 --config a --config b") else {
        panic!()
    };
    assert_eq!(
        (replay.from, replay.to),
        (Some(RangePoint::Start), Some(RangePoint::Offset(100)))
    );
    assert_eq!(replay.config.len(), 2);

    for line in [
        "daemon --config ouzel.toml",
        "join --config ouzel.toml --instance join-3",
        "demo",
        "score --state s -",
        "candidate start 1 --shadow --share 10%",
        "candidate start --learn second.toml --shadow",
        "candidate start --learn second.toml --from latest --canary 5%",
        "candidate start latest --canary 5% --note calmer --config c",
        "candidate show --json",
        "candidate stop --note done",
        "promote --config c --note better --json",
        "snapshot list --state s --json",
        "snapshot --state s --json list",
        "snapshot show latest",
        "snapshot verify",
        "snapshot diff 1 2 --config c",
        "snapshot pin 1 --note why",
        "snapshot unpin",
        "snapshot rollback 00000000000000000001 --rewind",
        "snapshot rollback 1 --skip-to now --dry-run",
        "snapshot quarantine --user u --from 2026-05-01T12:00:00Z --note bot",
        "snapshot quarantine --where source=a --only-new",
        "snapshot freeze-base --config c --note warm",
        "snapshot rebase --json --config c",
        "snapshot gc --keep 3",
        "config show",
        "config show f",
        "config check --config f",
        "config schema",
        "model list --json",
        "model describe",
        "model describe din --config f --history 20 --candidates 8 --json",
        "topics create --config f --partitions 4",
        "verify --kills 200 --seed 7 --fail-points all --json --state s",
        "completions zsh",
    ] {
        parse(line);
    }
}
