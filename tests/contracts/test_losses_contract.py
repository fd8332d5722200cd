"""What holds for every registered loss: jit, devices, gradients, duplicates, half precision, bad values."""

from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.losses import LOSSES

BATCH, WIDTH, ITEMS = 16, 6, 20
quick = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@cache
def example():
    """One value per argument name."""
    rng = np.random.default_rng(0)

    def floats(*shape):
        return rng.standard_normal(shape, np.float32)

    return {
        **{name: floats(BATCH, WIDTH) for name in ("queries", "items", "anchors", "positives", "negatives")},
        "group": rng.integers(0, 9, BATCH).astype(np.int32),
        "hard_negatives": floats(BATCH, 2, WIDTH),
        "log_scale": np.float32(1.5),
        "bias": np.float32(-1.0),
        "positive_scores": floats(BATCH),
        "negative_scores": floats(BATCH, 3),
        "user_states": floats(BATCH, WIDTH),
        "positive_embeddings": floats(BATCH, WIDTH),
        "item_embeddings": floats(ITEMS, WIDTH),
        "sampled_embeddings": floats(7, WIDTH),
        "sampled_ids": rng.integers(0, ITEMS, 7).astype(np.int32),
        "targets": rng.integers(-1, ITEMS, BATCH).astype(np.int32),
        "log_popularity": np.log(rng.dirichlet(np.ones(ITEMS))).astype(np.float32),
        "scores": floats(BATCH, 5),
        "relevance": rng.integers(0, 3, (BATCH, 5)).astype(np.float32),
    }


NOT_LEARNED = ("log_popularity", "relevance")


def arguments_of(name):
    """(learned, given): the loss's arguments that gradients are taken by, and the others."""
    loss, values = LOSSES[name], example()
    wanted = {key: values[key] for key in (*loss.rows, *loss.shared)}
    learned = {k: v for k, v in wanted.items() if v.dtype == np.float32 and k not in NOT_LEARNED}
    return learned, {k: v for k, v in wanted.items() if k not in learned}


@cache
def whole(name):
    """Value and gradients of the whole batch on one device."""
    learned, given = arguments_of(name)
    return quick(jax.value_and_grad(lambda x: LOSSES[name].fn(**x, **given)))(learned)


def assert_close(ours, theirs, tolerance=2e-6):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(float(np.abs(b).max()), 1e-3))


@pytest.mark.parametrize("name", LOSSES)
def test_jit_is_eager_and_gradients_reach_every_argument(name):
    learned, given = arguments_of(name)
    value, gradients = whole(name)
    assert value.shape == () and value.dtype == jnp.float32
    np.testing.assert_allclose(LOSSES[name].fn(**learned, **given), value, rtol=2e-6)
    for key, gradient in gradients.items():
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 1e-6, key


@pytest.mark.parametrize("name", LOSSES)
def test_eight_devices_say_what_one_says(name):
    loss, (learned, given) = LOSSES[name], arguments_of(name)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))
    place = {key: jax.P("data") if key in loss.rows else jax.P() for key in (*learned, *given)}

    def shard(learned, given):
        return jax.lax.pmean(loss.fn(**learned, **given, axis_name="data"), "data")

    specs = tuple({key: place[key] for key in part} for part in (learned, given))
    mapped = jax.shard_map(shard, mesh=mesh, in_specs=specs, out_specs=jax.P())
    assert_close(quick(jax.value_and_grad(mapped))(learned, given), whole(name))


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_in_float32_out(name):
    learned, given = arguments_of(name)
    half = {k: jnp.asarray(v, jnp.bfloat16) if np.ndim(v) else v for k, v in learned.items()}
    widened = {k: jnp.asarray(v, jnp.float32) for k, v in half.items()}
    compute = quick(jax.value_and_grad(lambda x: LOSSES[name].fn(**x, **given)))
    value, gradients = compute(half)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, compute(widened)[0], rtol=2e-6)
    assert {k: g.dtype for k, g in gradients.items()} == {k: jnp.asarray(v).dtype for k, v in half.items()}


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_of_copies_and_zeros_is_finite(name):
    """Every row is the first one, or nothing at all; where there are groups, all rows are of one."""
    learned, given = arguments_of(name)
    compute = quick(jax.value_and_grad(lambda x, given: LOSSES[name].fn(**x, **given)))

    def repeated(values, factor):
        copies = {k: np.repeat(v[:1], len(v), axis=0) if np.ndim(v) else v for k, v in values.items()}
        return {k: v * np.float32(factor) if v.dtype == np.float32 and k in learned else v for k, v in copies.items()}

    for factor in (1, 0):
        found = compute(repeated(learned, factor), repeated(given, factor))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
        assert found[0] >= -1e-6


def test_the_chooser_lists_every_loss():
    page = (Path(__file__).resolve().parents[2] / "docs" / "losses.md").read_text("utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    listed = {row[1].strip(" `"): row[5].strip() for row in rows}
    assert listed.keys() == LOSSES.keys()
    assert {n: m for n, m in listed.items() if n != "matryoshka"} == {
        n: loss.memory for n, loss in LOSSES.items() if n != "matryoshka"
    }


@pytest.mark.parametrize("name", LOSSES)
def test_nan_is_not_hidden(name):
    learned, given = arguments_of(name)
    key = next(key for key in learned if key in LOSSES[name].rows)
    broken = {**learned, key: learned[key].copy()}
    broken[key][3] = np.nan
    assert not np.isfinite(quick(lambda x: LOSSES[name].fn(**x, **given))(broken))
