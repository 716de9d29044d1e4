#!/usr/bin/env python3
"""Compares the first samples of a log under ouzel with a one-line Vowpal Wabbit.

Vowpal Wabbit (package `vowpalwabbit`) learns a logistic model with all pairs of user, item, category and title words. Both predict
each request before they learn it, with labels at once.

    vw_start.py DATA_DIR OUZEL [--config FILE] [--sizes 1000 3000 10000]     # one JSON object a line
"""

import argparse
import gzip
import itertools
import json
import math
import pathlib
import re
import subprocess


def lines(folder, name):
    packed, plain = folder / (name + ".jsonl.gz"), folder / (name + ".jsonl")
    with gzip.open(packed, "rt") if packed.exists() else open(plain) as file:
        for line in file:
            yield json.loads(line)


def word(text):
    return re.sub(r"[\s:|]+", "_", str(text)) or "none"


def figures(scored):
    """AUC with ties at one half, log-loss over the entropy of the mean label, and calibration."""
    n, positives = len(scored), sum(label for _, label in scored)
    if not 0 < positives < n:
        return {"judged": n, "positives": positives, "auc": None, "ne": None, "calibration": None}
    ranks, at = 0.0, 0
    ordered = sorted(scored)
    for _, tied in itertools.groupby(ordered, key=lambda pair: pair[0]):
        tied = list(tied)
        ranks += (at + (len(tied) + 1) / 2) * sum(label for _, label in tied)
        at += len(tied)
    auc = (ranks - positives * (positives + 1) / 2) / (positives * (n - positives))
    loss = -sum(math.log(p if label else 1 - p) for p, label in scored) / n
    rate = positives / n
    entropy = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
    return {
        "judged": n,
        "positives": positives,
        "auc": auc,
        "ne": loss / entropy,
        "calibration": sum(p for p, _ in scored) / positives,
    }


def wabbit(folder, limit):
    """Predictions and labels of the first `limit` samples, each request predicted before it is learned."""
    import vowpalwabbit

    items = {item["item_id"]: item for item in lines(folder, "items")}
    clicks = {(click["request_id"], click["item_id"]) for click in lines(folder, "clicks")}
    learner = vowpalwabbit.Workspace("--loss_function logistic -q :: -b 20 --link logistic --quiet")
    scored = []
    shown = itertools.islice(lines(folder, "impressions"), limit)
    for request, rows in itertools.groupby(shown, key=lambda row: row["request_id"]):
        rows, examples = list(rows), []
        for row in rows:
            item = items.get(row["item_id"], {})
            title = " ".join(word(w) for w in str(item.get("title", "")).lower().split())
            examples.append(
                "|u {} |i {} |c {} |t {}".format(
                    word(row["user_id"]), word(row["item_id"]), word(item.get("category", "")), title
                )
            )
        for row, example in zip(rows, examples):
            p = min(max(learner.predict(example), 1e-6), 1 - 1e-6)
            scored.append((p, (request, row["item_id"]) in clicks))
        for (_, label), example in zip(scored[-len(rows) :], examples):
            learner.learn("{} {}".format(1 if label else -1, example))
    return scored


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=pathlib.Path)
    arguments.add_argument("ouzel")
    arguments.add_argument("--config")
    arguments.add_argument("--sizes", type=int, nargs="+", default=[1000, 3000, 10000])
    args = arguments.parse_args()
    peers = wabbit(args.data, max(args.sizes))
    for n in args.sizes:
        command = [args.ouzel, "replay", "--data", str(args.data), "--labels", "immediate", "--json", "--limit", str(n)]
        if args.config:
            command += ["--config", args.config]
        run = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["runs"][0]
        ours = {key: run[key] for key in ("judged", "positives", "auc", "ne", "calibration")}
        print(json.dumps({"log": args.data.name, "n": n, "ouzel": ours, "vw": figures(peers[:n])}), flush=True)


if __name__ == "__main__":
    main()
