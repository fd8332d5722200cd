"""Score fusion: hand values, presence, gradients, bad input."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.errors import ConfigError
from erel_jax.fusion import score_fusion

BATCH, WIDTH, MODALITIES = 6, 5, 3
PRESENT = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 1, 1], [1, 0, 0]], bool)


def embeddings(seed=0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [scale * rng.standard_normal((BATCH, WIDTH), np.float32) for scale in (1.0, 3.0, 0.2)]


def by_hand(parts, present):
    """The definition in float64, row by row."""
    rows = []
    for b in range(BATCH):
        total = sum((parts[m][b].astype(np.float64) for m in range(len(parts)) if present[b, m]), np.zeros(WIDTH))
        rows.append(total / np.linalg.norm(total) if present[b].any() else total)
    return np.stack(rows)


def test_equals_the_definition_with_every_combination_of_modalities():
    parts = embeddings()
    np.testing.assert_allclose(score_fusion(parts, jnp.asarray(PRESENT)), by_hand(parts, PRESENT), atol=1e-6)
    np.testing.assert_array_equal(score_fusion(parts, jnp.asarray(PRESENT))[3], np.zeros(WIDTH))


def test_lengths_act_as_gates():
    long, short = jnp.array([[8.0, 0.0]]), jnp.array([[0.0, 6.0]])
    both = jnp.ones((1, 2), bool)
    np.testing.assert_allclose(score_fusion([long, short], both), [[0.8, 0.6]], atol=1e-6)


@pytest.mark.parametrize("absent", range(MODALITIES))
def test_an_absent_modality_is_the_same_as_none(absent):
    parts = embeddings()
    present = np.ones((BATCH, MODALITIES), bool)
    present[:, absent] = False
    others = [part for m, part in enumerate(parts) if m != absent]
    dropped = score_fusion(others, jnp.ones((BATCH, MODALITIES - 1), bool))
    np.testing.assert_array_equal(score_fusion(parts, jnp.asarray(present)), dropped)


def test_order_of_modalities_is_irrelevant():
    parts, order = embeddings(), [2, 0, 1]
    shuffled = score_fusion([parts[m] for m in order], jnp.asarray(PRESENT[:, order]))
    np.testing.assert_allclose(score_fusion(parts, jnp.asarray(PRESENT)), shuffled, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_stands_in_absent_places_reaches_neither_value_nor_gradient(bad):
    clean = embeddings()
    dirty: list[Any] = [np.where(PRESENT[:, m, None], part, bad).astype(np.float32) for m, part in enumerate(clean)]
    weights = np.random.default_rng(1).standard_normal((BATCH, WIDTH), np.float32)

    def total(parts):
        return jnp.sum(score_fusion(parts, jnp.asarray(PRESENT)) * weights)

    mine, theirs = (score_fusion(parts, jnp.asarray(PRESENT)) for parts in (clean, dirty))
    np.testing.assert_array_equal(mine, theirs)
    for m, (mine, theirs) in enumerate(zip(jax.grad(total)(clean), jax.grad(total)(dirty), strict=True)):
        np.testing.assert_array_equal(mine, theirs)
        assert (np.asarray(mine)[~PRESENT[:, m]] == 0).all()
        assert np.isfinite(mine).all()


def test_jit_is_eager_and_vmap_is_a_loop():
    parts, present = embeddings(), jnp.asarray(PRESENT)
    np.testing.assert_allclose(jax.jit(score_fusion)(parts, present), score_fusion(parts, present), atol=1e-6)
    one_by_one: list[Any] = [
        score_fusion([part[b : b + 1] for part in parts], present[b : b + 1]) for b in range(BATCH)
    ]
    np.testing.assert_allclose(score_fusion(parts, present), np.concatenate(one_by_one), atol=1e-6)


def test_half_precision_is_summed_in_float32():
    parts = [jnp.full((1, 2), 256.0, jnp.bfloat16), jnp.array([[1.0, 0.0]], jnp.bfloat16)]
    fused = score_fusion(parts, jnp.ones((1, 2), bool))
    assert fused.dtype == jnp.float32
    np.testing.assert_allclose(fused, [[257 / np.hypot(257, 256), 256 / np.hypot(257, 256)]], atol=1e-6)


@pytest.mark.parametrize(
    ("parts", "present", "message"),
    [
        ([], np.ones((2, 0), bool), "expected one float"),
        ([np.ones((2, 3), np.float32), np.ones((3, 3), np.float32)], np.ones((2, 2), bool), "equal B"),
        ([np.ones((2, 3), np.float32), np.ones((2, 4), np.float32)], np.ones((2, 2), bool), r"widths \[3, 4\]"),
        ([np.ones((2, 3), np.int32)], np.ones((2, 1), bool), "expected one float"),
        ([np.ones((2, 3), np.float32)], np.ones((2, 2), bool), r"expected bool\[2, 1\]"),
        ([np.ones((2, 3), np.float32)], np.ones((2, 1), np.float32), r"float32\[2, 1\], expected bool"),
    ],
)
def test_bad_input_is_refused(parts, present, message):
    with pytest.raises(ConfigError, match=message):
        score_fusion([jnp.asarray(part) for part in parts], jnp.asarray(present))
