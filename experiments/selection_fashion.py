"""Shuffled captions on Fashion: are they found by small loss, and how much quality comes back without them?

    python experiments/selection_fashion.py --data DIR --seeds 0 1 2 --preset five_passes \\
        --text-encoder DIR --image-encoder efficientnet-lite0
    python experiments/selection_fashion.py --data DIR --seeds 0 1 2

The first DIR holds `fashion15k_styles.csv` and `fashion15k_60x80.zip`, the second a text encoder (all-MiniLM-L6-v2),
whose frozen vectors of the captions stand beside their words; those of an image encoder stand beside edges and colors.
A share of the training captions changes places. Small dual encoders (edge histograms and colors, hashed words, two
layers, dropout) are trained for a short while on three quarters of the pairs each and judge the last quarter; a mixture
over the losses says which pairs are clean. A second round trains the judges on those alone. Nothing that decides looks
at which captions were moved, nor at the test split.

The script prints one JSON line per share, means over seeds with the lowest and highest: `auroc` of the clean
probability, Recall@10 (mean of both directions, test split, all rows of a title are right) when trained on clean, on
noisy and on cleaned pairs for the same number of steps, and `recovered`, the part of the lost recall that cleaning
brings back. `cleaned` leaves out the pairs called mismatched, `perfect` exactly the moved captions, which no
filter can know: what it does not recover, fewer pairs cost. Of the moved captions, `still_right` says how many come
from a product of the same type, and of the same type, color and gender; such a caption describes its new picture about
as well as its own. `auroc_ceiling` is what a judge reaches that finds all others and must guess on the latter.
`--preset full` trains for 13 passes, the most that clean pairs gain from; `five_passes` stops where each pair has been
seen five times. `--preset tiny` needs no data.
"""

import argparse
import csv
import json
import re
import sys
import time
import zlib
from collections.abc import Sequence
from functools import partial
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
from erel_jax.selection import (
    clean_probability,
    cross_fitted_losses,
    filter_by_loss,
    group_equal_texts,
    pair_losses,
)
from experiments.command import mistakes_in_one_line
from experiments.picture_vectors import edges_and_colors, picture_vectors
from experiments.sentence_vectors import sentence_vectors

WORDS, COLUMNS = 2048, 16
WORD_SCALE = 8.0
PRETRAINED_JUDGE_STEPS = (150, 300)
"""Of the judges of each round who see vectors of a pretrained picture encoder: they memorize later."""
EMBEDDING = 128
HIDDEN = 512


class Pairs(NamedTuple):
    """Features of N pairs: float32[N, D] pictures, int32[N, COLUMNS] words of captions, int32[N] caption groups, and
    float32[N, S] vectors of captions, S = 0 without a text encoder.

    Arrays of the host, of the device, or shapes.
    """

    pictures: Any
    captions: Any
    group: Any
    sentences: Any = None


# ---------------------------------------------------------------- settings
def sizes(preset: str) -> dict[str, Any]:
    """Settings of a preset: of training, and of the judges of each round, who learn shorter."""
    learner = {"steps": 300, "batch": 512, "rate": 1e-3, "dropout": 0.1, "decay": 2.0}
    judges = {"judge_steps": (100, 200), "judge_dropout": 0.3, "folds": 4, "repeats": 1}
    if preset == "full":
        return learner | judges
    if preset == "five_passes":
        return learner | judges | {"steps": 235, "batch": 256, "rate": 2e-3}
    return learner | judges | {"steps": 10, "batch": 32, "judge_steps": (20,), "folds": 2}


def main(
    preset: str = "full",
    data: str | None = None,
    shares: Sequence[float] = (0.2, 0.4, 0.5),
    kind: str = "gaussian",
    seeds: Sequence[int] = (0,),
    split: str = "test",
    recovery: Sequence[float] = (0.4,),
    text_encoder: str | None = None,
    image_encoder: str | None = None,
) -> list[dict]:
    """Runs all shares and returns their rows; those of `recovery` with what comes back."""
    chosen, found = sizes(preset), []
    if image_encoder is not None:
        chosen |= {"judge_steps": PRETRAINED_JUDGE_STEPS}
    train, test, kinds = drawn(0) if data is None else fashion(Path(data), split, text_encoder, image_encoder)
    for share in shares:
        start = time.perf_counter()
        runs = []
        for seed in seeds:
            runs.append(measured(train, test, kinds, share, chosen, kind, seed, share in recovery))
            print(json.dumps({"share": share, "seed": seed, **runs[-1]}), file=sys.stderr, flush=True)
        found.append({"name": f"fashion_noise_{round(100 * share)}", "preset": preset, **summary(runs)})
        found[-1] |= {"seeds": list(seeds), "split": split, "seconds": time.perf_counter() - start}
        print(json.dumps(found[-1]), flush=True)
    return found


# ---------------------------------------------------------------- data
def fashion(
    folder: Path, split: str = "test", text_encoder: str | None = None, image_encoder: str | None = None
) -> tuple[Pairs, Pairs, np.ndarray]:
    """Training and held-out pairs, and int32[N, 2] of the training pairs: product type; type, color and gender."""
    from erel_jax.data.retrieval import load_retrieval

    found = load_retrieval("fashion", images=folder)
    parts = [found.splits[name] for name in ("train", split)]
    flat = [edges_and_colors(part.images) for part in parts]
    if image_encoder is not None:
        vectors = [picture_vectors(image_encoder, part.images) for part in parts]
        flat = [np.concatenate(both, axis=1) for both in zip(flat, vectors, strict=True)]
    center, spread = flat[0].mean(axis=0), flat[0].std(axis=0) + 1e-3
    texts = [[part.texts[row] for row in part.text_of_image] for part in parts]
    vectors = [np.zeros((len(lines), 0), np.float32) for lines in texts]
    if text_encoder is not None:
        vectors = [sentence_vectors(text_encoder, lines) for lines in texts]
    train, test = (
        Pairs(np.clip((pixels - center) / spread, -5, 5), hashed_words(lines), group_equal_texts(lines), own)
        for pixels, lines, own in zip(flat, texts, vectors, strict=True)
    )
    with open(folder / "fashion15k_styles.csv", encoding="utf-8", newline="") as lines:
        styles = {row["id"]: row for row in csv.DictReader(lines)}
    names = [("articleType",), ("articleType", "baseColour", "gender")]
    labels = [
        ["|".join(str(styles[item][name]) for name in columns) for item in parts[0].image_ids] for columns in names
    ]
    return train, test, np.stack([np.unique(column, return_inverse=True)[1] for column in labels], axis=1)


def drawn(seed: int) -> tuple[Pairs, Pairs, np.ndarray]:
    """Pairs of random features that share a meaning, small enough for a test."""
    draw = np.random.default_rng(seed)
    meaning = draw.normal(size=(256, 8))
    pictures = meaning @ draw.normal(size=(8, 24)) + 0.1 * draw.normal(size=(256, 24))
    words = np.full((256, COLUMNS), -1, np.int32)
    words[:, :8] = np.digitize(meaning, [-1, -0.3, 0.3, 1]) + 5 * np.arange(8)
    group = np.arange(256, dtype=np.int32)
    everything = Pairs(pictures.astype(np.float32), words, group, np.zeros((256, 0), np.float32))
    train, test = (rows_of(everything, part) for part in (slice(0, 192), slice(192, 256)))
    return train, test, np.stack([group[:192] % 8, group[:192] % 64], axis=1)


def hashed_words(texts: list[str]) -> np.ndarray:
    """int32[N, COLUMNS]: hashes of the first distinct words, -1 for unused places."""
    rows = np.full((len(texts), COLUMNS), -1, np.int32)
    for row, text in enumerate(texts):
        words = [zlib.crc32(word.encode()) % WORDS for word in re.findall(r"\w+", text.casefold())]
        distinct = list(dict.fromkeys(words))[:COLUMNS]
        rows[row, : len(distinct)] = distinct
    return rows


def shuffled(pairs: Pairs, share: float, seed: int) -> tuple[Pairs, np.ndarray]:
    """The pairs with a share of captions in other places, and int64[N], the row that each caption comes from."""
    draw = np.random.default_rng(seed)
    chosen = draw.permutation(len(pairs.group))[: round(share * len(pairs.group))]
    source = np.arange(len(pairs.group))
    source[chosen] = np.roll(chosen, 1)
    return rows_of(pairs, source)._replace(pictures=pairs.pictures), source


def rows_of(pairs: Pairs, rows: np.ndarray | slice) -> Pairs:
    """The pairs of some rows."""
    return Pairs(*(side[rows] for side in pairs))


# ---------------------------------------------------------------- model
def initial(pairs: Pairs, seed: int) -> dict[str, Any]:
    """Parameters of both towers and the temperature, for features like those of the pairs."""
    draw = np.random.default_rng(seed)

    def tower(rows: int) -> dict[str, np.ndarray]:
        return {
            "first": draw.normal(size=(rows, HIDDEN)).astype(np.float32) * rows**-0.5,
            "bias": np.zeros(HIDDEN, np.float32),
            "second": draw.normal(size=(HIDDEN, EMBEDDING)).astype(np.float32) * HIDDEN**-0.5,
        }

    params = {"pictures": tower(pairs.pictures.shape[1]), "captions": tower(WORDS)}
    width = pairs.sentences.shape[1]
    sentences = draw.normal(size=(width, HIDDEN)).astype(np.float32) * max(width, 1) ** -0.5
    return params | {"sentences": sentences, "log_scale": np.float32(losses.INITIAL_LOG_SCALE)}


def first_layers(
    params: dict[str, Any], pictures: jax.Array, words: jax.Array, key: jax.Array | None, dropout: float
) -> tuple[jax.Array, jax.Array]:
    """(captions, pictures) after the first layer, float32[B, HIDDEN]; with a key, a share of inputs is dropped."""
    known = (words >= 0).astype(jnp.float32)
    vectors = params["captions"]["first"][jnp.maximum(words, 0)]
    lengths = jnp.sqrt(jnp.maximum(jnp.sum(known, axis=1, keepdims=True), 1.0))
    if key is not None:
        known = dropped(jax.random.fold_in(key, 0), known, dropout)
        pictures = dropped(jax.random.fold_in(key, 1), pictures, dropout)
    captions = WORD_SCALE * jnp.einsum("bw,bwh->bh", known, vectors) / lengths
    return captions, pictures @ params["pictures"]["first"]


def embed(
    params: dict[str, Any], batch: Pairs, key: jax.Array | None = None, dropout: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """(captions, pictures), float32[B, EMBEDDING]; with a key, a share of inputs and hidden values is dropped."""
    captions, pictures = first_layers(params, batch.pictures, batch.captions, key, dropout)
    sentences = batch.sentences * batch.sentences.shape[1] ** 0.5
    if key is not None:
        sentences = dropped(jax.random.fold_in(key, 4), sentences, dropout)
    layers = {"captions": captions + sentences @ params["sentences"], "pictures": pictures}
    found = []
    for number, (name, values) in enumerate(layers.items()):
        hidden = jax.nn.gelu(values + params[name]["bias"][None, :])
        if key is not None:
            hidden = dropped(jax.random.fold_in(key, 2 + number), hidden, dropout)
        found.append(hidden @ params[name]["second"])
    return found[0], found[1]


EMBED = jax.jit(embed)


def dropped(key: jax.Array, values: jax.Array, share: float) -> jax.Array:
    """The values, of which a share is 0 and the others are larger for it."""
    return jnp.where(jax.random.bernoulli(key, 1 - share, values.shape), values / (1 - share), 0)


def loss_of(params: dict[str, Any], batch: Pairs, key: jax.Array, dropout: float) -> jax.Array:
    """Symmetric InfoNCE; pairs of one caption are no negatives of each other."""
    sides = embed(params, batch, key, dropout)
    return losses.symmetric_info_nce(*sides, params["log_scale"], group=batch.group)


def trained(pairs: Pairs, rows: np.ndarray, steps: int, chosen: dict[str, Any], seed: int) -> dict[str, Any]:
    """Parameters after some steps on the given rows, each epoch in a new order."""
    optimizer = optax.adamw(optax.cosine_decay_schedule(chosen["rate"], steps), weight_decay=chosen["decay"])
    params = initial(pairs, seed)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, batch, key):
        gradients = jax.grad(loss_of)(params, batch, key, chosen["dropout"])
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    draw = np.random.default_rng(seed)
    batch = min(chosen["batch"], len(rows))
    order = np.zeros(0, np.int64)
    for number in range(steps):
        if len(order) < batch:
            order = draw.permutation(rows)
        part, order = order[:batch], order[batch:]
        params, state = step(params, state, rows_of(pairs, part), jax.random.key(seed * 100_003 + number, impl="rbg"))
    return params


def embedded(params: dict[str, Any], pairs: Pairs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(captions, pictures) of the given rows, float32[R, EMBEDDING] each, of length one."""
    parts = [rows[start : start + 2048] for start in range(0, len(rows), 2048)]
    sides = [EMBED(params, rows_of(pairs, part)) for part in parts]
    captions, pictures = (np.concatenate([np.asarray(side[number]) for side in sides]) for number in (0, 1))
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (captions, pictures)]
    return unit[0], unit[1]


def recall(params: dict[str, Any], test: Pairs) -> float:
    """Recall@10 on the test pairs, distinct captions against all pictures and back."""
    captions, pictures = embedded(params, test, np.arange(len(test.group)))
    first = np.unique(test.group, return_index=True)[1]
    return two_way_retrieval(captions[first], pictures, test.group[first], test.group, ks=(10,))["recall@10"]


# ---------------------------------------------------------------- cleaning
def clean_by_peers(pairs: Pairs, chosen: dict[str, Any], kind: Any, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each round, clean probabilities float32[N] and the rows kept; the judges of a round train on those before."""

    def judge(steps: int, rows: np.ndarray, judged: np.ndarray, number: int) -> np.ndarray:
        params = trained(pairs, rows, steps, chosen | {"dropout": chosen["judge_dropout"]}, number)
        scale = float(np.minimum(params["log_scale"], losses.LOG_SCALE_LIMIT))
        return pair_losses(*embedded(params, pairs, judged), log_scale=scale, group=pairs.group[judged], rows=2048)

    found, kept = [], None
    for number, steps in enumerate(chosen["judge_steps"]):
        values = cross_fitted_losses(
            len(pairs.group),
            partial(judge, steps),
            folds=chosen["folds"],
            repeats=chosen["repeats"],
            kept=kept,
            seed=1000 * seed + 100 * number + 1,
            group=pairs.group,
        )
        kept = filter_by_loss(values, kind=kind).kept
        found.append((clean_probability(values, kind), kept))
    return found


def auroc(scores: np.ndarray, wrong: np.ndarray) -> float:
    """Chance that a clean pair scores above a wrong one; ties count half."""
    values, inverse = np.unique(scores, return_inverse=True)
    clean = np.bincount(inverse[~wrong], minlength=len(values))
    noisy = np.bincount(inverse[wrong], minlength=len(values))
    below = np.cumsum(noisy) - noisy
    return float((clean * (below + 0.5 * noisy)).sum() / (clean.sum() * noisy.sum()))


def measured(
    train: Pairs,
    test: Pairs,
    kinds: np.ndarray,
    share: float,
    chosen: dict[str, Any],
    kind: Any,
    seed: int,
    recovery: bool,
) -> dict[str, float]:
    """Noise and cleaning, and with `recovery` what cleaning brings back, at a share of shuffled captions."""
    noisy, source = shuffled(train, share, seed)
    wrong = noisy.group != train.group
    alike = kinds[source] == kinds
    rounds = clean_by_peers(noisy, chosen, kind, seed)
    weights, kept = rounds[-1]
    found = {f"auroc/round_{number + 1}": auroc(each, wrong) for number, (each, _) in enumerate(rounds)}
    same, other_type = alike[wrong].mean(axis=0), ~(wrong & alike[:, 0])
    found |= {
        "auroc": auroc(weights, wrong),
        "auroc_ceiling": 1 - 0.5 * float(same[1]),
        "auroc/other_type": auroc(weights[other_type], wrong[other_type]),
        "still_right/type": float(same[0]),
        "still_right/type_color_gender": float(same[1]),
        "wrong": float(wrong.sum()),
        "kept": float(len(kept)),
        "kept_wrong": float(wrong[kept].sum()),
    }
    return found | (recovered(train, noisy, test, wrong, kept, chosen, seed) if recovery else {})


def recovered(
    train: Pairs,
    noisy: Pairs,
    test: Pairs,
    wrong: np.ndarray,
    kept: np.ndarray,
    chosen: dict[str, Any],
    seed: int,
) -> dict[str, float]:
    """Recall@10 with clean, noisy and cleaned captions, and the part of the lost recall that comes back."""
    everyone, steps = np.arange(len(wrong)), chosen["steps"]
    values = {
        "clean": recall(trained(train, everyone, steps, chosen, seed), test),
        "noisy": recall(trained(noisy, everyone, steps, chosen, seed), test),
        "cleaned": recall(trained(noisy, kept, steps, chosen, seed), test),
        "perfect": recall(trained(noisy, everyone[~wrong], steps, chosen, seed), test),
    }
    lost = values["clean"] - values["noisy"]
    back = {name: (values[name] - values["noisy"]) / lost if lost > 0 else 0.0 for name in list(values)[2:]}
    named = {f"recall@10/{name}": value for name, value in values.items()}
    return named | {f"recovered/{name}": value for name, value in back.items()}


def summary(runs: list[dict[str, float]]) -> dict[str, list[float]]:
    """[mean, lowest, highest] over the seeds of each figure."""
    columns = {name: [run[name] for run in runs] for name in runs[0]}
    return {
        name: [round(float(value), 4) for value in (np.mean(values), min(values), max(values))]
        for name, values in columns.items()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("full", "five_passes", "tiny"), default="full")
    parser.add_argument("--data", help="folder with the fashion files; the tiny preset draws its own data")
    parser.add_argument("--text-encoder", help="folder or id of a text encoder; None takes words alone")
    parser.add_argument(
        "--image-encoder", help="folder or id of an image encoder, or efficientnet-lite0; None takes edges and colors"
    )
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.4, 0.5])
    parser.add_argument("--kind", choices=("gaussian", "beta"), default="gaussian")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--recovery", type=float, nargs="*", default=[0.4], help="shares at which recall is measured")
    parser.add_argument("--split", choices=("test", "validation"), default="test", help="for tuning, validation")
    options = parser.parse_args()
    if options.preset != "tiny" and options.data is None:
        parser.error("--data is missing: the folder with fashion15k_styles.csv and fashion15k_60x80.zip")
    keep_freed_memory()
    with mistakes_in_one_line("selection_fashion"):
        main(**vars(options))
