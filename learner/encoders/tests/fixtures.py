#!/usr/bin/env python3
"""Writes `fixtures/`: what the public reference implementations make of a few texts and pictures.

    all-minilm-l6-v2.safetensors, efficientnet-lite0.safetensors   vectors of the real weights, which `.encoders/` holds
    tiny-bert/, tiny-roberta/, tiny-efficientnet/                  encoders with random weights, each with its vectors
    *.png, *.jpg                                                   the pictures; texts.json has the texts

The references are `transformers` for texts, and `efficientnet_lite_pytorch` after Pillow for pictures. Run it by hand, with
a Python that has these, torch and safetensors; the tests only read what it wrote. The tiny picture encoder goes through
`torch.save` in the old format and ops/setup/encoders.py, like the real one. Written with torch 2.13.0, transformers 5.23.0,
Pillow 12 and efficientnet_lite_pytorch 0.1.0.
"""

import io
import json
import math
import pathlib
import sys

import numpy
import torch
import transformers
from efficientnet_lite_pytorch.model import EfficientNet
from efficientnet_lite_pytorch.utils import BlockArgs, GlobalParams
from PIL import Image
from safetensors.numpy import save_file
from safetensors.torch import load_file
from tokenizers import Tokenizer

FIXTURES = pathlib.Path(__file__).resolve().parent / "fixtures"
REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
sys.dont_write_bytecode = True
sys.path.insert(0, str(REPOSITORY / "ops/setup"))
import encoders  # noqa: E402: found by the line above

TEXTS = [
    # Those of the model card, whose cosines are known.
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
    "a",
    "Amélie (2001), Comedy|Romance — naïve Ünïcödé, emoji 🎬 and 中文",
    "One flew over the nest; two stayed. " * 60,
]
TINY_TEXTS = ["the fish", "a fish called wanda", "ouzel", "fish fish the a wanda called the", "the fish " * 40]
TINY_PIECES = "[PAD] [UNK] [CLS] [SEP] [MASK] a the fish called wanda ou ##zel ##s s".split()
TINY_POSITIONS = 24
TINY_IMAGE = dict(encoders.IMAGE_CONFIG, image_size=36, resize_short_side=40, strides=[2, 1, 2, 1, 2])


def pictures():
    """Small pictures of every kind that decoding and resampling treat differently."""
    rng = numpy.random.default_rng(7)

    def waves(height, width, channels):
        y, x, c = numpy.mgrid[0:height, 0:width, 0:channels]
        smooth = 127 + 90 * numpy.sin(x / 9 + c) * numpy.cos(y / (5 + c))
        return (smooth + rng.normal(0, 12, smooth.shape)).clip(0, 255).astype(numpy.uint8)

    yield "wide.png", Image.fromarray(waves(70, 110, 3))
    yield "thin.png", Image.fromarray(waves(150, 9, 3))
    yield "grey.png", Image.fromarray(waves(40, 40, 1)[:, :, 0])
    yield "clear.png", Image.fromarray(waves(48, 31, 4), "RGBA")
    yield "large.jpg", Image.fromarray(waves(200, 290, 3))


def square(path, config):
    """The part of a picture that a network looks at, `[3, side, side]`."""
    picture = Image.open(path).convert("RGB")
    short, side = config["resize_short_side"], config["image_size"]
    width, height = (length * short // min(picture.size) for length in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    pixels = numpy.asarray(picture.crop((left, top, left + side, top + side)), dtype=numpy.float32)
    return torch.from_numpy((pixels - config["mean"]) / config["scale"]).permute(2, 0, 1)


def unit(vector):
    return (vector / vector.norm(dim=-1, keepdim=True)).numpy()


@torch.no_grad()
def text_vectors(model, tokenizer, texts, most):
    tokenizer.no_padding()
    tokenizer.enable_truncation(most)
    vectors = {}
    for number, text in enumerate(texts):
        ids = torch.tensor([tokenizer.encode(text).ids])
        states = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        vectors[str(number)] = unit(states[0].mean(0))
    return vectors


@torch.no_grad()
def image_vectors(model, config, names):
    features = {}
    for name in names:
        # A Conv2dStaticSamePadding of the reference pads for the size that it was made with.
        maps = model.extract_features(square(FIXTURES / name, config)[None])
        features[name] = unit(maps.mean((2, 3))[0])
    return features


def shaken(model, seed):
    """All parameters and buffers drawn anew, those of norms too, else their part would go untested."""
    torch.manual_seed(seed)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif value.is_floating_point():
            value.normal_(0, 0.6 if value.dim() > 1 else 0.3)
            if value.dim() > 1:
                value.mul_(2 / math.sqrt(value[0].numel()))
            elif "norm" in name.lower() or "bn" in name:
                value.add_(1.0 if name.endswith("weight") else 0.0)
    return model.eval()


def tiny_text(name, config_class, model_class, **extra):
    folder = FIXTURES / name
    folder.mkdir(exist_ok=True)
    config = config_class(
        vocab_size=len(TINY_PIECES),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=TINY_POSITIONS,
        pad_token_id=0,
        **extra,
    )
    model = shaken(model_class(config), 3)
    tokenizer = {
        "version": "1.0",
        # What the shipped tokenizers say of these two is to be overruled.
        "truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
        },
        "added_tokens": [],
        "normalizer": {
            "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                token: {"id": token, "ids": [TINY_PIECES.index(token)], "tokens": [token]} for token in ("[CLS]", "[SEP]")
            },
        },
        "decoder": None,
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {piece: index for index, piece in enumerate(TINY_PIECES)},
        },
    }
    text = json.dumps(tokenizer, indent=1)
    (folder / "tokenizer.json").write_text(text + "\n")
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=1, sort_keys=True) + "\n")
    weights = {key: value.numpy() for key, value in model.state_dict().items() if value.is_floating_point()}
    save_file(weights, folder / "model.safetensors")
    base = getattr(model, model.base_model_prefix, model)
    first = 1 if config.model_type == "roberta" else 0
    vectors = text_vectors(base, Tokenizer.from_str(text), TINY_TEXTS, TINY_POSITIONS - first)
    save_file(vectors, folder / "vectors.safetensors")


def tiny_image(names):
    folder = FIXTURES / "tiny-efficientnet"
    folder.mkdir(exist_ok=True)
    block = lambda kernel, stride, expand, n_in, n_out, n: BlockArgs(n, kernel, [stride], expand, n_in, n_out, None, True)
    blocks = [block(3, 1, 1, 32, 16, 1), block(5, 2, 6, 16, 24, 2), block(3, 2, 2, 24, 64, 1)]
    shape = GlobalParams(
        width_coefficient=0.25, depth_coefficient=1.0, image_size=TINY_IMAGE["image_size"], dropout_rate=0.0, num_classes=2,
        batch_norm_momentum=0.99, batch_norm_epsilon=encoders.BATCH_NORM_EPSILON, drop_connect_rate=0.0, depth_divisor=8,
        min_depth=None, relu_fn="relu6", fix_head_stem=False, local_pooling=False, use_se=False,
    )
    blocks = [of._replace(stride=of.stride[0]) for of in blocks]
    model = shaken(EfficientNet(blocks, shape), 5)
    file = io.BytesIO()
    torch.save(model.state_dict(), file, _use_new_zipfile_serialization=False)
    folded = encoders.fold_all(encoders.read_legacy(file.getvalue()))
    encoders.write_safetensors(folded, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(TINY_IMAGE, indent=1) + "\n")
    save_file(image_vectors(model, TINY_IMAGE, names), folder / "vectors.safetensors")


def real_text():
    folder = REPOSITORY / ".encoders/all-minilm-l6-v2"
    config = transformers.BertConfig(**json.loads((folder / "config.json").read_text()))
    model = transformers.BertModel(config)
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vectors = text_vectors(model.eval(), tokenizer, TEXTS, 256)
    save_file(vectors, FIXTURES / "all-minilm-l6-v2.safetensors")
    cosines = [float(vectors[a] @ vectors[b]) for a, b in ("01", "02", "12")]
    print("cosines of the model card's sentences: {:.4f} {:.4f} {:.4f}".format(*cosines))


def real_image(weights_path, names):
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights_path).eval()
    save_file(image_vectors(model, encoders.IMAGE_CONFIG, names), FIXTURES / "efficientnet-lite0.safetensors")


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: fixtures.py PATH-OF-efficientnet-lite0-57934424.pth")
    FIXTURES.mkdir(exist_ok=True)
    names = []
    for name, picture in pictures():
        picture.save(FIXTURES / name, **({"quality": 80} if name.endswith("jpg") else {"optimize": True}))
        names.append(name)
    (FIXTURES / "texts.json").write_text(json.dumps({"real": TEXTS, "tiny": TINY_TEXTS}, indent=1) + "\n")
    tiny_text("tiny-bert", transformers.BertConfig, transformers.BertModel, type_vocab_size=2)
    tiny_text(
        "tiny-roberta", transformers.RobertaConfig, transformers.RobertaForMaskedLM, type_vocab_size=1,
        bos_token_id=2, eos_token_id=3, hidden_act="gelu_new",
    )
    tiny_image(names)
    real_text()
    real_image(sys.argv[1], names)


if __name__ == "__main__":
    main()
