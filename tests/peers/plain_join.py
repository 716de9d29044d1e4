#!/usr/bin/env python3
"""A peer of the join: the job of `plain_join.rs` in Python, with `json` and dictionaries.

    OUZEL_BENCH_DUMP=DIR cargo bench -p ouzel-ingest --bench join    # the logs
    plain_join.py DIR                                                # one JSON object: events per second
"""

import collections
import json
import math
import pathlib
import sys
import time

WINDOW_MS, LATENESS_MS = 600_000, 60_000
HISTORY, HISTORY_KEPT = 100, 200
DECAY_MS = 3_600_000.0
LEAST = 3.4e-4


def logit(p):
    p = min(max(p, LEAST), 1.0 - LEAST)
    return math.log(p / (1.0 - p))


class Counter:
    __slots__ = ("impressions", "actions", "fast", "slow", "recent_impressions", "recent_actions", "first", "last")

    def __init__(self, rate, ts):
        self.impressions = self.actions = 0
        self.fast = self.slow = rate
        self.recent_impressions = self.recent_actions = 0.0
        self.first = self.last = ts

    def add(self, ts, is_action):
        keep = math.exp(-max(ts - self.last, 0) / DECAY_MS)
        self.recent_impressions *= keep
        self.recent_actions *= keep
        self.last = max(self.last, ts)
        if is_action:
            self.actions += 1
            self.recent_actions += 1.0
            self.fast += 0.1
            self.slow += 0.03
        else:
            self.impressions += 1
            self.recent_impressions += 1.0
            self.fast -= 0.1 * self.fast
            self.slow -= 0.03 * self.slow


class PlainJoin:
    def __init__(self):
        self.items = {}
        self.pending = {}
        self.due, self.forget = collections.deque(), collections.deque()
        self.known = set()
        self.histories = collections.defaultdict(lambda: collections.deque(maxlen=HISTORY_KEPT))
        self.counters = {}
        self.total = Counter(0.0, 0)
        self.newest = {"impressions": 0, "actions": 0}

    def take(self, stream, payload, out):
        event = json.loads(payload)
        if stream == "items":
            category = event.get("category", [])
            categories = category if isinstance(category, list) else [category]
            self.items[event["item_id"]] = (categories, event.get("author"))
            return
        if stream == "impressions":
            self.impression(event)
        else:
            self.action(event, out)
        self.newest[stream] = max(self.newest[stream], event["ts_ms"])
        self.close(out)

    def impression(self, event):
        request, user, ts = event["request_id"], event["user_id"], event["ts_ms"]
        if request in self.known:
            return
        self.known.add(request)
        context = ["{}={}".format(name, value) for name, value in event.get("context", {}).items()]
        history = list(self.histories[user])[-HISTORY:] if user in self.histories else []
        slate = [shown["item_id"] for shown in event["items"]]
        rows = {item: self.features(user, item, context, ts, len(slate), len(history)) for item in slate}
        for at in (0, 1):
            mean = sum(row[at] for row in rows.values()) / len(rows)
            for row in rows.values():
                row.append(row[at] - mean)
        for item in slate:
            self.count(user, item, context, ts, False)
        self.pending[request] = (user, context, history, rows)
        self.due.append((ts + WINDOW_MS, request))
        self.forget.append((ts + WINDOW_MS + LATENESS_MS, request))

    def action(self, event, out):
        request, item = event["request_id"], event["item_id"]
        if request not in self.pending:
            return
        user, context, history, rows = self.pending[request]
        row = rows.pop(item, None)
        if row is None:
            return
        self.count(user, item, context, event["ts_ms"], True)
        self.histories[user].append(item)
        out.append((request, user, item, history, row, 1))

    def close(self, out):
        now = min(self.newest.values()) - LATENESS_MS
        while self.due and self.due[0][0] < now:
            request = self.due.popleft()[1]
            user, _, history, rows = self.pending.pop(request)
            out.extend((request, user, item, history, row, 0) for item, row in rows.items())
        while self.forget and self.forget[0][0] < now:
            self.known.discard(self.forget.popleft()[1])

    def count(self, user, item, context, ts, is_action):
        rate = self.rate()
        self.total.add(ts, is_action)
        categories, author = self.items.get(item, ([], None))
        keys = [("item", item), ("user", user), ("user-item", user, item)]
        keys += [("context", value) for value in context]
        for category in categories:
            keys += [("category", category), ("user-category", user, category)]
        if author:
            keys += [("author", author), ("user-author", user, author)]
        for key in keys:
            counter = self.counters.get(key)
            if counter is None:
                counter = self.counters[key] = Counter(rate, ts)
            counter.add(ts, is_action)

    def rate(self):
        return (self.total.actions + 0.5) / (self.total.impressions + 1.0)

    def features(self, user, item, context, ts, n_slate, n_history):
        rate = self.rate()
        base = logit(rate)
        get = self.counters.get

        def ctr(counter):
            if counter is None:
                return 0.0
            return logit((counter.actions + 1.0) / (counter.impressions + 1.0 / rate)) - base

        def seen(counter):
            return math.log1p(counter.impressions) if counter else 0.0

        def average(counter, name):
            return logit(0.9 * getattr(counter, name) + 0.1 * rate) - base if counter else 0.0

        def mean(of, keys):
            return sum(of(get(key)) for key in keys) / len(keys) if keys else 0.0

        categories, author = self.items.get(item, ([], None))
        for_all = [("category", category) for category in categories]
        for_user = [("user-category", user, category) for category in categories]
        of_item, of_user, of_pair = get(("item", item)), get(("user", user)), get(("user-item", user, item))
        of_author = get(("author", author))
        of_user_author = get(("user-author", user, author))
        keep = math.exp(-max(ts - of_item.last, 0) / DECAY_MS) if of_item else 0.0
        angle = ts % 86_400_000 / 86_400_000 * math.tau
        return [
            ctr(of_item),
            seen(of_item),
            average(of_item, "fast"),
            average(of_item, "slow"),
            math.log1p(of_item.recent_impressions * keep) if of_item else 0.0,
            math.log1p(of_item.recent_actions * keep) if of_item else 0.0,
            math.log1p((ts - of_item.first) / 3.6e6) if of_item else 0.0,
            mean(ctr, for_all),
            mean(seen, for_all),
            ctr(of_author),
            seen(of_author),
            mean(ctr, [("context", value) for value in context]),
            ctr(of_user),
            seen(of_user),
            average(of_user, "fast"),
            average(of_user, "slow"),
            math.log1p(max(ts - of_user.last, 0) / 1000.0) if of_user else 0.0,
            mean(ctr, for_user),
            mean(seen, for_user),
            ctr(of_user_author),
            seen(of_user_author),
            ctr(of_pair),
            seen(of_pair),
            math.log1p(of_pair.actions) if of_pair else 0.0,
            math.log1p(n_slate),
            math.sin(angle),
            math.cos(angle),
            math.log1p(n_history),
        ]


def run(log):
    join, out, n_samples = PlainJoin(), [], 0
    start = time.perf_counter()
    for stream, payload in log:
        join.take(stream, payload, out)
        n_samples += len(out)
        out.clear()
    return time.perf_counter() - start, n_samples


def main():
    folder, found = pathlib.Path(sys.argv[1]), {}
    for world in ("films", "feed"):
        lines = (folder / (world + ".ndjson")).read_bytes().splitlines()
        log = [(stream.decode(), payload) for stream, payload in (line.split(b"\t", 1) for line in lines)]
        seconds, n_samples = run(log)
        expected = int((folder / (world + ".samples")).read_text())
        if n_samples != expected:
            sys.exit("{}: {} samples, ouzel has {}: not the same job".format(world, n_samples, expected))
        found["join/" + world] = len(log) / seconds
    print(json.dumps(found))


if __name__ == "__main__":
    main()
