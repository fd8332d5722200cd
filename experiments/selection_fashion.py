"""Shuffled captions on Fashion: are they found by small loss, and how much quality comes back without them?

    python experiments/selection_fashion.py --data DIR

DIR holds `fashion15k_styles.csv` and `fashion15k_60x80.zip`. A share of the training captions changes places. Two
small dual encoders (pixels of 16x16 and hashed words, two layers each) are trained on one half of the pairs each and
judge the other half; a mixture over the losses says which pairs are clean, and the two are trained again on those. The
script prints one JSON line per share: `auroc` of the clean probability, Recall@10 (mean of both directions, test
split, all rows of a title are right) when trained on clean, on noisy and on cleaned pairs for the same number of
steps, and `recovered`, the part of the lost recall that cleaning brings back. `--preset tiny` needs no data.
"""

import argparse
import json
import re
import sys
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from erel_jax import losses
from erel_jax.host_memory import keep_freed_memory
from erel_jax.metrics import two_way_retrieval
from erel_jax.selection import clean_probability, filter_by_loss, group_equal_texts, pair_losses

WORDS = 2048
SIDE = 16
EMBEDDING = 128
HIDDEN = 512


class Pairs(NamedTuple):
    """Features of N pairs: float32[N, D] pictures, float32[N, W] captions, int32[N] caption groups."""

    pictures: np.ndarray
    captions: np.ndarray
    group: np.ndarray


# ---------------------------------------------------------------- settings
def sizes(preset: str) -> dict[str, Any]:
    """Steps, warm-up steps, batch, rounds of cleaning and learning rate of a preset: "full" or "tiny"."""
    if preset == "full":
        return {"steps": 400, "warmup": 200, "batch": 512, "rounds": 2, "rate": 1e-3}
    return {"steps": 10, "warmup": 20, "batch": 32, "rounds": 1, "rate": 1e-3}


def main(
    preset: str = "full",
    data: str | None = None,
    shares: tuple[float, ...] = (0.2, 0.4, 0.5),
    kind: str = "gaussian",
    seed: int = 0,
) -> list[dict]:
    """Runs all shares and returns their rows."""
    chosen = sizes(preset)
    train, test = drawn(seed) if data is None else fashion(Path(data))
    clean = recall(trained(train, np.arange(len(train.group)), chosen["steps"], chosen, seed), test)
    rows = [measured(train, test, share, clean, chosen, kind, seed) for share in shares]
    return rows


# ---------------------------------------------------------------- data
def fashion(folder: Path) -> tuple[Pairs, Pairs]:
    """Training and test pairs of the fashion set."""
    from erel_jax.data.retrieval import load_retrieval

    found = load_retrieval("fashion", images=folder)
    parts = [found.splits[name] for name in ("train", "test")]
    pictures = [np.asarray(part.images, np.float32).reshape(len(part), SIDE, -1, SIDE, 64 // SIDE, 3) for part in parts]
    flat = [values.mean(axis=(2, 4)).reshape(len(values), -1) / 255 for values in pictures]
    center, spread = flat[0].mean(axis=0), flat[0].std(axis=0) + 1e-3
    texts = [[part.texts[row] for row in part.text_of_image] for part in parts]
    train, test = (
        Pairs((pixels - center) / spread, hashed_words(lines), group_equal_texts(lines))
        for pixels, lines in zip(flat, texts, strict=True)
    )
    return train, test


def drawn(seed: int) -> tuple[Pairs, Pairs]:
    """Pairs of random features that share a meaning, small enough for a test."""
    draw = np.random.default_rng(seed)
    meaning = draw.normal(size=(256, 8))
    maps = draw.normal(size=(2, 8, 24))
    sides = [(meaning @ change + 0.1 * draw.normal(size=(256, 24))).astype(np.float32) for change in maps]
    group = np.arange(256, dtype=np.int32)
    train, test = (Pairs(sides[0][part], sides[1][part], group[part]) for part in (slice(0, 192), slice(192, 256)))
    return train, test


def hashed_words(texts: list[str]) -> np.ndarray:
    """float32[N, WORDS] of length one: which words occur, by hash."""
    rows = np.zeros((len(texts), WORDS), np.float32)
    for row, text in enumerate(texts):
        for word in re.findall(r"\w+", text.casefold()):
            rows[row, zlib.crc32(word.encode()) % WORDS] = 1
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6) * 8


def shuffled(pairs: Pairs, share: float, seed: int) -> tuple[Pairs, np.ndarray]:
    """The pairs with a share of captions in other places, and bool[N] of which captions are wrong now."""
    draw = np.random.default_rng(seed)
    chosen = draw.permutation(len(pairs.group))[: round(share * len(pairs.group))]
    source = np.arange(len(pairs.group))
    source[chosen] = np.roll(chosen, 1)
    wrong = pairs.group[source] != pairs.group
    return Pairs(pairs.pictures, pairs.captions[source], pairs.group[source]), wrong


# ---------------------------------------------------------------- model
def initial(widths: tuple[int, int], seed: int) -> dict[str, Any]:
    """Parameters of both towers and the temperature."""
    draw = np.random.default_rng(seed)

    def tower(width: int) -> dict[str, np.ndarray]:
        return {
            "first": draw.normal(size=(width, HIDDEN)).astype(np.float32) * width**-0.5,
            "bias": np.zeros(HIDDEN, np.float32),
            "second": draw.normal(size=(HIDDEN, EMBEDDING)).astype(np.float32) * HIDDEN**-0.5,
        }

    return {
        "pictures": tower(widths[0]),
        "captions": tower(widths[1]),
        "log_scale": np.float32(losses.INITIAL_LOG_SCALE),
    }


def embed(tower: dict[str, jax.Array], features: jax.Array) -> jax.Array:
    """float32[B, EMBEDDING]."""
    return jax.nn.gelu(features @ tower["first"] + tower["bias"][None, :]) @ tower["second"]


def loss_of(params: dict[str, Any], pictures: jax.Array, captions: jax.Array, group: jax.Array) -> jax.Array:
    """Symmetric InfoNCE; pairs of one caption are no negatives of each other."""
    sides = embed(params["captions"], captions), embed(params["pictures"], pictures)
    return losses.symmetric_info_nce(*sides, params["log_scale"], group=group)


def trained(pairs: Pairs, rows: np.ndarray, steps: int, chosen: dict[str, Any], seed: int) -> dict[str, Any]:
    """Parameters after some steps on the given rows, each epoch in a new order."""
    optimizer = optax.adamw(optax.cosine_decay_schedule(chosen["rate"], steps), weight_decay=0.05)
    params = initial((pairs.pictures.shape[1], pairs.captions.shape[1]), seed)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, pictures, captions, group):
        gradients = jax.grad(loss_of)(params, pictures, captions, group)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    draw = np.random.default_rng(seed)
    batch = min(chosen["batch"], len(rows))
    order = np.zeros(0, np.int64)
    for _ in range(steps):
        if len(order) < batch:
            order = draw.permutation(rows)
        part, order = order[:batch], order[batch:]
        params, state = step(params, state, *(side[part] for side in pairs))
    return params


def embedded(params: dict[str, Any], pairs: Pairs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(captions, pictures) of the given rows, float32[R, EMBEDDING] each."""
    sides = (params["captions"], pairs.captions[rows]), (params["pictures"], pairs.pictures[rows])
    captions, pictures = (np.asarray(embed(tower, jnp.asarray(side))) for tower, side in sides)
    return captions, pictures


def recall(params: dict[str, Any], test: Pairs) -> float:
    """Recall@10 on the test pairs, distinct captions against all pictures and back."""
    sides = embedded(params, test, np.arange(len(test.group)))
    captions, pictures = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    first = np.unique(test.group, return_index=True)[1]
    return two_way_retrieval(captions[first], pictures, test.group[first], test.group, ks=(10,))["recall@10"]


# ---------------------------------------------------------------- cleaning
def judged(pairs: Pairs, kept: np.ndarray, chosen: dict[str, Any], seed: int) -> np.ndarray:
    """float32[N] losses; each half is judged by a model trained on the kept rows of the other half."""
    order = np.random.default_rng(seed).permutation(len(pairs.group))
    halves = np.array_split(order, 2)
    found = np.zeros(len(order), np.float32)
    for half, (mine, other) in enumerate([(halves[0], halves[1]), (halves[1], halves[0])]):
        params = trained(pairs, np.intersect1d(mine, kept), chosen["warmup"], chosen, seed + 1 + half)
        captions, pictures = embedded(params, pairs, other)
        scale = float(np.minimum(params["log_scale"], losses.LOG_SCALE_LIMIT))
        found[other] = pair_losses(captions, pictures, log_scale=scale, group=pairs.group[other])
    return found


def auroc(scores: np.ndarray, wrong: np.ndarray) -> float:
    """Chance that a clean pair scores above a wrong one; ties count half."""
    values, inverse = np.unique(scores, return_inverse=True)
    clean = np.bincount(inverse[~wrong], minlength=len(values))
    noisy = np.bincount(inverse[wrong], minlength=len(values))
    below = np.cumsum(noisy) - noisy
    return float((clean * (below + 0.5 * noisy)).sum() / (clean.sum() * noisy.sum()))


def measured(
    train: Pairs, test: Pairs, share: float, clean: float, chosen: dict[str, Any], kind: Any, seed: int
) -> dict:
    """One row: noise, cleaning and recovery at a share of shuffled captions."""
    start = time.perf_counter()
    noisy_pairs, wrong = shuffled(train, share, seed)
    everyone = np.arange(len(train.group))
    noisy = recall(trained(noisy_pairs, everyone, chosen["steps"], chosen, seed), test)
    kept, by_round = everyone, []
    for number in range(chosen["rounds"]):
        found = judged(noisy_pairs, kept, chosen, seed + 10 * number)
        kept = filter_by_loss(found, kind=kind).kept
        by_round.append(auroc(clean_probability(found, kind), wrong))
    cleaned = recall(trained(noisy_pairs, kept, chosen["steps"], chosen, seed), test)
    result = {
        "name": f"fashion_noise_{round(100 * share)}",
        "auroc": by_round[-1],
        "auroc_by_round": by_round,
        "kept": len(kept),
        "kept_wrong": int(wrong[kept].sum()),
        "wrong": int(wrong.sum()),
        "recall@10": {"clean": clean, "noisy": noisy, "cleaned": cleaned},
        "recovered": (cleaned - noisy) / (clean - noisy) if clean > noisy else None,
        "seconds": time.perf_counter() - start,
    }
    print(json.dumps(result), flush=True)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("full", "tiny"), default="full")
    parser.add_argument("--data", help="folder with the fashion files; the tiny preset draws its own data")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.4, 0.5])
    parser.add_argument("--kind", choices=("gaussian", "beta"), default="gaussian")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.preset == "full" and options.data is None:
        parser.error("--data is missing: the folder with fashion15k_styles.csv and fashion15k_60x80.zip")
    keep_freed_memory()
    main(options.preset, options.data, tuple(options.shares), options.kind, options.seed)
