"""MaxSim and fixed-dimensional encodings against loops over tokens."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.errors import ConfigError
from erel_jax.interaction import divisions, fixed_dimensional_documents, fixed_dimensional_queries, maxsim


def tokens(rows: int, length: int, width: int, seed: int) -> tuple[Any, Any]:
    draw = np.random.default_rng(seed)
    values = draw.standard_normal((rows, length, width)).astype(np.float32)
    lengths = draw.integers(1, length + 1, rows)
    return values / np.linalg.norm(values, axis=2, keepdims=True), np.arange(length) < lengths[:, None]


def by_loops(queries, query_mask, documents, document_mask):
    scores = np.zeros((len(queries), len(documents)))
    for q, (query, asked) in enumerate(zip(queries, query_mask, strict=True)):
        for d, (document, there) in enumerate(zip(documents, document_mask, strict=True)):
            if there.any():
                scores[q, d] = sum(max(float(i @ j) for j in document[there]) for i in query[asked])
    return scores


@pytest.mark.parametrize("block", [1, 3, 7, 100])
def test_maxsim_is_its_definition(block) -> None:
    queries, documents = tokens(3, 4, 8, 0), tokens(7, 5, 8, 1)
    found = maxsim(*queries, *documents, block=block)
    np.testing.assert_allclose(found, by_loops(*queries, *documents), atol=1e-5)


def test_padding_never_wins_and_nothing_scores_nothing() -> None:
    (queries, asked), (documents, there) = tokens(2, 3, 8, 0), tokens(4, 5, 8, 1)
    there[2], asked[1] = False, False
    expected = by_loops(queries, asked, documents, there)
    documents[~there], queries[~asked] = 1e9, np.float32(-1e9)
    found = np.asarray(maxsim(queries, asked, documents, there, block=3))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (found[:, 2] == 0).all() and (found[1] == 0).all()


def test_gradients_are_those_of_the_whole_array() -> None:
    (queries, asked), (documents, there) = tokens(3, 4, 8, 2), tokens(5, 6, 8, 3)
    there[4] = False
    weights = jax.random.normal(jax.random.key(0), (3, 5))

    def whole(queries, documents):
        pairs = jnp.einsum("qie,nje->qnij", queries, documents)
        best = jnp.max(jnp.where(there[None, :, None], pairs, -jnp.inf), axis=3)
        counted = asked[:, None] & there.any(1)[None, :, None]
        return jnp.sum(weights * jnp.where(counted, best, 0.0).sum(2))

    def blocks(queries, documents):
        return jnp.sum(weights * maxsim(queries, asked, documents, there, block=2))

    for ours, theirs in zip(
        jax.grad(blocks, (0, 1))(queries, documents), jax.grad(whole, (0, 1))(queries, documents), strict=True
    ):
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_memory_does_not_grow_with_the_documents() -> None:
    def temporary(documents: int) -> int:
        shapes = [(16, 8, 32), (16, 8), (documents, 32, 32), (documents, 32)]
        kinds = [jnp.float32, jnp.bool_, jnp.float32, jnp.bool_]
        abstract = [jax.ShapeDtypeStruct(shape, kind) for shape, kind in zip(shapes, kinds, strict=True)]
        memory = jax.jit(lambda *given: maxsim(*given, block=32)).lower(*abstract).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    four_axes = 16 * 8 * 32 * 4 * (1024 - 256)
    assert temporary(1024) - temporary(256) < 0.5 * four_axes


@pytest.mark.parametrize("fill", [False, True])
def test_encodings_are_their_definition(fill) -> None:
    parts = divisions(8, repetitions=2, planes=2, projected=3, seed=1)
    values, mask = tokens(5, 6, 8, 4)
    mask[3] = False
    planes, projections = np.asarray(parts.planes), np.asarray(parts.projections)
    asked, kept = np.zeros((5, 2, 4, 3)), np.zeros((5, 2, 4, 3))
    for n in range(5):
        for r in range(2):
            rows = values[n][mask[n]]
            bits = (rows @ planes[r] > 0).astype(int)
            narrow = rows @ projections[r]
            for b in range(4):
                inside = narrow[bits @ [1, 2] == b]
                asked[n, r, b] = inside.sum(0)
                if len(inside):
                    kept[n, r, b] = inside.mean(0)
                elif fill and len(rows):
                    kept[n, r, b] = narrow[np.argmin(np.abs(bits - [b & 1, b >> 1]).sum(1))]
    values[~mask] = np.nan
    assert parts.width == 24
    found = (
        fixed_dimensional_queries(parts, values, mask),
        fixed_dimensional_documents(parts, values, mask, fill_empty=fill),
    )
    for ours, theirs in zip(found, (asked, kept), strict=True):
        np.testing.assert_allclose(ours, theirs.reshape(5, -1), atol=1e-5)


def test_more_repetitions_come_nearer_to_maxsim() -> None:
    queries, documents = tokens(20, 4, 32, 5), tokens(60, 12, 32, 6)
    documents[0][:20, :4] = queries[0] + 0.1 * np.random.default_rng(0).standard_normal((20, 4, 32)).astype(np.float32)
    documents[1][:20, :4] = True
    truth = np.asarray(maxsim(*queries, *documents)).ravel()

    def agreement(repetitions: int) -> float:
        parts = divisions(32, repetitions=repetitions, planes=3, projected=16)
        encoded = fixed_dimensional_queries(parts, *queries) @ fixed_dimensional_documents(parts, *documents).T
        return float(np.corrcoef(np.asarray(encoded).ravel(), truth)[0, 1])

    assert agreement(1) < agreement(8) < agreement(64)


def test_what_does_not_fit_is_refused() -> None:
    (queries, asked), (documents, there) = tokens(2, 3, 8, 0), tokens(4, 5, 8, 1)
    with pytest.raises(ConfigError, match="width 4"):
        maxsim(queries[..., :4], asked, documents, there)
    with pytest.raises(ConfigError, match=r"mask \(2, 2\)"):
        maxsim(queries, asked[:, :2], documents, there)
    with pytest.raises(ConfigError, match="block is 0"):
        maxsim(queries, asked, documents, there, block=0)
    with pytest.raises(ConfigError, match="1 to 12 planes"):
        divisions(8, planes=13)
    with pytest.raises(ConfigError, match="expected"):
        fixed_dimensional_queries(divisions(4), queries, asked)
