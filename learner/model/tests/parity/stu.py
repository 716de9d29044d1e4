"""The layer of Meta's generative-recommenders (`modules/stu.py`), run without a GPU and without fbgemm.

It is on no package index, so whoever wants it named as the reference passes the folder of a clone; seen to work with commit
2e81fab of https://github.com/facebookresearch/generative-recommenders. Two operators of fbgemm stand here in plain PyTorch.
"""

import functools
import sys

import torch


def padded(values, offsets, max_lengths, padding_value=0.0):
    (n,), ends = max_lengths, offsets[0].tolist()
    rows = [values[a:b] for a, b in zip(ends, ends[1:])]
    return torch.stack([torch.nn.functional.pad(row, (0, 0, 0, n - len(row)), value=padding_value) for row in rows])


def jagged(dense, offsets, total_L=None):
    ends = offsets[0].tolist()
    return torch.cat([row[: b - a] for row, a, b in zip(dense, ends, ends[1:])]), offsets


@functools.cache
def operators():
    """Registered once, and as long as the library is kept."""
    library = torch.library.Library("fbgemm", "DEF")
    library.define(
        "jagged_to_padded_dense(Tensor values, Tensor[] offsets, SymInt[] max_lengths, float padding_value=0.0) -> Tensor"
    )
    library.define("dense_to_jagged(Tensor dense, Tensor[] offsets, SymInt? total_L=None) -> (Tensor, Tensor[])")
    library.impl("jagged_to_padded_dense", padded, "CompositeImplicitAutograd")
    library.impl("dense_to_jagged", jagged, "CompositeImplicitAutograd")
    return library


def layers(folder, form, d):
    """`rows(w, z, n_history, time)` as `reference.hstu` takes it, by a stack of their layers."""
    sys.path.insert(0, folder)
    operators()
    from generative_recommenders.common import HammerKernel
    from generative_recommenders.modules.stu import STULayer, STULayerConfig

    layer = STULayer(STULayerConfig(d, form.heads, form.dv, form.dqk, output_dropout_ratio=0.0), is_inference=False)
    layer.set_hammer_kernel(HammerKernel.PYTORCH)

    def rows(w, z, n_history, time):
        for l in range(form.layers):
            of = lambda name: w[f"sequence.layer{l}.{name}"]
            state = {
                "_uvqk_weight": of("uvqk.weight").T,
                "_uvqk_beta": of("uvqk.bias"),
                "_input_norm_weight": of("norm.weight"),
                "_input_norm_bias": of("norm.bias"),
                "_output_weight": of("out.weight").T,
                "_output_norm_weight": of("out_norm.weight"),
                "_output_norm_bias": of("out_norm.bias"),
            }
            lengths, offsets = torch.tensor([len(z)]), torch.tensor([0, len(z)])
            # They divide by the padded length, so all are padded to the constant.
            given = (z, lengths, offsets, form.n, torch.tensor([len(z) - n_history]))
            z = torch.func.functional_call(layer, state, given)
        return z

    return rows
