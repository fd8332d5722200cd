"""What compressing a trained dual encoder costs in recall: int8, 4 bits, float8, merged tokens, pruning, early exits.

    python experiments/train_contrastive.py --data fashion --images DIR --loss clip --epochs 5 --out runs/fashion
    python experiments/compression_fashion.py --data fashion --images DIR --towers runs/fashion

`--towers` is the output folder of `train_contrastive.py`; without it, towers with random weights show that everything
runs. Rows `source`, `int8`, `int8_static`, `float8`, `grouped8`, `grouped4`, `grouped4_asymmetric`, `grouped4_gptq`,
`nf4` compress both towers; `tome_R` merges R pairs of tokens per layer of the image tower; `neurons_half`, `heads_1`
and `layers_1` drop half of its neurons, a head per layer and a layer, and the same with `_healed` are trained for a
short while to embed the training pictures as the source does; `exit_L` stops it after L layers. Each prints the recall
of both directions on the test split (any right answer counts), the points of mean Recall@10 lost, and the drift of the
image embeddings. Calibration reads 256 training pairs.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from erel_jax import compression
from erel_jax.artifacts import cache_folder
from erel_jax.benchmark.retrieval_evaluation import evaluate_scores
from erel_jax.compression import importance, pruning
from erel_jax.compression.depth import at_depth, first_layers
from erel_jax.data.pipeline import eval_batches
from erel_jax.encoders import Encoder
from erel_jax.interop.huggingface import Loaded, load_encoder
from erel_jax.layers import FLOAT32
from erel_jax.training.pair_feed import PairFeed
from experiments import train_contrastive
from experiments.command import mistakes_in_one_line
from experiments.healing import heal, train_vectors

BATCH = 128
CALIBRATION = 256
ROUNDED = ("int8", "int8_static", "float8", "grouped8", "grouped4", "grouped4_asymmetric", "grouped4_gptq", "nf4")
MERGED = (1, 2, 4, 8, 12)
HEALING = 300


class Tower(NamedTuple):
    """An encoder with its parameters."""

    encoder: Encoder
    params: Any


# ---------------------------------------------------------------- settings
def main(given: list[str] | None = None) -> list[dict[str, Any]]:
    """Measures every row and returns them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="fashion", help="data set, as in train_contrastive.py")
    parser.add_argument("--images", help="folder of its source files")
    parser.add_argument("--towers", type=Path, help="output folder of train_contrastive.py")
    parser.add_argument("--cache", type=Path, default=None, help="folder of prepared data")
    parser.add_argument("--preset", choices=("full", "tiny"), default="full")
    options = parser.parse_args(given)
    pairs, towers = _pairs_and_towers(options)
    source = None
    rows = []
    for name, text, image in _variants(pairs, towers):
        row, vectors = _measured(name, pairs, text, image)
        source = source or (row, vectors)
        row["points_lost"] = 100 * (source[0]["recall@10"] - row["recall@10"])
        row["image_cosine"] = compression.cosine_drift(source[1], vectors)["mean"]
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


# ---------------------------------------------------------------- data and towers
def _pairs_and_towers(options: argparse.Namespace) -> tuple[PairFeed, dict[str, Loaded]]:
    tiny = options.preset == "tiny"
    folder = Path(tempfile.mkdtemp())
    settings = ["--preset", options.preset, "--out", str(options.towers or folder), "--precision", "float32"]
    settings += ["--cache", str(options.cache or (folder if tiny else cache_folder()))]
    settings += [] if tiny else ["--data", options.data]
    settings += ["--images", options.images] if options.images else []
    training = train_contrastive.arguments(settings)
    named = {}
    if options.towers:
        named = {name: load_encoder(options.towers / name, modality=name) for name in ("text", "image")}
    data = train_contrastive.load_data(training, named)
    towers = train_contrastive.all_towers(training, data, named)
    return PairFeed(data, towers, tokens=training.tokens), towers


# ---------------------------------------------------------------- what is compressed
def _variants(pairs: PairFeed, towers: dict[str, Loaded]) -> Iterator[tuple[str, Tower, Tower]]:
    text, image = (Tower(towers[name].encoder, towers[name].params) for name in ("text", "image"))
    yield "source", text, image
    rows = np.arange(min(CALIBRATION, len(pairs.data.splits["train"])))
    inputs = {"text": pairs.text("train", rows), "image": pairs.image("train", rows)}
    for name in (
        "int8",
        "int8_static",
        "float8",
        "grouped8",
        "grouped4",
        "grouped4_asymmetric",
        "grouped4_gptq",
        "nf4",
    ):
        yield name, _rounded(name, text, inputs["text"]), _rounded(name, image, inputs["image"])
    for merged in MERGED:
        fewer = compression.with_merged_tokens(image.encoder, merged)
        yield f"tome_{merged}", text, Tower(fewer, image.params)
    yield from _pruned(pairs, text, image, inputs)
    for layers in range(1, image.encoder.layers):
        shallow = Tower(at_depth(image.encoder, layers), first_layers(image.params, layers))
        yield f"exit_{layers}", text, shallow


def _rounded(name: str, tower: Tower, inputs: Any) -> Tower:
    params, apply = tower.params, tower.encoder.module.apply
    width = tower.encoder.width
    group = {"group": min(128, width)}
    if name == "int8":
        return tower._replace(params=compression.quantize_int8(params))
    if name == "int8_static":
        largest = compression.observe(apply, params, [inputs], compression.LARGEST)
        return tower._replace(params=compression.with_static_ranges(compression.quantize_int8(params), largest))
    if name == "float8":
        return tower._replace(params=compression.quantize_float8(params))
    if name == "nf4":
        return tower._replace(params=compression.quantize_nf4(params, block=min(64, width)))
    settings = {"bits": 8 if name == "grouped8" else 4, "symmetric": "asymmetric" not in name, **group}
    moments = compression.observe(apply, params, [inputs], compression.MOMENTS) if name.endswith("gptq") else None
    return tower._replace(params=compression.quantize_grouped(params, moments=moments, **settings))


def _pruned(pairs: PairFeed, text: Tower, image: Tower, inputs: dict) -> Iterator[tuple[str, Tower, Tower]]:
    """The image tower without its least important parts, as cut and healed."""
    encoder, params = image
    vectors = train_vectors(encoder, params, pairs)
    steps = min(HEALING, len(vectors))  # tiny data, short healing
    for name, cut in _cuts(text, image, inputs).items():
        smaller, left = pruning.prune(encoder, params, **cut, precision=FLOAT32)
        yield name, text, Tower(smaller, left)
        yield f"{name}_healed", text, Tower(smaller, heal(smaller, left, vectors, pairs, steps=steps))


def _cuts(text: Tower, image: Tower, inputs: dict) -> dict[str, dict[str, Any]]:
    """What `prune` takes away, by the contrastive loss over calibration pairs."""
    encoder, params = image
    targets = jax.jit(lambda p, x: text.encoder.module.apply(p, x).embedding)(text.params, inputs["text"])
    targets /= jnp.linalg.norm(targets, axis=1, keepdims=True)

    def loss(params: Any, batch: Any) -> jax.Array:
        found = encoder.module.apply(params, {"pixels": batch["pixels"]}).embedding
        logits = 20.0 * found @ batch["targets"].T / jnp.linalg.norm(found, axis=1, keepdims=True)
        return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits, axis=1)))

    rows = len(targets)
    parts = np.array_split(np.arange(rows), max(1, rows // 32))
    batches = [{"pixels": inputs["image"]["pixels"][p], "targets": targets[p]} for p in parts]
    heads = importance.head_importance(loss, params, batches, encoder.config.heads)
    neurons = importance.neuron_importance(encoder.module.apply, params, [inputs["image"]])
    layers = importance.layer_importance(encoder, params, [inputs["image"]])
    cuts = {"neurons_half": {"neurons": pruning.most_important(neurons, 0.5)}}
    if heads.shape[1] > 1:
        cuts["heads_1"] = {"heads": pruning.most_important(heads, 1 / heads.shape[1])}
    if len(layers) > 1:
        cuts["layers_1"] = {"layers": pruning.most_important(layers, 1 / len(layers))}
    return cuts


# ---------------------------------------------------------------- rows
def _measured(name: str, pairs: PairFeed, text: Tower, image: Tower) -> tuple[dict[str, Any], jax.Array]:
    """Recall on the test split, and the image embeddings."""
    print(name, file=sys.stderr)
    split, vectors = pairs.data.splits["test"], {}
    for key, tower, read, total in (
        ("text", text, pairs.text, len(split.texts)),
        ("image", image, pairs.image, len(split)),
    ):
        step = jax.jit(lambda p, x, apply=tower.encoder.module.apply: apply(p, x).embedding)
        parts = [np.asarray(step(tower.params, read("test", rows)))[mask] for rows, mask in eval_batches(total, BATCH)]
        found = np.concatenate(parts)
        vectors[key] = jnp.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12))
    figures = evaluate_scores(vectors["text"], vectors["image"], split)
    recall = {metric: value for metric, value in figures.items() if "recall@" in metric}
    return {"name": name, **recall}, vectors["image"]


if __name__ == "__main__":
    with mistakes_in_one_line("compression_fashion"):
        main()
