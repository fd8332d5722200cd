"""The next-item model: its loss and its evaluation against brute force over slots and users, and its batches."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module
from erel_jax.adapters import METHODS
from erel_jax.adapters.adapted import item_encoder
from erel_jax.benchmark import next_item as subject
from erel_jax.benchmark.config import BenchConfig
from erel_jax.benchmark.next_item import Batches, next_item
from erel_jax.benchmark.recommendation_problem import Problem
from erel_jax.data.sequence_splits import EvaluationSplit, SequenceData
from erel_jax.encoders import BertConfig, VitConfig, bert, vit
from erel_jax.errors import ConfigError
from erel_jax.layers import FLOAT32
from erel_jax.recommendation import SasrecConfig

USERS, ITEMS, LENGTH, WIDTH = 9, 13, 4, 8
ENCODERS = {"text": bert(BertConfig.tiny()), "image": vit(VitConfig.tiny())}
PRESENCE = np.random.default_rng(3).random((ITEMS + 1, 2)) > 0.3


def sequences():
    draw = np.random.default_rng(0)
    tail = draw.integers(1, ITEMS + 1, (USERS, LENGTH + 3)).astype(np.int32)
    for user in range(USERS):
        tail[user, : user % 4] = 0
    windows = np.ascontiguousarray(tail[:, :-2])
    counts = np.bincount(windows.ravel(), minlength=ITEMS + 1)
    counts[0] = 0
    return SequenceData(
        user_ids=tuple(f"u{n}" for n in range(USERS)),
        item_ids=tuple(f"i{n}" for n in range(ITEMS)),
        windows=windows,
        valid=EvaluationSplit(histories=tail[:, 1:-2], targets=tail[:, -2], seen=windows),
        test=EvaluationSplit(histories=tail[:, 2:-1], targets=tail[:, -1], seen=tail[:, :-1]),
        train_counts=counts.astype(np.int64),
        dropped_users=0,
        unknown_items=0,
        max_length=LENGTH,
    )


@pytest.fixture(scope="module")
def problem():
    draw = np.random.default_rng(1)
    processor = SimpleNamespace(process=lambda pixels: pixels.astype(np.float32) / 127.5 - 1.0)
    return Problem(
        config=BenchConfig(task="recommendation", data="users.tsv"),
        cache=Path("unused"),
        sequences=sequences(),
        titles=("",) * (ITEMS + 1),
        towers={n: SimpleNamespace(encoder=e, image_processor=processor) for n, e in ENCODERS.items()},  # type: ignore
        tokens={
            "text": {
                "ids": draw.integers(1, 64, (ITEMS + 1, 5)).astype(np.int32),
                "mask": np.ones((ITEMS + 1, 5), bool),
            }
        },
        pictures=draw.integers(0, 256, (ITEMS + 1, 12, 12, 3)).astype(np.uint8),
        presence=PRESENCE,
        dropped={},
        fingerprint="toy",
    )


@pytest.fixture(scope="module")
def model(problem):
    adapted = item_encoder(problem.encoders, METHODS["linear_probe"], embedding=WIDTH)
    return next_item(problem, adapted, SasrecConfig(width=WIDTH, max_length=LENGTH, dropout=0.0), FLOAT32)


@pytest.fixture(scope="module")
def params(model):
    draw = np.random.default_rng(2)

    def values(spec):
        return jax.tree.map(lambda leaf: jnp.asarray(0.5 * draw.normal(size=leaf.shape), jnp.float32), spec)

    states = {name: module.ParamSpec((ITEMS + 1, 16), (None, None)) for name in ENCODERS}
    return {**values(model.adapted.module.spec), "user": values(model.user.spec), "catalog": {"states": values(states)}}


def brute_vectors(params):
    head = jax.tree.map(lambda a: np.asarray(a, np.float64), params["head"])
    parts = [
        (np.asarray(params["catalog"]["states"][name], np.float64) @ head[name]["kernel"] + head[name]["bias"])
        * PRESENCE[:, m : m + 1]
        for m, name in enumerate(ENCODERS)
    ]
    return np.concatenate(parts, axis=1) @ head["fusion"]["kernel"] + head["fusion"]["bias"]


def test_evaluation_equals_brute_force_over_users(monkeypatch, problem, model, params):
    """With catalog and users in several chunks, the last ones partly filled."""
    monkeypatch.setattr(subject, "ITEMS_CACHED", 6)
    monkeypatch.setattr(subject, "USERS", 4)
    told = []
    vectors = model.item_vectors(params, lambda done, total: told.append((done, total)))
    expected = brute_vectors(params)
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-4)
    assert told == [(6, 14), (12, 14), (14, 14)]
    split = problem.sequences.test
    histories = split.histories
    states = np.asarray(model.user.apply(params["user"], jnp.asarray(expected, jnp.float32)[histories], histories != 0))
    ranks = []
    for user in range(USERS):
        scores = {item: float(states[user, -1] @ expected[item]) for item in range(1, ITEMS + 1)}
        target = int(split.targets[user])
        if target in split.seen[user]:
            ranks.append(np.inf)
            continue
        left = [item for item in scores if item not in split.seen[user]]
        ranks.append(1 + sorted(left, key=lambda item, scores=scores: -scores[item]).index(target))
    metrics = model.metrics(params, vectors, split)
    assert sum(np.isfinite(ranks)) > 0 and len(set(ranks)) > 2
    for k in (5, 10):
        assert metrics[f"hr@{k}"] == pytest.approx(np.mean([rank <= k for rank in ranks]))
        gains = [1 / np.log2(rank + 1) if rank <= k else 0.0 for rank in ranks]
        assert metrics[f"ndcg@{k}"] == pytest.approx(np.mean(gains))
    assert metrics["mrr"] == pytest.approx(np.mean([1 / rank for rank in ranks]))


def test_loss_equals_brute_force_over_slots(problem, model, params):
    batches = Batches(problem, model.adapted, 4, 1, 0)
    batch, ids = next(batches)
    loss, aux = jax.jit(model.loss)(params, batch, jax.random.key(0))
    vectors = brute_vectors(params)
    windows = problem.sequences.windows[[problem.sequences.user_ids.index(name) for name in ids]]
    inputs = windows[:, :-1]
    states = np.asarray(model.user.apply(params["user"], jnp.asarray(vectors, jnp.float32)[inputs], inputs != 0))
    log_popularity, losses = problem.sequences.log_popularity, []
    slots = [item for item in windows.ravel() if item]
    for user, window in enumerate(windows):
        for slot in range(LENGTH):
            if window[slot] == 0:
                continue
            positive = window[slot + 1]
            candidates = [positive] + [item for item in slots if item not in window]
            logits = np.array([states[user, slot] @ vectors[item] - log_popularity[item] for item in candidates])
            losses.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[0])
    assert aux == {} and float(loss) == pytest.approx(np.mean(losses), rel=1e-4)


def test_a_feed_replaces_the_catalog_bit_for_bit(problem, model, params):
    """In batches and in catalog vectors; the next batch's rows are announced."""
    states, asked = jax.tree.map(np.asarray, params["catalog"]["states"]), []

    class Feed:
        def __call__(self, rows):
            return {name: values[rows] for name, values in states.items()}

        def prefetch(self, rows):
            asked.append(rows)

    fed = dataclasses.replace(model, feed=Feed())
    left = {name: part for name, part in params.items() if name != "catalog"}
    streamed = Batches(problem, model.adapted, 4, 1, 0, fed.feed)
    for number in range(3):
        batch = next(streamed)[0]
        unique = batch["sequence"].unique_items
        jax.tree.map(np.testing.assert_array_equal, batch["inputs"], {n: v[unique] for n, v in states.items()})
        if number:
            np.testing.assert_array_equal(asked[number - 1], unique)
    assert len(asked) == 2
    np.testing.assert_array_equal(fed.item_vectors(left), model.item_vectors(params))


def test_candidates_are_ranked_among_themselves(problem, model, params):
    """By hand: the order of the candidates' scores, seen candidates left out."""
    split = problem.sequences.test
    candidates = np.array([2, 3, 7, 11, 13], np.int32)
    targets = candidates[np.arange(USERS) % 5]
    seen = np.full((USERS, 2), [7, 5], np.int32)
    cold = dataclasses.replace(split, targets=targets, candidates=candidates, seen=seen)
    vectors = model.item_vectors(params)
    scores = np.asarray(model.user_states(params, vectors, split.histories)) @ np.asarray(vectors[candidates]).T
    ranks = model.ranks(params, vectors, cold).favorable
    for user in range(USERS):
        if targets[user] == 7:
            assert ranks[user] > len(candidates)
            continue
        left = [column for column, item in enumerate(candidates) if item != 7]
        order = sorted(left, key=lambda column, user=user: -scores[user, column])
        assert ranks[user] == 1 + order.index(list(candidates).index(targets[user]))


def test_live_batches_carry_the_towers_inputs(problem):
    adapted = item_encoder(problem.encoders, METHODS["lora"], embedding=WIDTH)
    batch, _ = next(Batches(problem, adapted, 4, 1, 0))
    items = batch["sequence"].unique_items
    np.testing.assert_array_equal(batch["inputs"]["text"]["ids"], problem.tokens["text"]["ids"][items])
    np.testing.assert_allclose(batch["inputs"]["image"]["pixels"], problem.pictures[items] / 127.5 - 1.0, atol=1e-6)
    np.testing.assert_array_equal(batch["presence"], PRESENCE[items])


def test_batches_cover_every_user_once_per_epoch_and_resume_exactly(problem, model):
    batches = Batches(problem, model.adapted, 4, 2, 0)
    assert batches.steps_per_epoch == 3
    drawn = [next(batches) for _ in range(3)]
    assert sorted(name for _, ids in drawn for name in ids) == sorted(problem.sequences.user_ids)
    position = batches.state()
    following = [next(batches) for _ in range(4)]
    again = Batches(problem, model.adapted, 4, 2, 0)
    again.restore(position)
    for batch, ids in following:
        same, same_ids = next(again)
        assert ids == same_ids
        jax.tree.map(np.testing.assert_array_equal, batch, same)
    for other in (Batches(problem, model.adapted, 3, 2, 0), Batches(problem, model.adapted, 4, 2, 1)):
        with pytest.raises(ConfigError, match="does not fit"):
            other.restore(position)


def test_what_a_tower_reads_has_a_digest_of_its_own(problem):
    """Stored states serve a run with other modalities beside, and none with other texts."""
    ids = problem.tokens["text"]["ids"].copy()
    ids[3, 0] += 1
    other = dataclasses.replace(problem, tokens={"text": {**problem.tokens["text"], "ids": ids}}, fingerprint="other")
    alone = dataclasses.replace(problem, pictures_fingerprint="p", fingerprint="alone")
    assert problem.content("text") == alone.content("text") != other.content("text")
    assert problem.content("image") == other.content("image") == "" and alone.content("image") == "p"
