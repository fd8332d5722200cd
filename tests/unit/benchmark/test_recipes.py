"""What the recipes' objectives compute, with towers that return what they are given."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import losses
from erel_jax.benchmark.recipes import locked, objectives, pairs, students
from erel_jax.benchmark.retrieval_training import Plan
from erel_jax.selection import ScoringModel, select_jointly

ROWS, BATCH, WIDTH = 12, 4, 16


def drawn(seed: int, rows: int = 2 * BATCH) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (rows, WIDTH))


def encode(params, inputs, key):
    del params, key
    return dict(inputs)


@pytest.fixture
def start():
    """A run with twelve texts, one picture each, and towers of width 16."""
    split = SimpleNamespace(text_of_image=np.arange(ROWS, dtype=np.int32))
    config = SimpleNamespace(batch_size=BATCH, sub_batch=None)
    problem: Any = SimpleNamespace(split=lambda name: split, config=config)
    adapted: Any = SimpleNamespace(encoders={"image": SimpleNamespace(embedding_width=WIDTH)})

    def plan(name, method="full", **changes):
        del method
        return Plan(name=name, problem=problem, adapted=adapted, seed=0, **changes)

    return SimpleNamespace(problem=problem, seed=0, messenger=None, plan=plan)


@pytest.fixture
def stored(monkeypatch):
    """Replaces models that were trained before by drawn vectors; returns them."""
    columns = {name: np.asarray(drawn(seed, ROWS)) for seed, name in enumerate(("image", "text"), 10)}

    def vectors(plan, messenger, modalities=("image", "text")):
        del plan, messenger
        return SimpleNamespace(
            columns=lambda prefix: {f"{prefix}_{name}": columns[name] for name in modalities},
            seconds=3.0,
            notes=("learned before",),
        )

    for module in (locked, pairs, students):
        monkeypatch.setattr(module, "stored_vectors", vectors)
        monkeypatch.setattr(module, "adaptation", lambda *given: None)
    return columns


def batch_of(rows: int, **more) -> dict:
    return {"image": drawn(1, rows), "text": drawn(2, rows), "text_id": jnp.arange(rows, dtype=jnp.int32), **more}


def started(plan: Plan) -> dict:
    extras = {name: jnp.float32(value) for name, value in plan.extras.items()}
    return {"head": {"logit_scale": jnp.float32(2.0)}, "objective": extras}


@pytest.mark.parametrize("recipe", [pairs.jest_recipe, pairs.learnability_recipe])
def test_training_is_on_the_pairs_chosen(start, stored, recipe) -> None:
    plan = recipe("chosen", start)
    assert plan.draws == 2 and plan.batch == BATCH and plan.seconds == 3.0 and "learned before" in plan.notes
    rows = np.arange(2 * BATCH)
    batch = batch_of(2 * BATCH, **{name: values[rows] for name, values in plan.columns.items()})
    params, scale, bias = started(plan), jnp.float32(2.0), -np.log(BATCH)
    learner = ScoringModel(batch["text"], batch["image"], scale, bias)
    reference = ScoringModel(batch["reference_text"], batch["reference_image"], scale, bias)
    if recipe is pairs.jest_recipe:
        chosen = np.asarray(select_jointly(learner, reference, count=BATCH, chunks=BATCH))
    else:
        own = []
        for model in (learner, reference):
            left, right = (np.asarray(side, np.float64) for side in (model.queries, model.items))
            cosines = (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
            own.append(np.log1p(np.exp(-(np.exp(float(scale)) * cosines + float(bias)))))
        chosen = np.argsort(-(own[0] - own[1]))[:BATCH]
    expected = losses.symmetric_info_nce(batch["text"][chosen], batch["image"][chosen], scale)
    assert plan.objective is not None
    found, gradient = jax.value_and_grad(lambda p: plan.objective(encode, p, batch, None))(params)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(gradient)) and gradient["head"]["logit_scale"] != 0


def test_the_locked_tower_is_read_from_storage(start, stored) -> None:
    plan = locked.lit_cached_recipe("lit_cached", start)
    assert plan.feeds_on == ("text",) and set(plan.columns) == {"locked_image"}
    batch = batch_of(BATCH, locked_image=plan.columns["locked_image"][:BATCH])
    del batch["image"]
    kernel = drawn(5, WIDTH)
    params = {"head": {"logit_scale": jnp.float32(2.0), "image": {"project": {"kernel": kernel}}}}
    expected = losses.symmetric_info_nce(batch["text"], batch["locked_image"] @ kernel, 2.0)
    assert plan.objective is not None
    np.testing.assert_allclose(plan.objective(encode, params, batch, None), expected, rtol=1e-6)


def test_matryoshka_is_the_mean_over_halves(start) -> None:
    plan = objectives.matryoshka_recipe("matryoshka", start)
    batch = batch_of(BATCH)
    each = [losses.symmetric_info_nce(batch["text"][:, :w], batch["image"][:, :w], 2.0) for w in (16, 8)]
    assert plan.objective is not None
    np.testing.assert_allclose(plan.objective(encode, started(plan), batch, None), sum(each) / 2, rtol=1e-6)


def test_sigmoid_starts_at_the_rate_of_right_answers(start) -> None:
    plan = objectives.sigmoid_recipe("sigmoid", start)
    assert 1 / (1 + np.exp(-plan.extras["bias"])) == pytest.approx(1 / (BATCH + 1))
    batch, params = batch_of(BATCH), started(plan)
    expected = losses.sigmoid_loss(
        batch["text"], batch["image"], *(params["objective"][n] for n in ("log_scale", "bias"))
    )
    assert plan.objective is not None
    np.testing.assert_allclose(plan.objective(encode, params, batch, None), expected, rtol=1e-6)


def test_the_distilled_student_also_searches_what_its_teacher_encoded(start, stored, monkeypatch) -> None:
    monkeypatch.setattr(students, "student_recipe", lambda name, start: start.plan(name))
    plan = students.distilled_recipe("distilled", start)
    batch = batch_of(BATCH, **{name: values[:BATCH] for name, values in plan.columns.items()})
    own = losses.symmetric_info_nce(batch["text"], batch["image"], 2.0)
    across = [
        losses.info_nce(batch["text"], batch["teacher_image"], 2.0),
        losses.info_nce(batch["image"], batch["teacher_text"], 2.0),
    ]
    assert plan.objective is not None
    found = plan.objective(encode, started(plan), batch, None)
    np.testing.assert_allclose(found, own + students.TAUGHT * sum(across) / 2, rtol=1e-6)
