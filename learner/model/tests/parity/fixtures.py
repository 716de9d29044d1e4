#!/usr/bin/env python3
"""Writes `fixtures/*.safetensors`: what each block of the ranker has to make of given weights and inputs.

A file holds, all of fixed seeds:

    <weight>            under the names of the Rust blocks, none at its initial value, norms and biases neither
    in.*, config.*      inputs, and the constants of the block
    out, r              the output, and random numbers of its shape
    grad.<name>         gradients of sum(out * r), by every weight and every `in.*` of floats
    loss, target        50 steps of Adagrad (lr 0.03, eps 1e-8, accumulators from 0): the loss before each, which is the mean
                        of (out - target[step % 2])^2, or `out` itself where there is no target
    trained.<name>      for each tensor that these steps move
    wrong.*             outputs of a plausible mistake, which a block must be far from

`kl_bound_extreme` has values and gradients alone, in double precision. The learner's tests read it and `kl_bound`.

Where a public class computes the block, the output is the class's; `reference.py` has all others, and is asserted to equal each
public class that there is. Run it by hand; the tests only read what it wrote. With the folder of a clone of Meta's
generative-recommenders it also holds the production form of HSTU against theirs, see `stu.py`. Written with torch 2.13.0,
torch-rechub 0.9.0, deepctr-torch 0.3.0, transformers 5.23.0 (for the loss of CLIP) and mpmath 1.3.0. What it changes in a
public class:

    DeepCTR-Torch DIN unit, MMOE    SiLU for the activation, through the argument for it
    nn.TransformerEncoder           nothing: its norms before its sublayers, by its own flag
    DeepCTR-Torch SharedBottom      its bottom is the identity, since a fixture begins at the trunk
    Torch-RecHub HSTU               asserted against as it is, with `reference.py` set to its eps, scale, norms and biases; and
                                    once more with eps 1e-6, no scale and the time of the next event set from outside
    CLIP                            nothing: the mean of both directions, which alpha then scales

Not taken as references, for they compute something else: Torch-RecHub's Dice (statistics over one sample), MMoE (batch norm
before the gate's softmax) and DeepFM (a linear part over concatenated embeddings).
"""

import importlib.metadata
import sys

import mpmath
import torch
import torch.nn as nn
import torch.nn.functional as F

sys.dont_write_bytecode = True
import reference as ref  # noqa: E402
import stu  # noqa: E402
from recording import FIXTURES, agree, draw, linears, normal, save, write  # noqa: E402
from deepctr_torch.inputs import DenseFeat  # noqa: E402
from deepctr_torch.layers import FM  # noqa: E402
from deepctr_torch.layers.sequence import AttentionSequencePoolingLayer  # noqa: E402
from deepctr_torch.models.multitask import MMOE, SharedBottom  # noqa: E402
from torch_rechub.basic.layers import FM as RechubFM, HSTUBlock  # noqa: E402
from torch_rechub.utils.hstu_utils import RelativeBucketedTimeAndPositionBias  # noqa: E402
from transformers.models.clip.modeling_clip import image_text_contrastive_loss  # noqa: E402

call = torch.func.functional_call


def histories(seed, lengths, n, d):
    """Histories of these lengths, left-aligned; what lies behind their ends must not matter, and is not 0."""
    valid = (torch.arange(n)[None] < torch.tensor(lengths)[:, None]).long()
    return {"history": normal(seed, len(lengths), n, d), "valid": valid, "length": torch.tensor(lengths)}


# Three requests: a full history, a short one and none, with 3, 1 and 4 candidates.
LENGTHS, REQUEST_OF = [7, 3, 0], torch.tensor([0, 0, 0, 1, 2, 2, 2, 2])


# ---- EM3 ------------------------------------------------------------------------------------------------------------------


def torch_fq_former(w, inputs, layers, heads):
    """The same of `nn.MultiheadAttention`."""
    d = w["content.queries"].shape[1]
    x = torch.cat(
        [
            w["content.queries"].expand(len(inputs["image"]), -1, -1),
            ref.linear(w, "content.image", inputs["image"]),
            ref.linear(w, "content.text", inputs["text"]),
        ],
        1,
    )
    queries = torch.ones(len(x), len(w["content.queries"]), dtype=torch.int64)
    absent = torch.cat([queries, inputs["has_image"], inputs["has_text"]], 1) == 0
    for l in range(layers):
        part = lambda kind: [w[f"content.layer{l}.{of}.{kind}"] for of in ("query", "key", "value")]
        state = {
            "in_proj_weight": torch.cat(part("weight")),
            "in_proj_bias": torch.cat(part("bias")),
            "out_proj.weight": w[f"content.layer{l}.out.weight"],
            "out_proj.bias": w[f"content.layer{l}.out.bias"],
        }
        attention = nn.MultiheadAttention(d, heads, batch_first=True)
        y, _ = call(attention, state, (x, x, x), dict(key_padding_mask=absent, need_weights=False))
        x = ref.norm(w, f"content.layer{l}.norm", x + y, 1e-5)
    return x[:, : queries.shape[1]].flatten(1)


def fq_formers():
    d, n_queries, d_text, d_image, heads = 16, 2, 12, 10, 4
    inputs = {
        "image": normal(11, 5, 1, d_image),
        "text": normal(12, 5, 1, d_text),
        # Both, a picture, a text, nothing, both.
        "has_image": torch.tensor([[1], [1], [0], [0], [1]]),
        "has_text": torch.tensor([[1], [0], [1], [0], [1]]),
    }
    for layers in (1, 2):
        shapes = {"content.queries": (n_queries, d)} | linears(content__text=(d, d_text), content__image=(d, d_image))
        for l in range(layers):
            shapes |= linears(**{f"content__layer{l}__{part}": (d, d) for part in ("query", "key", "value", "out")})
            shapes |= {f"content.layer{l}.norm.weight": (d,), f"content.layer{l}.norm.bias": (d,)}
        weights = draw(shapes, 13)
        run = lambda w, x: torch_fq_former(w, x, layers, heads)
        own = lambda w, x: ref.fq_former(w, **x, layers=layers, heads=heads)
        agree(f"FQ-Former of {layers} and nn.MultiheadAttention", own(weights, inputs), run(weights, inputs))
        everywhere = inputs | {"has_image": torch.ones(5, 1).long(), "has_text": torch.ones(5, 1).long()}
        wrong = {"no_mask": own(weights, everywhere), "one_head": ref.fq_former(weights, **inputs, layers=layers, heads=1)}
        config = dict(heads=heads, layers=layers)
        write(f"fq_former_{layers}", run, weights, inputs, config, 14, wrong=wrong)


def content_interests():
    d_content, d_attention, rank, alpha = 12, 8, 3, 16
    candidate = normal(21, 8, d_content)
    inputs = histories(22, LENGTHS, 7, d_content) | {"candidate": candidate, "request_of": REQUEST_OF}

    def run(w, x, scale=alpha / rank):
        return ref.content_interest(w, x["candidate"], x["history"], x["valid"], x["request_of"], scale)

    base = draw({"interest.query.weight": (d_attention, d_content), "interest.key.weight": (d_attention, d_content)}, 23)

    def torch_run(w, x):
        """`scaled_dot_product_attention`, which makes NaN of an empty history."""
        q, k = ref.linear(w, "interest.query", x["candidate"]), ref.linear(w, "interest.key", x["history"])
        of = x["request_of"]
        y = F.scaled_dot_product_attention(q[:, None], k[of], x["history"][of], attn_mask=x["valid"][of].bool()[:, None])
        return torch.where(x["valid"][of].any(1)[:, None], y[:, 0].nan_to_num(), 0.0)

    agree("content interest and scaled_dot_product_attention", run(base, inputs), torch_run(base, inputs))
    unmasked = run(base, inputs | {"valid": torch.ones(3, 7).long()})
    write("interest", run, base, inputs, {}, 24, wrong={"no_mask": unmasked})

    low = draw({"interest.query.lora_a": (rank, d_content), "interest.query.lora_b": (d_attention, rank)}, 25)
    low |= draw({"interest.key.lora_a": (rank, d_content), "interest.key.lora_b": (d_attention, rank)}, 26)
    low = {name: 0.3 * value for name, value in low.items()}
    merged = {
        f"interest.{side}.weight": base[f"interest.{side}.weight"]
        + alpha / rank * low[f"interest.{side}.lora_b"] @ low[f"interest.{side}.lora_a"]
        for side in ("query", "key")
    }
    agree("LoRA and W + alpha / r * B A", run(base | low, inputs), torch_run(merged, inputs))
    wrong = {"no_scale": run(base | low, inputs, 1.0), "scale_alpha": run(base | low, inputs, alpha)}
    write("interest_lora", run, base | low, inputs, dict(alpha=alpha, rank=rank), 27, trained=list(low), wrong=wrong)


def contrast():
    n, d_id, d_content, d = 16, 9, 8, 4
    tau, alpha = 0.1, 0.1
    weights = draw(linears(cic__id=(d, d_id), cic__content=(d, d_content)), 31)
    inputs = {"id": normal(32, n, d_id), "content": normal(33, n, d_content)}
    run = lambda w, x: ref.cic(w, x["id"], x["content"], tau, alpha)[None]
    unit = lambda name, x: F.normalize(ref.linear(weights, name, x), eps=1e-5)
    similarity = unit("cic.content", inputs["content"]) @ unit("cic.id", inputs["id"]).T / tau
    agree("CIC and the loss of CLIP", run(weights, inputs), alpha * image_text_contrastive_loss(similarity)[None])
    one_way = alpha * F.cross_entropy(similarity, torch.arange(n))[None]
    no_norm = F.linear(inputs["content"], *list(weights.values())[2:]) @ F.linear(inputs["id"], *list(weights.values())[:2]).T
    wrong = {"one_way": one_way, "no_norm": alpha * image_text_contrastive_loss(no_norm / tau)[None]}
    write("cic", run, weights, inputs, dict(tau=tau, alpha=alpha), 34, target=False, wrong=wrong)


# ---- DIN ------------------------------------------------------------------------------------------------------------------


def din():
    d, h1, h2 = 8, 10, 6
    weights = draw(linears(sequence__first=(h1, 4 * d), sequence__second=(h2, h1), sequence__score=(1, h2)), 41)
    inputs = histories(42, LENGTHS, 7, d) | {"candidate": normal(43, 8, d), "request_of": REQUEST_OF}
    layer = AttentionSequencePoolingLayer(att_hidden_units=(h1, h2), att_activation=nn.SiLU, embedding_dim=d)
    theirs = {"first": "dnn.linears.0", "second": "dnn.linears.1", "score": "dense"}

    def run(w, x):
        state = {f"local_att.{theirs[n.split('.')[1]]}.{n.split('.')[2]}": value for n, value in w.items()}
        of = x["request_of"]
        return call(layer, state, (x["candidate"][:, None], x["history"][of], x["length"][of][:, None]))[:, 0]

    own = lambda w, x, **order: ref.din(w, x["candidate"], x["history"], x["valid"], x["request_of"], **order)
    agree("DIN and DeepCTR-Torch", own(weights, inputs), run(weights, inputs))
    wrong = {
        "order": own(weights, inputs, order=lambda q, k: [q, k, k - q, q * k]),
        "no_mask": own(weights, inputs | {"valid": torch.ones(3, 7).long()}),
    }
    write("din", run, weights, inputs, {}, 44, wrong=wrong)


# ---- SASRec and BST -------------------------------------------------------------------------------------------------------


def encoder_rows(d, layers, heads, norm_first=True):
    """Rows through `nn.TransformerEncoder`, each of which sees those up to it."""
    layer = nn.TransformerEncoderLayer(d, heads, d, 0.0, layer_norm_eps=1e-5, batch_first=True, norm_first=norm_first)
    encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(d, 1e-5), enable_nested_tensor=False)

    def rows(w, x):
        state = {f"norm.{kind}": w[f"sequence.norm.{kind}"] for kind in ("weight", "bias")}
        for l in range(layers):
            ours, theirs = f"sequence.layer{l}", f"layers.{l}"
            for kind in ("weight", "bias"):
                both = [w[f"{ours}.{part}.{kind}"] for part in ("query", "key_value")]
                state[f"{theirs}.self_attn.in_proj_{kind}"] = torch.cat(both)
                state[f"{theirs}.self_attn.out_proj.{kind}"] = w[f"{ours}.out.{kind}"]
                for name, of in (("linear1", "expand"), ("linear2", "contract"), ("norm1", "norm"), ("norm2", "ffn_norm")):
                    state[f"{theirs}.{name}.{kind}"] = w[f"{ours}.{of}.{kind}"]
        mask = nn.Transformer.generate_square_subsequent_mask(len(x))
        return call(encoder, state, (x[None],), dict(mask=mask, is_causal=True))[0]

    return rows


def sasrec_and_bst():
    d, n, heads, buckets = 12, 7, 2, 129
    inputs = hstu_requests(171)
    for layers in (1, 2):
        shapes = linears(sequence__token=(d, TOKEN))
        for l in range(layers):
            layer = f"sequence.layer{l}"
            for part, size in (("query", (d, d)), ("key_value", (2 * d, d)), ("out", (d, d)), ("expand", (d, d)), ("contract", (d, d))):
                shapes |= {f"{layer}.{part}.weight": size, f"{layer}.{part}.bias": size[:1]}
            shapes |= {f"{layer}.{of}.{kind}": (d,) for of in ("norm", "ffn_norm") for kind in ("weight", "bias")}
        shapes |= {"sequence.norm.weight": (d,), "sequence.norm.bias": (d,)}
        theirs, after = encoder_rows(d, layers, heads), encoder_rows(d, layers, heads, norm_first=False)
        own = lambda w, x, **form: ref.transformer_rows(w, x, layers, heads, **form)
        everywhere = inputs | {"valid": torch.ones(3, n).long()}
        config = dict(heads=heads, width=d, layers=layers, history_len=n)
        for name, block, places in (("sasrec", ref.sasrec, ("position", n)), ("bst", ref.bst, ("time", buckets))):
            weights = draw(shapes | {f"sequence.{places[0]}": (places[1], d)}, 172)
            run = lambda w, x: block(w, x, theirs)
            agree(f"{name} of {layers} and nn.TransformerEncoder", block(weights, inputs, own), run(weights, inputs))
            wrong = {
                "norm_after": block(weights, inputs, after),
                "query_norm": block(weights, inputs, lambda w, x: own(w, x, norm_keys=False)),
                "no_mask": block(weights, everywhere, own),
            }
            if name == "sasrec":
                wrong["from_front"] = ref.sasrec(weights, inputs, own, from_front=True)
            if layers > 1:
                full = lambda w, x: own(w, x, sees=torch.ones(len(x), len(x)).bool())
                wrong["not_causal"] = block(weights, inputs, full)
            used = {key: value for key, value in inputs.items() if key not in ("length", "tasks")}
            write(f"{name}_{layers}", run, weights, used, config, 173, wrong=wrong, free=("ages",))


# ---- HSTU -----------------------------------------------------------------------------------------------------------------


SIZES = dict(heads=2, dqk=5, dv=6, n=10)
# Floats of a row and of a token, and how many actions there are.
D, TOKEN, TASKS = 12, 9, 2


def hstu_shapes(form, d=D):
    shapes = linears(sequence__token=(d, TOKEN)) | {"sequence.action": (TASKS + 1, d)}
    if not form.rab:
        shapes |= {"sequence.position": (form.n + 1, d), "sequence.time": (129, d)}
    for l in range(form.layers):
        name, width = f"sequence.layer{l}", form.heads * form.dv
        shapes[name + ".uvqk.weight"] = (2 * form.heads * (form.dv + form.dqk), d)
        if form.rab:
            shapes |= {name + ".rab.position": (2 * form.n - 1,), name + ".rab.time": (129,)}
            shapes |= linears(**{name + ".out": (d, width)})
        else:
            shapes |= {name + ".uvqk.bias": (2 * form.heads * (form.dv + form.dqk),), name + ".out.weight": (d, 3 * width)}
            shapes |= {name + ".norm.weight": (d,), name + ".norm.bias": (d,)}
            shapes |= {name + ".out_norm.weight": (width,), name + ".out_norm.bias": (width,)}
    return shapes


def hstu_requests(seed):
    """Three requests, and how long before them their events were, seconds: minutes to weeks, twice at once."""
    ages = torch.tensor([[700_000, 93_700, 7_300, 7_300, 4_000, 130, 7], [5_000_000, 40, 40, 0, 0, 0, 0], [0.0] * 7])
    between = (ages[:, :, None] - ages[:, None, :]).abs().clamp(min=1.0).double().log() / 0.301
    edge = (between - between.round()).abs()
    assert edge[between > 0].min() > 1e-3, "on the edge of a bucket, which rounding decides"
    tasks = torch.randint(TASKS, (3, 7), generator=torch.Generator().manual_seed(seed + 2))
    given = {"candidate": normal(seed + 1, 8, TOKEN), "request_of": REQUEST_OF, "ages": ages, "tasks": tasks}
    return histories(seed, LENGTHS, 7, TOKEN) | given


def one_by_one(run, weights, inputs):
    alone = [run(weights, inputs | {key: inputs[key][i : i + 1] for key in ("candidate", "request_of")}) for i in range(8)]
    agree("candidates alone and together", torch.cat(alone), run(weights, inputs))


def hstu_productions():
    inputs = hstu_requests(51)
    for layers in (1, 2):
        variant = SIZES | dict(layers=layers) | ref.PRODUCTION
        form = ref.Hstu(**variant)
        weights = draw(hstu_shapes(form), 53)
        run = lambda w, x: ref.hstu(w, x, form)
        one_by_one(run, weights, inputs)
        if len(sys.argv) > 1:
            theirs = ref.hstu(weights, inputs, form, rows=stu.layers(sys.argv[1], form, D))
            agree(f"HSTU of {layers} and STULayer", run(weights, inputs), theirs)
        but = lambda **change: ref.hstu(weights, inputs, ref.Hstu(**variant | change))
        seen = lambda mask: ref.hstu(weights, inputs, form, mask=mask)
        wrong = {
            "silu_on_all": but(silu_on_all=True),
            "no_scale": but(scaled=False),
            "n_of_batch": but(n=7),
            "no_mask": seen(lambda n, m: torch.ones(n + m, n + m).bool()),
            "targets_see_targets": seen(lambda n, m: torch.ones(n + m, n + m).tril().bool()),
        }
        write(f"hstu_production_{layers}", run, weights, inputs, SIZES | dict(layers=layers), 54, wrong=wrong, free=("ages",))


class OfNextEvent(RelativeBucketedTimeAndPositionBias):
    """Torch-RecHub's bias, with the rows' times shifted by one event."""

    def forward(self, time_diffs=None, seq_len=None):
        rows = torch.arange(seq_len)
        position = self.pos_w[rows[None, :] - rows[:, None] + self.max_seq_len - 1]
        of_row = torch.cat([time_diffs[:, 1:], time_diffs[:, -1:]], 1)
        time = self.ts_w[self._bucketize_time(of_row[:, :, None] - time_diffs[:, None, :])]
        return position.permute(2, 0, 1) + time.permute(0, 3, 1, 2)


def rechub_block(form, d):
    return HSTUBlock(
        d, form.heads, form.layers, form.dqk, form.dv, 0.0, form.n, 128, "log", 0.301, "seconds"
    )


def to_rechub(w, form, d):
    """Our weights as a state of `HSTUBlock`: rows of the projection as q, k, u, v."""
    state, a, b = {}, form.heads * form.dv, form.heads * form.dqk
    ones = lambda n: {"weight": torch.ones(n), "bias": torch.zeros(n)}
    for l in range(form.layers):
        ours, theirs = f"sequence.layer{l}", f"layers.{l}"
        turned = lambda y: torch.cat([y[2 * a :], y[: 2 * a]])
        state[theirs + ".proj1.weight"] = turned(w[ours + ".uvqk.weight"])
        state[theirs + ".proj1.bias"] = turned(w.get(ours + ".uvqk.bias", torch.zeros(2 * (a + b))))
        per_head = lambda y: y if y.dim() == 2 else y[:, None].expand(-1, form.heads)
        state[theirs + ".rab.pos_w"] = per_head(w[ours + ".rab.position"])
        state[theirs + ".rab.ts_w"] = per_head(w[ours + ".rab.time"])
        for which, of, n in (("norm_in", "norm", d), ("norm_attn", "out_norm", a)):
            for kind, value in ones(n).items():
                state[f"{theirs}.{which}.{kind}"] = w.get(f"{ours}.{of}.{kind}", value)
        state |= {f"{theirs}.proj2.{kind}": w[f"{ours}.out.{kind}"] for kind in ("weight", "bias")}
    return state


def rechub_as_it_is():
    """Torch-RecHub's own flags: scaled, affine norms of eps 1e-5, a bias per head, each row's own time."""
    form = ref.Hstu(**SIZES, layers=2, silu_on_all=True, scaled=True, concatenates=False, rab=True, eps=1e-5, next_time=False)
    shapes = hstu_shapes(form)
    for l in range(form.layers):
        name, width = f"sequence.layer{l}", form.heads * form.dv
        shapes |= {name + ".rab.position": (2 * form.n - 1, form.heads), name + ".rab.time": (129, form.heads)}
        shapes |= {name + ".uvqk.bias": (2 * form.heads * (form.dv + form.dqk),)}
        shapes |= {name + ".norm.weight": (D,), name + ".norm.bias": (D,)}
        shapes |= {name + ".out_norm.weight": (width,), name + ".out_norm.bias": (width,)}
    w, x, ages = draw(shapes, 61), normal(62, 1, 7, D), hstu_requests(51)["ages"][:1]
    theirs = call(rechub_block(form, D), to_rechub(w, form, D), (x,), dict(time_diffs=ages))
    agree("HSTU and Torch-RecHub as it is", ref.hstu_rows(w, x[0], 7, form, -ages[0]), theirs[0])


def hstu_researches():
    rechub_as_it_is()
    inputs = hstu_requests(64)
    for layers in (1, 2):
        variant = SIZES | dict(layers=layers) | ref.RESEARCH
        form = ref.Hstu(**variant)
        weights = draw(hstu_shapes(form), 63)
        block = rechub_block(form, D)
        for layer in block.layers:
            layer.attn_alpha = 1.0
            layer.norm_in.eps = layer.norm_attn.eps = form.eps
            layer.rab = OfNextEvent(form.heads, form.n, 128, "log", 0.301, "seconds")

        def rows(w, z, n_history, time):
            """A candidate is the last row of a plain causal list, so each is run at the end of a list of its own."""
            state, last = to_rechub(w, form, D), []
            for i in range(n_history, len(z)):
                alone = torch.cat([z[:n_history], z[i : i + 1]])
                last.append(call(block, state, (alone[None],), dict(time_diffs=-time[None, : n_history + 1]))[0, -1])
            return torch.cat([z[:n_history], torch.stack(last)])

        run = lambda w, x: ref.hstu(w, x, form, rows=rows)
        own = lambda w, x: ref.hstu(w, x, form)
        agree(f"HSTU of {layers} and Torch-RecHub", own(weights, inputs), run(weights, inputs))
        one_by_one(own, weights, inputs)
        but = lambda **change: ref.hstu(weights, inputs, ref.Hstu(**variant | change))
        causal = lambda n, m: torch.ones(n + m, n + m).tril().bool()
        wrong = {
            "scaled": but(scaled=True),
            "silu_on_u": but(silu_on_all=False),
            "targets_see_targets": ref.hstu(weights, inputs, form, mask=causal),
        }
        if layers > 1:
            # Of one layer, the history's rows are read as they come in.
            wrong["own_time"] = but(next_time=False)
        write(f"hstu_research_{layers}", run, weights, inputs, SIZES | dict(layers=layers), 65, wrong=wrong, free=("ages",))


# ---- Interaction and heads ------------------------------------------------------------------------------------------------


def factorization():
    inputs = {"user": normal(71, 3, 2, 4), "candidate": normal(72, 8, 3, 4), "request_of": REQUEST_OF}
    fields = lambda x: torch.cat([x["user"][x["request_of"]], x["candidate"]], 1)
    run = lambda w, x: FM()(fields(x))[:, 0]
    agree("FM and DeepCTR-Torch", ref.fm(fields(inputs)), FM()(fields(inputs))[:, 0])
    agree("FM and Torch-RecHub", ref.fm(fields(inputs)), RechubFM()(fields(inputs))[:, 0])
    wrong = {"twice": 2 * ref.fm(fields(inputs)), "apart": ref.fm(inputs["user"])[REQUEST_OF] + ref.fm(inputs["candidate"])}
    write("fm", run, {}, inputs, {}, 73, trained=["in.user", "in.candidate"], wrong=wrong)


def head_shapes(n_tasks, n_trunk, n_tower, n_in):
    shapes = {}
    for t in range(n_tasks):
        shapes |= linears(**{f"head__tower{t}": (n_tower, n_in), f"head__out{t}": (1, n_tower)})
    return shapes


def heads():
    n_tasks, n_experts, n_trunk, n_expert, n_tower = 2, 3, 10, 8, 6
    x = {"trunk": normal(81, 9, n_trunk)}
    columns = [DenseFeat("trunk", n_trunk)]
    common = dict(tower_dnn_hidden_units=(n_tower,), dnn_activation=nn.SiLU, task_types=("regression",) * n_tasks)

    def state_of(w):
        """Towers of both; the bias of our last layer is that of their prediction layer."""
        state = {}
        for t in range(n_tasks):
            state |= {f"tower_dnn.{t}.linears.0.{kind}": w[f"head.tower{t}.{kind}"] for kind in ("weight", "bias")}
            state |= {f"tower_dnn_final_layer.{t}.weight": w[f"head.out{t}.weight"], f"out.{t}.bias": w[f"head.out{t}.bias"]}
        return state

    shapes = head_shapes(n_tasks, n_trunk, n_tower, n_expert)
    for e in range(n_experts):
        shapes |= linears(**{f"head__expert{e}": (n_expert, n_trunk)})
    shapes |= {f"head.gate{t}.weight": (n_experts, n_trunk) for t in range(n_tasks)}
    weights = draw(shapes, 82)
    mixture = MMOE(columns, n_experts, (n_expert,), (), **common)

    def run(w, x):
        state = state_of(w)
        for e in range(n_experts):
            state |= {f"expert_dnn.{e}.linears.0.{kind}": w[f"head.expert{e}.{kind}"] for kind in ("weight", "bias")}
        state |= {f"gate_dnn_final_layer.{t}.weight": w[f"head.gate{t}.weight"] for t in range(n_tasks)}
        return call(mixture, state, (x["trunk"],))

    agree("MMoE and DeepCTR-Torch", ref.mmoe(weights, x["trunk"], n_tasks, n_experts), run(weights, x))
    swapped = weights | {"head.gate0.weight": weights["head.gate1.weight"], "head.gate1.weight": weights["head.gate0.weight"]}
    wrong = {"gates_swapped": ref.mmoe(swapped, x["trunk"], n_tasks, n_experts)}
    write("mmoe", run, weights, x, dict(tasks=n_tasks, experts=n_experts), 83, wrong=wrong)

    weights = draw(head_shapes(n_tasks, n_trunk, n_tower, n_trunk), 84)
    shared = SharedBottom(columns, (n_trunk,), **common)
    shared.bottom_dnn = nn.Identity()
    run = lambda w, x: call(shared, state_of(w), (x["trunk"],))
    agree("shared bottom and DeepCTR-Torch", ref.shared_bottom(weights, x["trunk"], n_tasks), run(weights, x))
    write("shared_bottom", run, weights, x, dict(tasks=n_tasks), 85)


def exact_jeffreys(a, b, z):
    """Its value and gradients with 80 digits."""
    with mpmath.workdps(80):
        sigmoid = lambda x: 1 / (1 + mpmath.exp(-mpmath.mpf(x)))
        p, q, z = sigmoid(a) * sigmoid(b), sigmoid(z), mpmath.mpf(z)
        logit = mpmath.log(p) - mpmath.log(1 - p)
        # By the logit of p, and of this by a and by b: dp/da = p (1 - sigmoid(a)).
        by_logit = p * (1 - p) * (logit - z) + (p - q)
        by = [by_logit * sigmoid(-x) / (1 - p) for x in (a, b)] + [-(q * (1 - q) * (logit - z) + (p - q))]
        return [float(x) for x in [(p - q) * (logit - z), *by]]


def kl_bound():
    # What comes up in practice, then every mixture of the largest logits.
    usual = (2 * normal(91, 3, 12)).tolist()
    grid = [-40.0, -20.0, -3.0, 0.0, 3.0, 20.0, 40.0]
    extreme = [(a, b, z) for a in grid for b in grid if b >= a for z in grid]
    rows = list(zip(*usual)) + extreme
    a, b, z = (torch.tensor(column) for column in zip(*rows))
    exact = torch.tensor([exact_jeffreys(*row) for row in zip(a.tolist(), b.tolist(), z.tolist())], dtype=torch.float64)
    double = [column.double().requires_grad_() for column in (a, b, z)]
    value = ref.jeffreys(*double)
    value.sum().backward()
    agree("Jeffreys and 80 digits", value.detach(), exact[:, 0], 1e-12)
    for i, column in enumerate(double):
        agree(f"Jeffreys by {'abz'[i]} and 80 digits", column.grad, exact[:, 1 + i], 1e-12)

    # Adagrad moves the usual logits only; the others have no way to go in 50 steps.
    inputs = {"a": a[:12], "b": b[:12], "z": z[:12]}
    run = lambda w, x: ref.jeffreys(*(x[key].double() for key in "abz")).float()
    wrong = {"one_way": one_way(inputs), "of_click": run({}, inputs | {"b": torch.full((12,), 40.0)})}
    write("kl_bound", run, {}, inputs, {}, 92, trained=["in.a", "in.b", "in.z"], wrong=wrong)
    # In double precision, and each gradient as it is.
    tensors = {"in.a": a, "in.b": b, "in.z": z, "out": exact[:, 0]}
    save("kl_bound_extreme", tensors | {f"grad.in.{key}": exact[:, 1 + i] for i, key in enumerate("abz")})


def one_way(x):
    """KL(p||q) alone."""
    p, q = x["a"].sigmoid() * x["b"].sigmoid(), x["z"].sigmoid()
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()


def main():
    torch.set_num_threads(1)
    for package in ("torch", "torch-rechub", "deepctr-torch", "transformers", "mpmath"):
        print(package, importlib.metadata.version(package))
    FIXTURES.mkdir(exist_ok=True)
    for make in (fq_formers, content_interests, contrast, din, sasrec_and_bst, hstu_productions, hstu_researches, factorization, heads, kl_bound):
        make()


if __name__ == "__main__":
    main()
