#!/usr/bin/env python3
"""Peers of the learner and the scorer on em3-din: the same model in eager PyTorch, on the same batches.

`--layout idiomatic` is the layout of public CTR libraries: one sample per row, the user side repeated for every candidate,
pairs of candidate and entry concatenated for DIN, sparse embeddings. `--layout request-once` computes the user side once per
request and unique rows once per batch, splits the first layer of DIN, computes the content of an item once, and has a
row-wise Adagrad.

The weights are those that ouzel trained, and the scores of every batch must equal those of ouzel to 1e-4, or this fails. Three
things favour the peers: ids are numbered and tensors built before the clock starts, the contents of histories come from a
bank that is not updated, and there is no softmax loss within slates.

    cargo bench -p ouzel-learner --bench em3 -- --model em3-din --shape 64x8x50 --dump FILE
    em3_torch.py FILE --layout idiomatic|request-once [--threads N] [--seconds S]      # one JSON object
"""

import argparse
import json
import struct
import time

import torch
import torch.nn.functional as F
from torch import nn

HEADS, SCALE, TEMPERATURE, CONTRAST = 4, 2.0, 0.1, 0.05
ROW_RATE, ROW_START, RATE = 0.05, 0.05, 1e-3
KINDS = {"F32": torch.float32, "I64": torch.int64}


def read(path):
    """Reads a safetensors file without the package of that name."""
    with open(path, "rb") as file:
        (n,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(n))
        data = bytearray(file.read())
    out = {}
    for name, about in header.items():
        if name != "__metadata__":
            start, end = about["data_offsets"]
            values = torch.frombuffer(data[start:end], dtype=KINDS[about["dtype"]])
            out[name] = values.view(about["shape"]).clone()
    return out


class Content(nn.Module):
    """The Fusion-Q-Former."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.ParameterDict({name.replace(".", "_"): nn.Parameter(t) for name, t in w.items() if name.startswith("content.")})

    def forward(self, text, image):
        w, layer = self.w, "content_layer0_"
        linear = lambda name, x: F.linear(x, w[name + "_weight"], w[name + "_bias"])
        queries = w["content_queries"]
        n, (q, width) = len(text), queries.shape
        x = torch.cat([queries.expand(n, -1, -1), linear("content_image", image).unsqueeze(1), linear("content_text", text).unsqueeze(1)], 1)
        part = lambda name: linear(layer + name, x).view(n, -1, HEADS, width // HEADS).transpose(1, 2)
        read = F.scaled_dot_product_attention(part("query"), part("key"), part("value")).transpose(1, 2).reshape(n, -1, width)
        y = linear(layer + "out", read) + x
        return F.layer_norm(y, (width,), w[layer + "norm_weight"], w[layer + "norm_bias"], 1e-5)[:, :q].flatten(1)


class Model(nn.Module):
    """All weights except the rows, and the parts that both layouts share."""

    def __init__(self, dumped):
        super().__init__()
        w = {name[2:]: tensor for name, tensor in dumped.items() if name.startswith("w.")}
        self.content = Content(w)
        self.w = nn.ParameterDict({name.replace(".", "_"): nn.Parameter(t) for name, t in w.items() if not name.startswith("content.")})
        self.text, self.image, self.prior = dumped["text"], dumped["image"], dumped["prior"]
        with torch.no_grad():
            self.bank = self.content(self.text, self.image)

    def linear(self, name, x):
        return F.linear(x, self.w[name + "_weight"], self.w.get(name + "_bias"))

    def adapted(self, name, x):
        return self.linear(name, x) + SCALE * (x @ self.w[name + "_lora_a"].T) @ self.w[name + "_lora_b"].T

    def head(self, hidden):
        for layer in (1, 2):
            hidden = F.relu(self.linear("hidden{}".format(layer), hidden))
        return self.linear("out", hidden).squeeze(1) + self.prior[0]

    def contrast(self, ids, content):
        one, other = (F.normalize(self.linear(name, x), dim=-1, eps=1e-5) for name, x in (("cic_id", ids), ("cic_content", content)))
        scores = other @ one.T / TEMPERATURE
        right = torch.arange(len(scores))
        return 0.5 * (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right))


def firsts(batch):
    """The distinct contents of the candidates, the first candidate of each, and the content of each candidate."""
    unique, which = torch.unique(batch["content"], return_inverse=True)
    first = torch.full((len(unique),), len(which)).scatter_reduce_(0, which, torch.arange(len(which)), "amin")
    return unique, first, which


class Idiomatic(Model):
    """One sample per row."""

    def __init__(self, dumped):
        super().__init__(dumped)
        self.rows = nn.Embedding.from_pretrained(dumped["rows"].clone(), freeze=False, sparse=True)
        dense = [p for name, p in self.named_parameters() if not name.startswith("rows")]
        self.optimizers = [torch.optim.Adagrad(self.rows.parameters(), lr=ROW_RATE, initial_accumulator_value=ROW_START), torch.optim.Adam(dense, lr=RATE, betas=(0.95, 0.999))]

    @staticmethod
    def prepare(batch):
        c = len(batch["item"]) // len(batch["user"])
        repeated = {name: batch[name].repeat_interleave(c, 0) for name in ("user", "history", "history_about", "history_content")}
        return {**batch, **repeated}

    def forward(self, b):
        w, n = self.w, b["history"].shape[1]
        user, items, abouts = self.rows(b["user"]), self.rows(b["history"]), self.rows(b["history_about"])
        item, about = self.rows(b["item"]), self.rows(b["about"])
        zero = torch.zeros_like(user)
        keys, query = torch.cat([items, abouts], 2), torch.cat([item, about], 1)
        q = query.unsqueeze(1).expand_as(keys)
        pairs = torch.cat([q, keys, q - keys, q * keys], 2)
        scores = self.linear("sequence_score", F.silu(self.linear("sequence_second", F.silu(self.linear("sequence_first", pairs)))))
        read = (scores * keys).sum(1)
        content = self.content(self.text[b["content"]], self.image[b["content"]])
        past = self.bank[b["history_content"]]
        q, k = self.adapted("interest_query", content), self.adapted("interest_key", past)
        weights = torch.softmax((k @ q.unsqueeze(2)).squeeze(2) / q.shape[1] ** 0.5, 1)
        found = (weights.unsqueeze(2) * past).sum(1)
        user_side = torch.cat([user, zero, items.sum(1) / n**0.5], 1)
        candidate = torch.cat([item, about, zero, zero], 1)
        parts = ((user_side, "user"), (candidate, "candidate"), (b["dense"], "dense"), (content, "content"), (found, "interest"), (read, "sequence"))
        hidden = F.relu(sum(x @ w["first_" + name].T for x, name in parts) + w["first_bias"])
        return self.head(hidden), query, content

    def step(self, b):
        logits, ids, content = self(b)
        _, first, _ = firsts(b)
        loss = F.binary_cross_entropy_with_logits(logits, b["labels"], reduction="sum") + CONTRAST * len(logits) * self.contrast(ids[first], content[first])
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()


class RequestOnce(Model):
    """Each distinct value computed once."""

    def __init__(self, dumped):
        super().__init__(dumped)
        self.rows, self.sums = dumped["rows"].clone(), torch.full((len(dumped["rows"]), 1), ROW_START)
        self.dense = list(self.parameters())
        self.optimizer = torch.optim.Adam(self.dense, lr=RATE, betas=(0.95, 0.999), foreach=True)
        with torch.no_grad():
            self.keys = self.linear("interest_key", self.bank)

    @staticmethod
    def prepare(batch):
        return batch

    def forward(self, b, unique=None, rows=None):
        w = self.w
        r, n = b["history"].shape
        c = len(b["item"]) // r
        look = (lambda name: self.rows[b[name]]) if rows is None else (lambda name: rows[unique[name]])
        user, items, abouts, item, about = (look(name) for name in ("user", "history", "history_about", "item", "about"))
        zero = torch.zeros_like(user)
        keys, query = torch.cat([items, abouts], 2), torch.cat([item, about], 1)
        q = query.view(r, c, -1)
        of_q, of_k, of_difference, of_product = w["sequence_first_weight"].chunk(4, 1)
        hidden = (q.unsqueeze(2) * keys.unsqueeze(1)) @ of_product.T
        hidden = hidden + (q @ (of_q + of_difference).T).unsqueeze(2) + (keys @ (of_k - of_difference).T).unsqueeze(1) + w["sequence_first_bias"]
        scores = self.linear("sequence_score", F.silu(self.linear("sequence_second", F.silu(hidden)))).squeeze(3)
        read = (scores @ keys).view(r * c, -1)
        wanted, first, which = b["firsts"]
        contents = self.content(self.text[wanted], self.image[wanted])
        content = contents[which]
        past, k = self.bank[b["history_content"]], self.keys[b["history_content"]]
        interest_query = self.adapted("interest_query", content).view(r, c, -1)
        low = past @ w["interest_key_lora_a"].T
        scores = interest_query @ k.transpose(1, 2) + SCALE * (interest_query @ w["interest_key_lora_b"]) @ low.transpose(1, 2)
        found = (torch.softmax(scores / k.shape[2] ** 0.5, 2) @ past).view(r * c, -1)
        user_side = torch.cat([user, zero, items.sum(1) / n**0.5], 1) @ w["first_user"].T
        none = torch.zeros_like(item)
        candidate = torch.cat([item, about, none, none], 1)
        parts = ((candidate, "candidate"), (b["dense"], "dense"), (content, "content"), (found, "interest"), (read, "sequence"))
        first_layer = sum(x @ w["first_" + name].T for x, name in parts) + w["first_bias"] + user_side.repeat_interleave(c, 0)
        return self.head(F.relu(first_layer)), query[first], contents

    def step(self, b):
        names = ("user", "history", "history_about", "item", "about")
        ids, places = torch.unique(torch.cat([b[name].flatten() for name in names]), return_inverse=True)
        split = torch.split(places, [b[name].numel() for name in names])
        rows = self.rows[ids].requires_grad_(True)
        logits, one, content = self(b, {name: part.view(b[name].shape) for name, part in zip(names, split)}, rows)
        loss = F.binary_cross_entropy_with_logits(logits, b["labels"], reduction="sum") + CONTRAST * len(logits) * self.contrast(one, content)
        *dense, of_rows = torch.autograd.grad(loss, [*self.dense, rows], allow_unused=True)
        for parameter, gradient in zip(self.dense, dense):
            parameter.grad = gradient
        self.optimizer.step()
        with torch.no_grad():
            sums = self.sums[ids] + of_rows.pow(2).mean(1, keepdim=True)
            self.sums[ids] = sums
            self.rows[ids] -= ROW_RATE * of_rows / (sums.sqrt() + 1e-8)


def rate(seconds, batches, work):
    for batch in batches[:3]:
        work(batch)
    start, done, number = time.perf_counter(), 0, 0
    while time.perf_counter() - start < seconds:
        batch = batches[number % len(batches)]
        work(batch)
        number, done = number + 1, done + len(batch["item"])
    return done / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file")
    parser.add_argument("--layout", choices=["idiomatic", "request-once"], required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dumped = read(args.file)
    model = {"idiomatic": Idiomatic, "request-once": RequestOnce}[args.layout](dumped)
    n = 1 + max(int(name[1:].split(".")[0]) for name in dumped if name.startswith("b") and name[1].isdigit())
    batches = [{name.split(".", 1)[1]: t for name, t in dumped.items() if name.startswith("b{}.".format(k))} for k in range(n)]
    batches = [model.prepare({**batch, "firsts": firsts(batch)}) for batch in batches]
    with torch.no_grad():
        apart = max((model(batch)[0] - batch["logits"]).abs().max().item() for batch in batches)
    if not apart <= 1e-4:
        raise SystemExit("scores differ from ouzel's by {}".format(apart))
    with torch.no_grad():
        score = rate(args.seconds, batches, model)
    train = rate(args.seconds, batches, model.step)
    print(json.dumps({"layout": args.layout, "threads": args.threads, "apart": apart, "train": round(train), "score": round(score)}))


if __name__ == "__main__":
    main()
