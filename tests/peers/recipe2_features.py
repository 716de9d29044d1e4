"""The live features of a log by their formulas, in double precision: what `ingest/tests/recipe2.rs` compares with.

    python3 tests/peers/recipe2_features.py OUT                                # a small made-up log
    python3 tests/peers/recipe2_features.py OUT --data DIR --requests 5000     # the start of a log

Writes the log's first requests as a data folder to OUT, and the features of every request to OUT/expected.jsonl. Items
without vectors get text vectors made of their title's words, so that no encoder is needed. Then:

    OUZEL_RECIPE2=OUT cargo test -p ouzel-ingest --test recipe2

Without OUZEL_RECIPE2 the test reads the made-up log in ingest/tests/recipe2. Needs Python 3 and numpy. Labels are known
right after each request.
"""
import argparse
import gzip
import json
import math
import pathlib
import random
import re
from collections import Counter, defaultdict

import numpy as np

MINUTE = 60_000.0
COUNTED = ("item_ctr", "item_fast_ctr", "item_recent_impressions", "item_action_age")
WIDTH = 24
NO_FEATURE = {"item_id", "ts_ms", "category", "author", "author_id", "director", "title", "text", "image", "vectors",
              "features"}


def rows(folder, name):
    for path in (folder / f"{name}.jsonl.gz", folder / f"{name}.jsonl"):
        if path.exists():
            opened = gzip.open(path, "rt") if path.suffix == ".gz" else path.open()
            return [json.loads(line) for line in opened if line.strip()]
    return []


def write(folder, name, lines):
    with (folder / f"{name}.jsonl").open("w") as out:
        out.writelines(json.dumps(line) + "\n" for line in lines)


def logit(p):
    p = min(max(p, 3.4e-4), 1 - 3.4e-4)
    return math.log(p / (1 - p))


def text(value):
    """A scalar as text; nothing for empty text, null, lists and objects."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (str, int, float)) and value != "" else None


def values(item):
    """The categorical values of an item: sets by field."""
    category = item.get("category")
    categories = category if isinstance(category, list) else (text(category) or "").split("|")
    authors = [text(item[field]) for field in ("author", "author_id", "director") if text(item.get(field))]
    tags = set()
    for name, value in item.items():
        if name in NO_FEATURE:
            continue
        if isinstance(value, list):
            tags |= {(name, text(one)) for one in value if text(one)}
        elif isinstance(value, (str, bool)) or (isinstance(value, int) and name.endswith("_id")):
            if text(value):
                tags.add((name, text(value)))
    return {
        "category": {("category", one) for one in categories if one},
        "author": {("author", one) for one in authors[:1]},
        "tag": tags,
    }


def words(item):
    """The first 16 distinct words of a title, of three letters or more."""
    found = re.findall(r"[^\W_]+", (item.get("title") or "").lower())
    return list(dict.fromkeys(word for word in found if len(word) > 2))[:16]


def made_up_vector(item):
    """A vector near a common one, of parts of the title's words."""
    total = np.full(WIDTH, 0.6)
    for word in words(item) or [item["item_id"]]:
        rng = np.random.default_rng(list(word.encode()))
        total += rng.normal(size=WIDTH) * 0.5
    return [float(x) for x in total.astype(np.float32)]


def unit(vector, least=1e-3):
    length = np.linalg.norm(vector)
    return vector / length if length >= least else np.zeros_like(vector)


class Decayed:
    """A count that decays with event time."""

    def __init__(self, constant):
        self.constant, self.value, self.at = constant, 0.0, None

    def read(self, now):
        return self.value * math.exp(-(now - self.at) / self.constant) if self.at is not None else 0.0

    def add(self, now, amount):
        self.value, self.at = self.read(now) + amount, now


class User:
    def __init__(self):
        self.clicks, self.values, self.words = 0, Counter(), Counter()
        self.scales = {minutes: (Decayed(minutes * MINUTE), Decayed(minutes * MINUTE)) for minutes in (10, 60)}
        self.averages, self.last = None, []
        self.session, self.session_clicks, self.last_shown = 0, 0, None
        self.acted, self.shown = [], []  # of (event time, item)


class Shown:
    """What was counted of an item that was shown."""

    def __init__(self, p):
        self.n = self.k = 0
        self.fast, self.recent, self.last_action = p, Decayed(60 * MINUTE), None


class State:
    """Everything known before the next request."""

    def __init__(self, items, histories):
        self.items = {item["item_id"]: item for item in items}
        self.of = {key: values(item) for key, item in self.items.items()}
        self.titles = {key: words(item) for key, item in self.items.items()}
        counts = Counter(word for title in self.titles.values() for word in title)
        n = len(self.items)
        self.idf = defaultdict(lambda: max(0.0, math.log(n)) if n else 0.0)
        self.idf.update({word: max(0.0, math.log(n / (count + 1))) for word, count in counts.items()})
        vectors = {key: unit(np.float32(item["vectors"]["text"]).astype(float))
                   for key, item in self.items.items() if item.get("vectors")}
        mean = np.mean(list(vectors.values()), axis=0) if vectors else None
        self.directions = {key: unit(vector - mean) for key, vector in vectors.items()}
        self.users, self.value_clicks, self.all_clicks = defaultdict(User), Counter(), 0
        self.shown = self.acted = 0
        self.counts = {}
        self.sizes = defaultdict(lambda: [0, 0])
        self.recent = Decayed(60 * MINUTE), Decayed(60 * MINUTE)
        for row in histories:
            for item in row["clicked_before"]:
                self.click(self.users[row["user_id"]], str(item), -math.inf)

    def click(self, user, item, now):
        """An action, as far as shares, words and the past are concerned."""
        user.acted.append((now, item))
        user.clicks += 1
        self.all_clicks += 1
        for of_field in self.of.get(item, {}).values():
            user.values.update(of_field)
            self.value_clicks.update(of_field)
        user.words.update(self.titles.get(item, []))

    def rate(self):
        return (self.acted + 0.05) / (self.shown + 1)

    def features(self, user_id, items, now):
        """Features of a slate, by name: a number per item."""
        user, p = self.users.get(user_id) or User(), self.rate()
        found = {name: [value] * len(items) for name, value in self.shared(user, len(items), now, p).items()}
        for field, prior in (("category", 20), ("author", 200), ("tag", 200)):
            found[field + "_share"] = [self.share(user, self.of.get(item, {}).get(field, ()), prior) for item in items]
        for name, column in zip(("cosine", "max", "share"), zip(*[self.title(user, item) for item in items])):
            found["title_" + name] = list(column)
        for name, column in zip(COUNTED, zip(*[self.counted(item, now, p) for item in items])):
            found[name] = list(column)
        names = ("mean", "max", "top3", "recent", "ctr", "passed")
        for name, column in zip(names, zip(*self.similarities(user, items, now, p))):
            found["text_" + name] = list(column)
        centred = [name for name in found if name.startswith(("title_", "text_")) or name.endswith("_share")]
        for name in centred + ["item_ctr", "item_fast_ctr", "item_recent_impressions"]:
            mean = sum(found[name]) / len(items)
            found["slate_" + name] = [value - mean for value in found[name]]
        return found

    def counted(self, item, now, p):
        of_item = self.counts.get(item)
        if of_item is None:
            return 0.0, 0.0, 0.0, 8.0
        age = of_item.last_action
        return (
            logit((of_item.k + 1) / (of_item.n + max(2, 1 / p))) - logit(p),
            logit(0.9 * of_item.fast + 0.1 * p) - logit(p),
            math.log1p(of_item.recent.read(now)),
            8.0 if age is None else math.log1p((now - age) / MINUTE),
        )

    def shared(self, user, size, now, p):
        m, lp = max(2, 1 / p), logit(p)
        n, k = self.sizes[math.floor(4 * math.log(size))]
        found = {"slate_size_ctr": logit((k + 20 * p) / (n + 20)) - lp, "global_rate": lp}
        for minutes, name in ((10, "user_10min_ctr"), (60, "user_recent_ctr")):
            n, k = (count.read(now) for count in user.scales[minutes])
            found[name] = logit((k + 1) / (n + m)) - lp
        n, k = (count.read(now) for count in self.recent)
        found["global_recent_ctr"] = logit((k + 10 * p) / (n + 10)) - lp
        averages = user.averages or (p, p)
        for name, average in zip(("user_ema5_ctr", "user_ema2_ctr"), averages):
            found[name] = logit(0.8 * average + 0.2 * p) - lp
        for age in range(3):
            found[f"user_outcome_{age + 1}"] = user.last[-1 - age] if age < len(user.last) else 0.0
        is_open = user.last_shown is not None and now - user.last_shown <= 30 * MINUTE
        found["session_impressions"] = math.log1p(user.session) if is_open else 0.0
        found["session_actions"] = math.log1p(user.session_clicks) if is_open else 0.0
        return found

    def share(self, user, of_item, prior):
        if not user.clicks or not of_item:
            return 0.0
        logs = []
        for value in of_item:
            g = (self.value_clicks[value] + 1) / (self.all_clicks + prior)
            logs.append(math.log((user.values[value] + 2 * g) / (user.clicks + 2) / g))
        return sum(logs) / len(logs)

    def title(self, user, item):
        title = self.titles.get(item, [])
        total = sum(self.idf[word] for word in title)
        if not user.words or not total:
            return 0.0, 0.0, 0.0
        weights = {word: math.log1p(count) * self.idf[word] for word, count in user.words.items()}
        norms = math.hypot(*weights.values()) * math.hypot(*[self.idf[word] for word in title])
        product = sum(weights.get(word, 0.0) * self.idf[word] for word in title)
        known = sum(self.idf[word] for word in title if word in weights)
        return product / norms if norms else 0.0, max(weights.get(word, 0.0) for word in title), known / total

    def similarities(self, user, items, now, p):
        acted = [item for ts, item in user.acted[-200:] if ts < now][-100:]
        passed = [item for ts, item in user.shown if ts < now and item not in set(acted)]
        near, far = ([self.directions[item] for item in past if item in self.directions]
                     for past in (acted[-50:], passed))
        for item in items:
            own = self.directions.get(item)
            if own is None or not near and not far:
                yield 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
                continue
            cosines = np.array([own @ past for past in near])
            others = np.array([own @ past for past in far])
            weight, other = ((np.maximum(x, 0) ** 2).sum() for x in (cosines, others))
            ctr = logit((weight + p) / (weight + other + 1)) - logit(p)
            worst = max(0.0, others.max()) if len(far) else 0.0
            if not near:
                yield 0.0, 0.0, 0.0, 0.0, ctr, worst
                continue
            mean = own @ unit(np.sum(near, axis=0))
            yield mean, cosines.max(), np.sort(cosines)[-3:].mean(), cosines[-5:].mean(), ctr, worst

    def learn(self, user_id, items, now, clicked):
        """A request that was shown, with the items that were clicked, in order."""
        user, p = self.users[user_id], self.rate()
        if user.last_shown is None or now - user.last_shown > 30 * MINUTE:
            user.session = user.session_clicks = 0
        user.last_shown = now
        averages = user.averages or (p, p)
        for item in items:
            y = float(item in clicked)
            averages = tuple(a + rate * (y - a) for a, rate in zip(averages, (0.2, 0.5)))
            user.last.append(y - p)
            of_item = self.counts.setdefault(item, Shown(p))
            of_item.n += 1
            of_item.k += y
            of_item.fast += 0.05 * (y - of_item.fast)
            of_item.recent.add(now, 1)
            of_item.last_action = now if y else of_item.last_action
        user.averages = averages
        user.last = user.last[-3:]
        user.shown = (user.shown + [(now, item) for item in items])[-50:]
        for n, k in [*user.scales.values(), self.recent]:
            n.add(now, len(items))
            k.add(now, len(clicked))
        user.session += len(items)
        user.session_clicks += len(clicked)
        size = self.sizes[math.floor(4 * math.log(len(items)))]
        size[0] += len(items)
        size[1] += len(clicked)
        self.shown += len(items)
        self.acted += len(clicked)
        for item in clicked:
            self.click(user, item, now)


def made_up():
    """A log of 120 requests with every kind of event."""
    rng = random.Random(7)
    vocabulary = ["alpha", "beta", "of", "gamma", "delta", "The", "naïve", "x2", "2024", "straße", "omega", "kappa"]
    items = []
    for n in range(60):
        title = " ".join(rng.choices(vocabulary, k=rng.randrange(9)))
        item = {"item_id": f"i{n}", "title": title, "category": "|".join(rng.sample(["a", "b", "c"], rng.randrange(3)))}
        if n % 3:
            item["author"] = f"author {n % 7}"
        if n % 4:
            item["subcategory"] = f"sub {n % 5}"
        items.append(item)
    histories = [{"user_id": f"u{n}", "ts_ms": 0, "clicked_before": [f"i{rng.randrange(70)}" for _ in range(n)]}
                 for n in range(6)]
    impressions, clicks, now = [], [], 1_700_000_000_000
    for n in range(120):
        now += rng.choice([1_000, 20_000, 60_000, 400_000, 2_500_000])
        user = f"u{rng.randrange(10)}"
        for item in rng.sample(range(64), rng.choice([1, 1, 2, 3, 5, 8, 13])):
            row = {"request_id": f"r{n}", "user_id": user, "item_id": f"i{item}", "ts_ms": now}
            impressions.append(row)
            if rng.random() < (0.4 if item % 3 == 0 else 0.1):
                clicks.append({**row, "ts_ms": now + 500})
    return impressions, clicks, items, histories


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--requests", type=int, default=5000)
    args = parser.parse_args()
    if args.data:
        impressions, clicks, items, histories = (
            rows(args.data, name) for name in ("impressions", "clicks", "items", "user_history"))
    else:
        impressions, clicks, items, histories = made_up()
    slates = {}
    for row in impressions:
        slate = slates.setdefault(row["request_id"], {"user": str(row["user_id"]), "ts": row["ts_ms"], "rows": {}})
        slate["rows"].setdefault(str(row["item_id"]), row)
    order = sorted(slates, key=lambda request: slates[request]["ts"])[:args.requests]
    chosen = set(order)
    users = {slates[request]["user"] for request in order}
    clicks = [row for row in clicks if row["request_id"] in chosen]
    histories = [row for row in histories if row["user_id"] in users]
    for item in items:
        item.setdefault("vectors", {"text": made_up_vector(item)})
    args.out.mkdir(parents=True, exist_ok=True)
    write(args.out, "impressions", [row for request in order for row in slates[request]["rows"].values()])
    write(args.out, "clicks", clicks)
    write(args.out, "items", items)
    write(args.out, "user_history", histories)
    clicked = defaultdict(dict)
    for row in sorted(clicks, key=lambda row: row["ts_ms"]):
        clicked[row["request_id"]][str(row["item_id"])] = True
    state = State(items, histories)
    with (args.out / "expected.jsonl").open("w") as out:
        for request in order:
            slate = slates[request]
            shown = list(slate["rows"])
            found = state.features(slate["user"], shown, slate["ts"])
            rounded = {name: [float(f"{value:.6g}") for value in column] for name, column in found.items()}
            out.write(json.dumps({"request_id": request, "items": shown, "features": rounded}, separators=(",", ":")) + "\n")
            state.learn(slate["user"], shown, slate["ts"], [item for item in clicked[request] if item in slate["rows"]])


if __name__ == "__main__":
    main()
