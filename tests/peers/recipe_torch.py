#!/usr/bin/env python3
"""A peer of the learner and the scorer: the same model in eager PyTorch, with the layout of public CTR libraries.

Wide, FM and MLP over the same fields, on the same batches, with the same losses and optimizers: FTRL for the wide part,
row-wise Adagrad for embedding rows (which torch lacks), the Adagrad of torch for dense weights. One sample per row: the
user side is repeated for every candidate, lists are padded to the longest of the batch, embeddings are sparse `nn.Embedding`s
over numbered ids. `--pooling bag` replaces padded lists by `nn.EmbeddingBag`.

One thing favours the peer: ids are numbered, lists padded and tensors built before the clock starts; ouzel starts from 64-bit
ids.

    OUZEL_BENCH_DUMP=DIR cargo bench -p ouzel-learner --bench ranker    # the batches
    recipe_torch.py DIR [--pooling bag] [--profile]                     # one JSON object: samples or candidates per second
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

DIM, HIDDEN = 8, 64
ROW_RATE, ROW_START, DENSE_RATE, DENSE_START = 0.05, 0.1, 0.03, 1e-5
ALPHA, BETA, L2 = 0.02, 1.0, 1.0
SLATE_LOSS = 0.3
FIELDS = ("user", "context", "history", "item", "attribute")
TABLE_OF = {"user": "user", "history": "item", "item": "item"}


class Numbers:
    """Maps ids to rows of a table; 0 is padding."""

    def __init__(self):
        self.places = {}

    def __call__(self, key):
        return self.places.setdefault(key, len(self.places) + 1)

    def __len__(self):
        return len(self.places) + 1


class Encoder:
    """Turns dumped batches into tensors, one sample per row."""

    def __init__(self):
        self.tables = {"user": Numbers(), "item": Numbers(), "attribute": Numbers(), "wide": Numbers()}

    def number(self, field, ids):
        table = self.tables[TABLE_OF.get(field, "attribute")]
        return [table(i) for i in ids]

    def batch(self, dumped):
        lists = {field: [] for field in FIELDS}
        wide = []
        for candidate in dumped["candidates"]:
            request = dumped["requests"][candidate["request"]]
            of = {
                "user": [request["user"]],
                "context": request["context"],
                "history": request["history"],
                "item": [candidate["item"]],
                "attribute": [value for _, value in candidate["attributes"]],
            }
            for field in FIELDS:
                lists[field].append(self.number(field, of[field]))
            number = self.tables["wide"]
            row = [number(("user", request["user"])), number(("item", candidate["item"]))]
            row += [number(("attribute", value)) for value in request["context"]]
            for slot, value in candidate["attributes"]:
                row.append(number(("attribute", value)))
                if slot != "tag":
                    row.append(number(("pair", request["user"], value)))
            wide.append(row)
        n_slates = len(dumped["requests"])
        return {
            "fields": {field: padded(rows) for field, rows in lists.items()},
            "wide": padded(wide),
            "dense": torch.tensor([candidate["dense"] for candidate in dumped["candidates"]]),
            "label": torch.tensor(dumped.get("labels", []), dtype=torch.float32),
            "n_slates": n_slates,
        }


def padded(rows):
    """`[n, longest]`, padded with 0."""
    width = max(1, max(len(row) for row in rows))
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


class Pooled(nn.Module):
    """The sum of a list's embeddings over the root of its length."""

    def __init__(self, n, pooling):
        super().__init__()
        made = nn.EmbeddingBag if pooling == "bag" else nn.Embedding
        more = {"mode": "sum"} if pooling == "bag" else {}
        self.pooling = pooling
        self.table = made(n, DIM, padding_idx=0, sparse=True, **more)
        nn.init.normal_(self.table.weight, std=0.02)
        with torch.no_grad():
            self.table.weight[0].zero_()

    def forward(self, ids):
        scale = (ids != 0).sum(1, keepdim=True).clamp(min=1).rsqrt()
        rows = self.table(ids)
        return (rows if self.pooling == "bag" else rows.sum(1)) * scale


class Recipe(nn.Module):
    def __init__(self, encoder, pooling, n_dense):
        super().__init__()
        sizes = {name: len(numbers) for name, numbers in encoder.tables.items()}
        self.tables = nn.ModuleDict({name: Pooled(sizes[name], pooling) for name in ("user", "item", "attribute")})
        self.wide = nn.EmbeddingBag(sizes["wide"], 1, mode="sum", padding_idx=0, sparse=True)
        nn.init.zeros_(self.wide.weight)
        self.mlp = nn.Sequential(nn.Linear(len(FIELDS) * DIM + n_dense, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
        nn.init.xavier_uniform_(self.mlp[0].weight)
        nn.init.zeros_(self.mlp[0].bias)
        nn.init.zeros_(self.mlp[2].weight)
        nn.init.zeros_(self.mlp[2].bias)
        self.n_seen, self.mean, self.variance = 0, torch.zeros(n_dense), torch.ones(n_dense)

    def normalized(self, features):
        if self.n_seen == 0:
            return features
        return (0.5 * (features - self.mean) / (self.variance + 0.01).sqrt()).clamp(-2.5, 2.5)

    @torch.no_grad()
    def observe(self, features):
        n = len(features)
        share = max(n / 20_000, n / (self.n_seen + n))
        self.n_seen += n
        self.mean += share * (features.mean(0) - self.mean)
        self.variance += share * ((features - self.mean).square().mean(0) - self.variance)

    def forward(self, batch):
        ids = batch["fields"]
        fields = torch.stack([self.tables[TABLE_OF.get(field, "attribute")](ids[field]) for field in FIELDS], 1)
        fm = 0.5 * (fields.sum(1).square().sum(1) - fields.square().sum((1, 2)))
        deep = self.mlp(torch.cat([fields.flatten(1), self.normalized(batch["dense"])], 1)).squeeze(1)
        return fm + deep + self.wide(batch["wide"]).squeeze(1)


class RowAdagrad:
    """Adagrad with one accumulator per row, of the mean square of its gradient."""

    def __init__(self, tables):
        self.state = [(table.weight, torch.full((len(table.weight),), ROW_START)) for table in tables]

    @torch.no_grad()
    def step(self):
        for weight, accumulator in self.state:
            gradient = weight.grad.coalesce()
            rows, values = gradient.indices()[0], gradient.values()
            accumulated = accumulator[rows] + values.square().mean(1)
            accumulator[rows] = accumulated
            weight.index_add_(0, rows, values / (accumulated.sqrt() + 1e-8).unsqueeze(1), alpha=-ROW_RATE)
            weight.grad = None


class Ftrl:
    """FTRL-Proximal without L1."""

    def __init__(self, table):
        self.weight = table.weight
        self.z, self.n = torch.zeros(len(table.weight)), torch.zeros(len(table.weight))

    @torch.no_grad()
    def step(self):
        gradient = self.weight.grad.coalesce()
        rows, g = gradient.indices()[0], gradient.values()[:, 0]
        before = self.n[rows]
        n = before + g.square()
        z = self.z[rows] + g - (n.sqrt() - before.sqrt()) / ALPHA * self.weight[rows, 0]
        self.z[rows], self.n[rows] = z, n
        self.weight[rows, 0] = -z / ((BETA + n.sqrt()) / ALPHA + L2)
        self.weight.grad = None


class Learner:
    def __init__(self, encoder, pooling, n_dense):
        self.model = Recipe(encoder, pooling, n_dense)
        self.rows = RowAdagrad([pooled.table for pooled in self.model.tables.values()])
        self.ftrl = Ftrl(self.model.wide)
        self.dense = torch.optim.Adagrad(
            self.model.mlp.parameters(), lr=DENSE_RATE, initial_accumulator_value=DENSE_START
        )
        self.seen = [0.0, 0.0]
        self.prior = 0.0

    def step(self, batch):
        label, n_slates = batch["label"], batch["n_slates"]
        logit = self.model(batch) + self.prior
        loss = log_loss = F.binary_cross_entropy_with_logits(logit, label, reduction="sum")
        if len(label) > n_slates:
            slates, clicked = logit.view(n_slates, -1), label.view(n_slates, -1)
            n = clicked.sum(1)
            ranked = -(F.log_softmax(slates, 1) * clicked).sum(1) / n.clamp(min=1)
            loss = loss + SLATE_LOSS * (ranked * ((n > 0) & (n < clicked.shape[1]))).sum()
        self.dense.zero_grad()
        loss.backward()
        self.rows.step()
        self.ftrl.step()
        for weight in self.model.mlp.parameters():
            weight.grad /= len(label)
        self.dense.step()
        self.model.observe(batch["dense"])
        self.seen[0] += len(label)
        self.seen[1] += float(label.sum())
        n, positive = self.seen
        self.prior = float(torch.tensor((positive + 0.5) / (n - positive + 0.5)).log())
        return logit.detach().tolist(), log_loss.item() / len(label)


def expand(user, fields, n):
    """Repeats the fields of the request for every candidate, the input of a per-sample model."""
    return {name: user[name].expand(n, -1) if name in user else ids for name, ids in fields.items()}


def score(model, prior, request, n):
    with torch.inference_mode():
        fields = expand(request["user"], {f: ids[:n] for f, ids in request["fields"].items()}, n)
        return (model({**request, "fields": fields, "wide": request["wide"][:n], "dense": request["dense"][:n]}) + prior).tolist()


def rate(work, amount, seconds):
    """The median rate of single runs over `seconds`, after a warm-up of a tenth of that."""
    begun, times = time.perf_counter(), []
    while time.perf_counter() - begun < 1.1 * seconds:
        start = time.perf_counter()
        work()
        end = time.perf_counter()
        if start - begun > 0.1 * seconds:
            times.append(end - start)
    return amount / statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--pooling", choices=("padded", "bag"), default="padded")
    parser.add_argument("--seconds", type=float, default=3.0, help="time to measure each figure")
    parser.add_argument("--profile", action="store_true", help="print torch's profile of 20 steps to stderr")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    found = {}
    for world in ("films", "feed"):
        encoder = Encoder()
        lines = (args.folder / (world + ".batches.jsonl")).read_text().splitlines()
        batches = [encoder.batch(json.loads(line)) for line in lines]
        request = encoder.batch(json.loads((args.folder / "request.json").read_text())) if world == "feed" else None
        learner = Learner(encoder, args.pooling, batches[0]["dense"].shape[1])
        losses = [learner.step(batch)[1] for batch in batches]
        found["log_loss/" + world] = statistics.fmean(losses)
        repeated = iter(batches * 100_000)
        found["train/" + world] = rate(lambda: learner.step(next(repeated)), len(batches[0]["label"]), args.seconds)
        if args.profile:
            with torch.profiler.profile() as profile:
                for batch in batches[:20]:
                    learner.step(batch)
            table = profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=48)
            print(table, file=sys.stderr)
        if request:
            request["user"] = {field: request["fields"][field][:1] for field in ("user", "context", "history")}
            for n in (100, 1000):
                found["score/{}".format(n)] = rate(
                    lambda n=n: score(learner.model, learner.prior, request, n), n, args.seconds
                )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
