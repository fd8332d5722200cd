"""What holds for every distillation loss: jit, devices, gradients, the frozen teacher, half precision, bad values."""

from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.distillation import DISTILLATION_LOSSES

BATCH, WIDTH, TEACHER = 16, 6, 9
quick = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SAME_WIDTH = ("interactive_contrastive_loss",)
SEVERAL = ("reinforced_loss",)


@cache
def example():
    """One value per argument name."""
    rng = np.random.default_rng(0)

    def floats(*shape):
        return rng.standard_normal(shape, np.float32)

    return {
        **{name: floats(BATCH, WIDTH) for name in ("student", "queries", "items")},
        **{name: floats(BATCH, TEACHER) for name in ("teacher", "teacher_queries", "teacher_items")},
        "projection": floats(WIDTH, TEACHER),
        "group": rng.integers(0, 9, BATCH).astype(np.int32),
        "log_scale": np.float32(1.5),
        "teacher_log_scale": np.float32(2.0),
        "teacher_log_scales": (np.float32(2.0), np.float32(1.0)),
        "logits": floats(BATCH, 5),
        "teacher_logits": floats(BATCH, 5),
        "scores": floats(BATCH, 5),
        "teacher_scores": floats(BATCH, 5),
    }


def arguments_of(name):
    """(learned, given): the student's arguments and all others."""
    loss, values = DISTILLATION_LOSSES[name], example()
    wanted = {key: values[key] for key in (*loss.rows, *loss.shared)}
    for key in ("teacher_queries", "teacher_items"):
        if name in SAME_WIDTH:
            wanted[key] = wanted[key][:, :WIDTH]
        if name in SEVERAL:
            wanted[key] = (wanted[key], wanted[key][:, :4] ** 2)
    given = {k: v for k, v in wanted.items() if k.startswith("teacher") or k == "group"}
    return {k: v for k, v in wanted.items() if k not in given}, given


@cache
def whole(name):
    """Value and gradients of the whole batch on one device."""
    learned, given = arguments_of(name)
    return quick(jax.value_and_grad(lambda x: DISTILLATION_LOSSES[name].fn(**x, **given)))(learned)


def assert_close(ours, theirs, tolerance=2e-6):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(float(np.abs(b).max()), 1e-3))


@pytest.mark.parametrize("name", DISTILLATION_LOSSES)
def test_jit_is_eager_and_gradients_reach_the_student(name):
    learned, given = arguments_of(name)
    value, gradients = whole(name)
    assert value.shape == () and value.dtype == jnp.float32
    np.testing.assert_allclose(DISTILLATION_LOSSES[name].fn(**learned, **given), value, rtol=2e-6)
    for key, gradient in gradients.items():
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 1e-6, key


@pytest.mark.parametrize("name", DISTILLATION_LOSSES)
def test_the_teacher_gets_no_gradient(name):
    learned, given = arguments_of(name)
    teacher = {k: v for k, v in given.items() if k != "group"}
    rest = {k: v for k, v in given.items() if k == "group"}
    gradients = quick(jax.grad(lambda x: DISTILLATION_LOSSES[name].fn(**learned, **rest, **x)))(teacher)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", DISTILLATION_LOSSES)
def test_eight_devices_say_what_one_says(name):
    loss, (learned, given) = DISTILLATION_LOSSES[name], arguments_of(name)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))
    place = {key: jax.P("data") if key in loss.rows else jax.P() for key in (*learned, *given)}

    def shard(learned, given):
        return jax.lax.pmean(loss.fn(**learned, **given, axis_name="data"), "data")

    specs = tuple({key: place[key] for key in part} for part in (learned, given))
    mapped = jax.shard_map(shard, mesh=mesh, in_specs=specs, out_specs=jax.P())
    assert_close(quick(jax.value_and_grad(mapped))(learned, given), whole(name))


@pytest.mark.parametrize("name", DISTILLATION_LOSSES)
def test_half_precision_in_float32_out(name):
    learned, given = jax.tree.map(
        lambda v: jnp.asarray(v, jnp.bfloat16) if np.ndim(v) and v.dtype == np.float32 else v, arguments_of(name)
    )
    widen = partial(jax.tree.map, lambda v: jnp.asarray(v, jnp.float32) if v.dtype == jnp.bfloat16 else v)
    compute = quick(jax.value_and_grad(lambda x, given: DISTILLATION_LOSSES[name].fn(**x, **given)))
    value, gradients = compute(learned, given)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, compute(widen(learned), widen(given))[0], rtol=2e-6)
    assert {k: g.dtype for k, g in gradients.items()} == {k: jnp.asarray(v).dtype for k, v in learned.items()}


@pytest.mark.parametrize("name", DISTILLATION_LOSSES)
def test_a_batch_of_copies_and_zeros_is_finite(name):
    compute = quick(jax.value_and_grad(lambda x, given: DISTILLATION_LOSSES[name].fn(**x, **given)))

    def repeated(values, factor):
        copies = jax.tree.map(lambda v: np.repeat(v[:1], len(v), axis=0) if np.ndim(v) else v, values)
        return jax.tree.map(lambda v: v * np.float32(factor) if v.dtype == np.float32 else v, copies)

    learned, given = arguments_of(name)
    for factor in (1, 0):
        found = compute(repeated(learned, factor), repeated(given, factor))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
        assert found[0] >= -1e-6


@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("name", DISTILLATION_LOSSES)
def test_nan_is_not_hidden(name, side):
    loss, (learned, given) = DISTILLATION_LOSSES[name], arguments_of(name)
    part = learned if side == "student" else given
    key = next(key for key in part if key in loss.rows and key != "group")

    def spoil(values):
        values = values.copy()
        values[3] = np.nan
        return values

    broken = {**learned, **given, key: jax.tree.map(spoil, part[key])}
    assert not np.isfinite(quick(lambda x: loss.fn(**x))(broken))


def test_the_chooser_lists_every_loss():
    page = Path(__file__).resolve().parents[2] / "docs" / "distillation.md"
    rows = [line.split("|") for line in page.read_text("utf-8").splitlines() if line.startswith("| `")]
    listed = {row[1].strip(" `"): row[-2].strip() for row in rows if row[1].strip(" `") in DISTILLATION_LOSSES}
    assert listed == {name: loss.memory for name, loss in DISTILLATION_LOSSES.items()}
