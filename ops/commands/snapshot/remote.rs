//! `ouzel snapshot list --remote` and `fetch`: the remote copy of a state directory, and snapshots from it.

use std::io::Write;

use anyhow::anyhow;
use ouzel_snapshot::{RemoteCopy, SnapshotId, Store};
use serde_json::json;

use super::lineage;
use crate::commands::output;
use crate::config::Config;
use crate::error::{ErrorExt, Exit};
use crate::pipeline::remote::required;

/// Lists the snapshots of the remote copy.
pub(super) fn list(config: &Config, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let remote = required(config)?;
    let listed = RemoteCopy::read(&remote)?
        .map(|copy| copy.list())
        .unwrap_or_default();
    match json {
        true => output::json(&json!({ "remote": remote.url(), "snapshots": listed }), out)?,
        false if listed.is_empty() => writeln!(out, "no snapshots in {}", remote.url())?,
        false => lineage::list(&listed, out)?,
    }
    Ok(Exit::Ok)
}

/// Copies a snapshot of the remote copy, with those that it needs, to the state directory.
pub(super) fn fetch(config: &Config, id: &str, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let remote = required(config)?;
    let copy = RemoteCopy::read(&remote)?
        .ok_or_else(|| anyhow!("there is no copy at {}", remote.url()))
        .hint("a daemon with `snapshot.remote` makes one")?;
    let id = resolve(&copy, id)?;
    let fetched = copy.fetch(&Store::open(&config.snapshot.dir)?, id)?;
    match (json, fetched.len()) {
        (true, _) => output::json(&json!({ "snapshot": id, "fetched": fetched }), out)?,
        (false, 0) => writeln!(
            out,
            "snapshot {id} is in {} already",
            config.snapshot.dir.display()
        )?,
        (false, n) => writeln!(
            out,
            "copied {n} snapshots to {}; `ouzel snapshot rollback {} --skip-to now` makes a start continue from it",
            config.snapshot.dir.display(),
            id.number()
        )?,
    }
    Ok(Exit::Ok)
}

/// The snapshot of an id, an alias or a tag of the copy.
fn resolve(copy: &RemoteCopy, text: &str) -> anyhow::Result<SnapshotId> {
    if let Ok(number) = text.parse()
        && text.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Ok(SnapshotId::new(number));
    }
    copy.target(text)
        .or_else(|| copy.target(&format!("tags/{text}")))
        .ok_or_else(|| anyhow!("`{text}` is not a snapshot id, alias or tag of the remote copy"))
        .hint("`ouzel snapshot list --remote` shows them")
        .exit(Exit::Usage)
}
