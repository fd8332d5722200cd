"""Training FLOPs to a quality: uniform sampling beside learnability and JEST, on Fashion with useless rows.

    python experiments/selection_jest.py --data DIR --seeds 0 1 2

DIR holds `fashion15k_styles.csv` and `fashion15k_60x80.zip`. A curated part of the training pairs, all right, trains
the reference model and nothing else. The rest is the pool: 40 % of its captions change places, then a few of its rows
are repeated many times. All learners are the same small dual encoder with InfoNCE and the same cosine schedule,
stretched over what each may spend: uniform sampling all of its FLOPs, the others the share `budget` of that. Uniform
sampling is once more among those (`uniform_short`), because a shorter schedule may do as well by itself.

Now and then a selecting learner scores a super-batch by one forward pass without dropout, keeps the half that it has
most to learn from, and trains on that half for a few passes. The reference's embeddings of the pool are computed once.
Counted are, by `profiling.count_flops`, the training steps, the scoring passes, the selection itself and the
reference's pass over the pool; training the reference is stated apart (`reference_training`, a share of uniform's
FLOPs).

The script prints one JSON line per method: Recall@10 (mean of both directions, test split) at the end and at its best,
means over seeds with the lowest and highest; `curve`, mean Recall@10 over the share of uniform's FLOPs; `reached`, the
smallest share at which the mean curve has uniform's final recall, and by seed against the same seed's; how many of the
rows trained on were mismatched or copies. `--preset tiny` needs no data.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
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
from erel_jax.profiling import count_flops
from erel_jax.selection import ScoringModel, learnability, most_learnable, select_jointly
from experiments.command import mistakes_in_one_line
from experiments.selection_fashion import (
    COLUMNS,
    WORDS,
    Pairs,
    drawn,
    dropped,
    fashion,
    first_layers,
    rows_of,
    shuffled,
)

Scored = tuple[Any, Any, Any]
"""Log scale, and float32[B, EMBEDDING] captions and pictures."""

METHODS = ("uniform", "uniform_short", "learnability", "jest")
SELECTING = METHODS[2:]
EMBEDDING = 64
BIAS_ROWS = 256


class Pool(NamedTuple):
    """What learners may train on.

    Attributes:
        pairs: features as the experiment on noise makes them.
        mismatched: bool[N], for the report alone.
        copy: bool[N], for the report alone.
    """

    pairs: Pairs
    mismatched: np.ndarray
    copy: np.ndarray


# ---------------------------------------------------------------- settings
def sizes(preset: str) -> dict[str, Any]:
    """Settings of a preset: "full" or "tiny"."""
    learner = {"steps": 600, "batch": 256, "rate": 1e-3, "width": 512, "layers": 1, "dropout": 0.1, "points": 20}
    choice = {
        "super_batch": 2048,
        "kept": 1024,
        "chunks": 16,
        "passes": 3,
        "budget": 0.6,
        "reference_steps": 150,
        "reference_dropout": 0.3,
    }
    useless = {"curated": 2000, "noise": 0.4, "repeated": 400, "copies": 8}
    if preset == "full":
        return learner | choice | useless
    learner |= {"steps": 20, "batch": 16, "rate": 3e-3, "width": 32, "layers": 1, "points": 5}
    choice |= {"super_batch": 64, "kept": 32, "chunks": 4, "passes": 2, "reference_steps": 30}
    return learner | choice | {"curated": 64, "noise": 0.4, "repeated": 4, "copies": 4}


def main(
    preset: str = "full", data: str | None = None, seeds: tuple[int, ...] = (0,), split: str = "test", **changes: Any
) -> list[dict]:
    """Runs all methods and returns their rows."""
    chosen = sizes(preset) | changes
    train, test, _ = drawn(0) if data is None else fashion(Path(data), split)
    runs = []
    for seed in seeds:
        runs.append(experiment(train, test, chosen, seed))
        print(json.dumps({"seed": seed, **runs[-1]}), file=sys.stderr, flush=True)
    found = [report(name, runs) | {"seeds": list(seeds), "split": split} for name in METHODS]
    for one in found:
        print(json.dumps(one), flush=True)
    return found


def experiment(train: Pairs, test: Pairs, chosen: dict[str, Any], seed: int) -> dict[str, Any]:
    """Curves of all methods with one seed."""
    curated, pool = divided(train, chosen, seed)
    learner = Learner(train, chosen)
    reference = learner.initial(seed + 1000)
    draw = np.random.default_rng(seed + 1000)
    for part in batches(np.arange(len(curated.group)), chosen["batch"], chosen["reference_steps"], draw):
        reference = learner.step(
            reference, rows_of(curated, part), chosen["reference_steps"], seed, chosen["reference_dropout"]
        )
    costs = learner.costs(chosen["super_batch"], chosen)
    total = chosen["steps"] * costs["step"]
    found: dict[str, Any] = {"reference_training": chosen["reference_steps"] * costs["step"] / total}
    for name in METHODS:
        spend = total * (1 if name == "uniform" else chosen["budget"])
        found[name] = followed(name, learner, reference, pool, test, spend, costs, chosen, seed)
        found[name]["curve"] = [(spent / total, value) for spent, value in found[name]["curve"]]
    return found


# ---------------------------------------------------------------- data
def divided(train: Pairs, chosen: dict[str, Any], seed: int) -> tuple[Pairs, Pool]:
    """(curated pairs, pool with mismatched and repeated rows)."""
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(train.group))
    curated = rows_of(train, order[: chosen["curated"]])
    rest = rows_of(train, order[chosen["curated"] :])
    noisy, _ = shuffled(rest, chosen["noise"], seed)
    wrong = noisy.group != rest.group
    count = len(wrong)
    repeated = np.repeat(draw.choice(count, chosen["repeated"], replace=False), chosen["copies"])
    rows = np.concatenate([np.arange(count), repeated])
    return curated, Pool(rows_of(noisy, rows), wrong[rows], np.arange(len(rows)) >= count)


def batches(rows: np.ndarray, size: int, count: int, draw: np.random.Generator) -> Iterator[np.ndarray]:
    """`count` batches of rows, each epoch in a new order."""
    order = np.zeros(0, np.int64)
    for _ in range(count):
        while len(order) < size:
            order = np.concatenate([order, draw.permutation(rows)])
        part, order = order[:size], order[size:]
        yield part


# ---------------------------------------------------------------- model
class Learner:
    """A dual encoder with its training step; learner and reference are two sets of its parameters."""

    def __init__(self, like: Pairs, chosen: dict[str, Any]) -> None:
        self._chosen, self._width = chosen, like.pictures.shape[1]
        self._optimizer = optax.scale_by_adam()
        self.forward = jax.jit(embedded)
        self._step = jax.jit(self._updated)

    def initial(self, seed: int) -> tuple[dict[str, Any], Any, int]:
        """(parameters, optimizer state, steps taken)."""
        draw, width = np.random.default_rng(seed), self._chosen["width"]

        def matrix(rows: int, columns: int) -> np.ndarray:
            return draw.normal(size=(rows, columns)).astype(np.float32) * rows**-0.5

        def tower(first: np.ndarray) -> dict[str, Any]:
            hidden = [matrix(width, width) for _ in range(self._chosen["layers"])]
            return {"first": first, "hidden": hidden, "last": matrix(width, EMBEDDING)}

        params = {
            "pictures": tower(matrix(self._width, width)),
            "captions": tower(matrix(WORDS, width)),
            "log_scale": np.float32(losses.INITIAL_LOG_SCALE),
        }
        return params, self._optimizer.init(params), 0

    def step(
        self, state: tuple[Any, Any, int], batch: Pairs, steps: int, seed: int, dropout: float
    ) -> tuple[Any, Any, int]:
        """One step of a schedule of that many."""
        params, inner, taken = state
        rate = np.float32(self._chosen["rate"] * 0.5 * (1 + np.cos(np.pi * min(taken / steps, 1))))
        params, inner = self._step(
            params, inner, batch, rate, jax.random.key(seed * 100_003 + taken, impl="rbg"), dropout
        )
        return params, inner, taken + 1

    def _updated(
        self, params: Any, inner: Any, batch: Pairs, rate: jax.Array, key: jax.Array, dropout: float
    ) -> tuple[Any, Any]:
        gradients = jax.grad(loss_of)(params, batch, key, dropout)
        updates, inner = self._optimizer.update(gradients, inner, params)
        return jax.tree.map(lambda old, change: old - rate * (change + 0.05 * old), params, updates), inner

    def costs(self, super_batch: int, chosen: dict[str, Any]) -> dict[str, float]:
        """FLOPs of a training step, of one row's forward pass, and of both kinds of selection."""
        params, inner, _ = self.initial(0)

        def pairs(rows: int) -> Pairs:
            shapes = (rows, self._width), (rows, COLUMNS), (rows,)
            kinds = np.float32, np.int32, np.int32
            return Pairs(*(jax.ShapeDtypeStruct(*both) for both in zip(shapes, kinds, strict=True)))

        side = jax.ShapeDtypeStruct((super_batch, EMBEDDING), np.float32)
        model = np.float32(0), side, side
        group = jax.ShapeDtypeStruct((super_batch,), np.int32)
        step = count_flops(
            self._updated, params, inner, pairs(chosen["batch"]), np.float32(0), jax.random.key(0), np.float32(0.1)
        )
        found = {"step": step.total, "row": count_flops(embedded, params, pairs(super_batch)).total / super_batch}
        for name in SELECTING:
            found[name] = count_flops(selector(name, chosen), model, model, group).total
        return found


def embed(tower: dict[str, Any], hidden: jax.Array, key: jax.Array | None, dropout: float) -> jax.Array:
    """float32[B, EMBEDDING] from the first layer's float32[B, width]; with a key, values are dropped."""
    for number, matrix in enumerate(tower["hidden"]):
        inside = jax.nn.gelu(hidden)
        if key is not None:
            inside = dropped(jax.random.fold_in(key, number), inside, dropout)
        hidden = hidden + inside @ matrix
    return jax.nn.gelu(hidden) @ tower["last"]


def embedded(
    params: dict[str, Any], batch: Pairs, key: jax.Array | None = None, dropout: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """(captions, pictures), float32[B, EMBEDDING] each."""
    captions, pictures = first_layers(params, batch.pictures, batch.captions, key, dropout)
    keys = (None, None) if key is None else jax.random.split(jax.random.fold_in(key, 2))
    return (
        embed(params["captions"], captions, keys[0], dropout),
        embed(params["pictures"], pictures, keys[1], dropout),
    )


def loss_of(params: dict[str, Any], batch: Pairs, key: jax.Array, dropout: float) -> jax.Array:
    """Symmetric InfoNCE; pairs of one caption are no negatives of each other."""
    captions, pictures = embedded(params, batch, key, dropout)
    return losses.symmetric_info_nce(captions, pictures, params["log_scale"], group=batch.group)


# ---------------------------------------------------------------- selection
def selector(name: str, chosen: dict[str, Any]) -> Callable[..., jax.Array]:
    """Function of learner, reference and groups that names the rows of a super-batch to train on."""

    def independent(learner: Scored, reference: Scored, group: jax.Array) -> jax.Array:
        models = scoring(*learner), scoring(*reference)
        return most_learnable(learnability(*(own_losses(model) for model in models)), chosen["kept"])

    def joint(learner: Scored, reference: Scored, group: jax.Array) -> jax.Array:
        models = scoring(*learner), scoring(*reference)
        return select_jointly(*models, count=chosen["kept"], chunks=chosen["chunks"], group=group)

    return joint if name == "jest" else independent


def own_losses(model: ScoringModel) -> jax.Array:
    """float32[B], sigmoid loss of each pair alone; rows have length one."""
    cosines = jnp.sum(model.queries * model.items, axis=1)
    return jax.nn.softplus(-(losses.clamped_scale(model.log_scale) * cosines + model.bias))


def scoring(log_scale: jax.Array, captions: jax.Array, pictures: jax.Array) -> ScoringModel:
    """What a model says about pairs that it has embedded, in terms of the sigmoid loss.

    InfoNCE has no bias: a softmax says yes where a logit exceeds the log of the sum over the others. The mean of that
    over the first rows is what the sigmoid must exceed.
    """
    texts, images = (side / jnp.linalg.norm(side, axis=1, keepdims=True) for side in (captions, pictures))
    logits = losses.clamped_scale(log_scale) * texts[:BIAS_ROWS] @ images[:BIAS_ROWS].T
    return ScoringModel(texts, images, log_scale, -jnp.mean(jax.nn.logsumexp(logits, axis=1)))


def followed(
    name: str,
    learner: Learner,
    reference: tuple[Any, Any, int],
    pool: Pool,
    test: Pairs,
    spend: float,
    costs: dict[str, float],
    chosen: dict[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Trains one learner until it has spent its FLOPs; curve of (FLOPs, Recall@10) and what it trained on."""
    count, batch = len(pool.copy), chosen["batch"]
    draw = np.random.default_rng(seed)
    cycle, spent, extra = chosen["kept"] * chosen["passes"] // batch, 0.0, 0.0
    if name in SELECTING:
        spent = count * costs["row"]
        extra = chosen["super_batch"] * costs["row"] + costs[name]
    steps = int((spend - spent - extra) / (costs["step"] + extra / cycle))
    feed = batches(np.arange(count), batch, steps, draw)
    best = best_rows(name, learner, reference, pool, steps, chosen, draw) if name in SELECTING else None
    state = learner.initial(seed)
    curve, trained_on = [], []
    points = round(chosen["points"] * (1 if name == "uniform" else chosen["budget"]))
    evaluate_at = np.linspace(0, steps, points + 1).astype(int)[1:]
    for number in range(steps):
        if best is not None and number % cycle == 0:
            feed = batches(best(state[0]), batch, cycle, draw)
            spent += extra
        part = next(feed)
        state = learner.step(state, rows_of(pool.pairs, part), steps, seed, chosen["dropout"])
        spent += costs["step"]
        trained_on.append(part)
        if number + 1 in evaluate_at:
            curve.append((spent, recall(learner.forward(state[0], test), test)))
    rows = np.concatenate(trained_on)
    return {
        "curve": curve,
        "steps": steps,
        "mismatched": float(pool.mismatched[rows].mean()),
        "copies": float(pool.copy[rows].mean()),
        "overhead": (spent / steps) / costs["step"] - 1,
    }


def best_rows(
    name: str,
    learner: Learner,
    reference: tuple[Any, Any, int],
    pool: Pool,
    steps: int,
    chosen: dict[str, Any],
    draw: np.random.Generator,
) -> Callable[[Any], np.ndarray]:
    """Function of a learner's parameters that names the rows to train on next, out of a new super-batch."""
    choose = jax.jit(selector(name, chosen))
    supers = batches(np.arange(len(pool.copy)), chosen["super_batch"], steps, draw)
    known = [np.asarray(side) for side in learner.forward(reference[0], pool.pairs)]

    def best(params: Any) -> np.ndarray:
        rows = next(supers)
        ours = params["log_scale"], *learner.forward(params, rows_of(pool.pairs, rows))
        theirs = reference[0]["log_scale"], *(side[rows] for side in known)
        return rows[np.asarray(choose(ours, theirs, pool.pairs.group[rows]))]

    return best


def recall(sides: tuple[jax.Array, jax.Array], test: Pairs) -> float:
    """Recall@10 on the test pairs, distinct captions against all pictures and back."""
    captions, pictures = (np.asarray(side / jnp.linalg.norm(side, axis=1, keepdims=True)) for side in sides)
    first = np.unique(test.group, return_index=True)[1]
    return two_way_retrieval(captions[first], pictures, test.group[first], test.group, ks=(10,))["recall@10"]


# ---------------------------------------------------------------- report
def report(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One row."""
    curves = np.array([run[name]["curve"] for run in runs])
    goals = np.array([run["uniform"]["curve"][-1][1] for run in runs])
    by_seed = [first_share(curve, goal) for curve, goal in zip(curves, goals, strict=True)]
    final, best = curves[:, -1, 1], curves[:, :, 1].max(axis=1)
    return {
        "name": f"fashion_{name}",
        "recall@10": spread(final),
        "best_recall@10": spread(best),
        "reached": first_share(curves.mean(axis=0), float(goals.mean())),
        "reached_by_seed": by_seed,
        "flops_share": round(float(curves[:, -1, 0].mean()), 4),
        "overhead_of_selection": spread([run[name]["overhead"] for run in runs]),
        "reference_training": round(runs[0]["reference_training"], 4) if name in SELECTING else 0,
        "steps": runs[0][name]["steps"],
        "mismatched": spread([run[name]["mismatched"] for run in runs]),
        "copies": spread([run[name]["copies"] for run in runs]),
        "curve": [[round(float(share), 3), round(float(value), 4)] for share, value in curves.mean(axis=0)],
    }


def first_share(curve: np.ndarray, goal: float) -> float | None:
    """Smallest share of a curve [points, 2] at which it has the goal, or None."""
    there = np.flatnonzero(curve[:, 1] >= goal)
    return round(float(curve[there[0], 0]), 4) if there.size else None


def spread(values: Any) -> list[float]:
    """[mean, lowest, highest]."""
    return [round(float(value), 4) for value in (np.mean(values), np.min(values), np.max(values))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("full", "tiny"), default="full")
    parser.add_argument("--data", help="folder with the fashion files; the tiny preset draws its own data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--split", choices=("test", "validation"), default="test", help="for tuning, validation")
    options = parser.parse_args()
    if options.preset == "full" and options.data is None:
        parser.error("--data is missing: the folder with fashion15k_styles.csv and fashion15k_60x80.zip")
    keep_freed_memory()
    with mistakes_in_one_line("selection_jest"):
        main(options.preset, options.data, tuple(options.seeds), options.split)
