"""The equations of the ranker's blocks in plain PyTorch, written from the papers and one request at a time.

No padding, no batching across requests, no caches: what is slow here and obviously right checks what is fast in Rust. Weights
come as a dict under the names of the Rust blocks; every matrix of a linear layer is `[out, in]`. `fixtures.py` holds these
against the public classes, where a public class computes the same.
"""

import dataclasses
import math

import torch
import torch.nn.functional as F


def linear(w, name, x):
    return F.linear(x, w[name + ".weight"], w.get(name + ".bias"))


def norm(w, name, x, eps):
    """LayerNorm, with a weight and a bias where the dict has them."""
    return F.layer_norm(x, x.shape[-1:], w.get(name + ".weight"), w.get(name + ".bias"), eps)


# ---- EM3 (arXiv 2404.06078) -----------------------------------------------------------------------------------------------


def fq_former(w, image, text, has_image, has_text, layers, heads):
    """`[u, m, d_i]`, `[u, k, d_t]` and which of them are there -> the first q outputs, `[u, q * d]`."""
    n, (n_queries, d) = len(image), w["content.queries"].shape
    x = torch.cat([w["content.queries"].expand(n, -1, -1), linear(w, "content.image", image), linear(w, "content.text", text)], 1)
    present = torch.cat([torch.ones(n, n_queries, dtype=torch.int64), has_image, has_text], 1)
    absent = (1 - present)[:, None, None, :] * -1e9
    split = lambda y: y.unflatten(-1, (heads, d // heads)).transpose(1, 2)
    for l in range(layers):
        q, k, v = (split(linear(w, f"content.layer{l}.{part}", x)) for part in ("query", "key", "value"))
        attention = (q @ k.transpose(-1, -2) / math.sqrt(d / heads) + absent).softmax(-1)
        y = linear(w, f"content.layer{l}.out", (attention @ v).transpose(1, 2).flatten(2))
        x = norm(w, f"content.layer{l}.norm", y + x, 1e-5)
    return x[:, :n_queries].flatten(1)


def lora(w, name, x, scale):
    y = linear(w, name, x)
    if name + ".lora_a" in w:
        y = y + scale * (x @ w[name + ".lora_a"].T) @ w[name + ".lora_b"].T
    return y


def content_interest(w, candidate, history, valid, request_of, scale):
    """`[n, d_c]` candidates, `[b, h, d_c]` histories -> `[n, d_c]`; 0 where the history has no valid event."""
    rows = []
    for c, b in zip(candidate, request_of.tolist()):
        events = history[b][valid[b].bool()]
        query, keys = lora(w, "interest.query", c, scale), lora(w, "interest.key", events, scale)
        weights = (keys @ query / math.sqrt(len(query))).softmax(0)
        rows.append(weights @ events)
    return torch.stack(rows)


def cic(w, ids, content, tau, alpha):
    """The Content-ID-Contrastive loss over the distinct items of a batch, full in-batch negatives, both directions."""
    unit = lambda y: y / y.norm(dim=-1, keepdim=True).clamp_min(1e-5)
    s = unit(linear(w, "cic.content", content)) @ unit(linear(w, "cic.id", ids)).T / tau
    to_id, to_content = -s.log_softmax(1).diagonal().mean(), -s.log_softmax(0).diagonal().mean()
    return 0.5 * alpha * (to_id + to_content)


# ---- DIN (KDD 2018) -------------------------------------------------------------------------------------------------------


def din(w, candidate, history, valid, request_of, order=lambda q, k: [q, k, q - k, q * k]):
    """Sum of the valid events, each times the score of its local activation unit, which nothing normalises."""
    rows = []
    for q, b in zip(candidate, request_of.tolist()):
        k = history[b][valid[b].bool()]
        hidden = F.silu(linear(w, "sequence.first", torch.cat(order(q.expand_as(k), k), -1)))
        hidden = F.silu(linear(w, "sequence.second", hidden))
        rows.append((linear(w, "sequence.score", hidden) * k).sum(0))
    return torch.stack(rows)


# ---- Transformers over the history (arXiv 1808.09781, 1905.06874) -----------------------------------------------------------


def transformer_rows(w, x, layers, heads, sees=None, norm_keys=True):
    """Rows `[n, d]` through all layers and the last norm; row i sees row j where `sees[i, j]`, the rows up to it unless given."""
    n, d = x.shape
    sees = torch.ones(n, n).tril().bool() if sees is None else sees
    split = lambda y: y.unflatten(-1, (heads, -1)).transpose(0, 1)
    for l in range(layers):
        name = f"sequence.layer{l}"
        normed = norm(w, name + ".norm", x, 1e-5)
        query = split(linear(w, name + ".query", normed))
        width = heads * query.shape[-1]
        both = linear(w, name + ".key_value", normed if norm_keys else x)
        key, value = split(both[:, :width]), split(both[:, width:])
        scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
        read = scores.masked_fill(~sees, -math.inf).softmax(-1) @ value
        x = x + linear(w, name + ".out", read.transpose(0, 1).flatten(1))
        hidden = linear(w, name + ".expand", norm(w, name + ".ffn_norm", x, 1e-5)).relu()
        x = x + linear(w, name + ".contract", hidden)
    return norm(w, "sequence.norm", x, 1e-5)


def sasrec(w, x, rows, from_front=False):
    """`rows(w, x)` runs rows through the layers. `[state, state * candidate]`, 0 where the history is empty."""
    out = []
    for c, b in zip(x["candidate"], x["request_of"].tolist()):
        entries = linear(w, "sequence.token", x["history"][b][x["valid"][b].bool()])
        n, d = entries.shape
        if n == 0:
            out.append(torch.zeros(2 * d))
            continue
        at = torch.arange(n) if from_front else torch.arange(n).flip(0)
        state = rows(w, entries + w["sequence.position"][at])[-1]
        out.append(torch.cat([state, state * linear(w, "sequence.token", c)]))
    return torch.stack(out)


def bst(w, x, rows):
    """Each candidate at the end of a list of its own; times to the request in buckets, 0 for the candidate."""
    out = []
    for c, b in zip(x["candidate"], x["request_of"].tolist()):
        events = x["valid"][b].bool()
        tokens = torch.cat([x["history"][b][events], c[None]])
        ages = torch.cat([x["ages"][b][events], torch.zeros(1)])
        bucket = (ages.clamp(min=1.0).log() / 0.301).floor().long()
        out.append(rows(w, linear(w, "sequence.token", tokens) + w["sequence.time"][bucket])[-1])
    return torch.stack(out)


# ---- HSTU (arXiv 2402.17152) ----------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Hstu:
    """Which of the published variants, and its sizes. `n` is the constant that scores are divided by."""

    heads: int
    dqk: int
    dv: int
    n: int
    layers: int
    silu_on_all: bool = False
    scaled: bool = True
    concatenates: bool = True
    rab: bool = False
    eps: float = 1e-6
    # Whether row i of the time bias is of the moment of event i + 1, as the authors' code has it, or of its own.
    next_time: bool = True


PRODUCTION = dict(silu_on_all=False, scaled=True, concatenates=True, rab=False)
RESEARCH = dict(silu_on_all=True, scaled=False, concatenates=False, rab=True)


def isolated(n_history, n_targets):
    """Causal among the history; a target sees the history and itself."""
    i = torch.arange(n_history + n_targets)[:, None]
    j = i.T
    return ((j <= i) & (j < n_history)) | (i == j)


def time_bucket(seconds):
    return (seconds.abs().clamp(min=1).double().log() / 0.301).floor().clamp(0, 128).long()


def relative_bias(w, name, position, time, n, next_time):
    """`[1 or heads, rows, rows]`: of how far apart two rows are in the list, and in time."""
    of_row = torch.cat([time[1:], time[-1:]]) if next_time else time
    places = n - 1 + position[None, :] - position[:, None]
    bias = w[name + ".position"][places] + w[name + ".time"][time_bucket(of_row[:, None] - time[None, :])]
    return bias.permute(2, 0, 1) if bias.dim() == 3 else bias[None]


def hstu_layer(w, name, x, mask, form, bias=None):
    sizes = [form.heads * form.dv] * 2 + [form.heads * form.dqk] * 2
    z = linear(w, name + ".uvqk", norm(w, name + ".norm", x, form.eps))
    if form.silu_on_all:
        u, v, q, k = F.silu(z).split(sizes, -1)
    else:
        u, v, q, k = z.split(sizes, -1)
        u = F.silu(u)
    split = lambda y: y.unflatten(-1, (form.heads, -1)).transpose(0, 1)
    scores = split(q) @ split(k).transpose(-1, -2)
    if form.scaled:
        scores = scores / math.sqrt(form.dqk)
    if bias is not None:
        scores = scores + bias
    o = ((F.silu(scores) / form.n * mask) @ split(v)).transpose(0, 1).flatten(1)
    gated = u * norm(w, name + ".out_norm", o, form.eps)
    return x + linear(w, name + ".out", torch.cat([u, o, gated], -1) if form.concatenates else gated)


def hstu_rows(w, x, n_history, form, time=None, mask=None):
    """One request: its history, then its targets; these take each the place, in list and in time, after the last event."""
    if mask is None:
        mask = isolated(n_history, len(x) - n_history)
    position = torch.arange(len(x)).clamp(max=n_history)
    for l in range(form.layers):
        name = f"sequence.layer{l}"
        bias = relative_bias(w, name + ".rab", position, time, form.n, form.next_time) if form.rab else None
        x = hstu_layer(w, name, x, mask, form, bias)
    return x


def hstu_inputs(w, tokens, tasks, ages, form):
    """The rows of one request: item and action, and in the production form how far back, in places and in time."""
    rows = linear(w, "sequence.token", tokens) + w["sequence.action"][tasks]
    if not form.rab:
        back = torch.arange(len(tokens), 0, -1).clamp(max=len(w["sequence.position"]) - 1)
        rows = rows + w["sequence.position"][back] + w["sequence.time"][time_bucket(ages)]
    return rows


def hstu_target(w, token, form):
    """A candidate's row: the last action stands for the one that is to be foretold."""
    row = linear(w, "sequence.token", token) + w["sequence.action"][-1]
    return row if form.rab else row + w["sequence.position"][0] + w["sequence.time"][0]


def hstu(w, x, form, rows=None, mask=None):
    """Candidates' rows after the last layer, `[n, width]`; `rows` does the layers of one request."""
    out = {}
    for b, n_history in enumerate(x["length"].tolist()):
        mine = (x["request_of"] == b).nonzero().flatten().tolist()
        ages = x["ages"][b, :n_history]
        past = hstu_inputs(w, x["history"][b, :n_history], x["tasks"][b, :n_history], ages, form)
        z = torch.cat([past, hstu_target(w, x["candidate"][mine], form)])
        # Candidates are of the moment of the request.
        time = torch.cat([-ages, torch.zeros(len(mine))])
        seen = None if mask is None else mask(n_history, len(mine))
        z = hstu_rows(w, z, n_history, form, time, seen) if rows is None else rows(w, z, n_history, time)
        out |= dict(zip(mine, z[n_history:]))
    return torch.stack([out[i] for i in range(len(out))])


# ---- Interaction and heads ------------------------------------------------------------------------------------------------


def fm(fields):
    """Every pair of fields, `[n, f, d]` -> `[n]` (Rendle 2010, eq. 1), in its quadratic form."""
    n_fields = fields.shape[1]
    pairs = [(fields[:, a] * fields[:, b]).sum(-1) for a in range(n_fields) for b in range(a)]
    return torch.stack(pairs).sum(0)


def towers(w, mixed):
    return torch.cat([linear(w, f"head.out{t}", F.silu(linear(w, f"head.tower{t}", x))) for t, x in enumerate(mixed)], -1)


def shared_bottom(w, trunk, n_tasks):
    return towers(w, [trunk] * n_tasks)


def mmoe(w, trunk, n_tasks, n_experts):
    """MMoE (KDD 2018): each task's tower reads its own mixture of the experts, `[n, w]` -> logits `[n, tasks]`."""
    experts = torch.stack([F.silu(linear(w, f"head.expert{e}", trunk)) for e in range(n_experts)], 1)
    gates = [linear(w, f"head.gate{t}", trunk).softmax(-1) for t in range(n_tasks)]
    return towers(w, [torch.einsum("ne,new->nw", gate, experts) for gate in gates])


def jeffreys(a, b, z):
    """KL(p||q) + KL(q||p), p = sigmoid(a) sigmoid(b), q = sigmoid(z), of logits in double precision.

    Both differences are taken where they are small: `p - q` of the complements if these are the smaller numbers.
    """
    log_p = F.logsigmoid(a) + F.logsigmoid(b)
    # log(1 - p), of p = e^x: each form where it loses nothing (Maechler 2012).
    near = log_p > -math.log(2)
    log_not_p = torch.where(
        near, torch.log(-torch.expm1(torch.where(near, log_p, -1.0))), torch.log1p(-torch.exp(torch.where(near, -1.0, log_p)))
    )
    log_q, log_not_q = F.logsigmoid(z), F.logsigmoid(-z)
    by_complement = log_not_q.exp() - log_not_p.exp()
    difference = torch.where((log_p > -math.log(2)) & (z > 0), by_complement, log_p.exp() - log_q.exp())
    return difference * (log_p - log_not_p - z)
