"""Pooled tokens against SciPy's Ward clustering."""

import jax
import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

from erel_jax.errors import ConfigError
from erel_jax.interaction import maxsim, pool_tokens


def documents(rows: int, length: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    tokens = draw.standard_normal((rows, length, width)).astype(np.float32)
    tokens /= np.linalg.norm(tokens, axis=2, keepdims=True)
    return tokens, np.arange(length) < draw.integers(1, length + 1, rows)[:, None]


def by_scipy(rows: np.ndarray, factor: int, normalize: bool) -> np.ndarray:
    """Means of Ward's clusters, in the order of their first rows."""
    wanted = max(1, len(rows) // factor)
    labels = fcluster(linkage(rows, "ward"), wanted, "maxclust") if len(rows) > 1 else np.ones(1)
    first = {label: place for place, label in reversed(list(enumerate(labels)))}
    means = np.array([rows[labels == label].mean(0) for label in sorted(first, key=first.__getitem__)])
    return means / np.linalg.norm(means, axis=1, keepdims=True) if normalize else means


@pytest.mark.parametrize(("factor", "normalize", "block"), [(3, True, 4), (2, False, 100), (5, True, 1)])
def test_clusters_are_those_of_ward(factor, normalize, block) -> None:
    tokens, mask = documents(7, 17, 6)
    mask[0] = True
    expected = [by_scipy(rows[there], factor, normalize) for rows, there in zip(tokens, mask, strict=True)]
    tokens[~mask] = np.nan
    found, kept = (np.asarray(side) for side in pool_tokens(tokens, mask, factor, normalize=normalize, block=block))
    assert found.shape == (7, 17 // factor, 6) and kept.sum(1).tolist() == [len(rows) for rows in expected]
    for rows, there, means in zip(found, kept, expected, strict=True):
        np.testing.assert_allclose(rows[there], means, atol=1e-5)
        assert not rows[~there].any()


def test_factor_one_keeps_everything_and_equal_tokens_become_one() -> None:
    tokens, mask = documents(3, 5, 4)
    mask[1] = False
    found, kept = pool_tokens(tokens, mask, 1)
    np.testing.assert_array_equal(kept, mask)
    np.testing.assert_allclose(found[0][kept[0]], tokens[0][mask[0]], atol=1e-6)
    twice = np.repeat(tokens[:1], 2, axis=1)
    found, kept = pool_tokens(twice, np.ones((1, 10), bool), 2)
    np.testing.assert_allclose(found[0], tokens[0], atol=1e-6)
    assert np.asarray(kept).all()


def test_scores_are_near_where_tokens_repeat() -> None:
    draw = np.random.default_rng(0)
    tokens, mask = documents(40, 12, 16)
    noisy = np.repeat(tokens, 3, axis=1) + 0.1 * draw.standard_normal((40, 36, 16)).astype(np.float32)
    wide = np.repeat(mask, 3, axis=1)
    found, kept = jax.jit(pool_tokens, static_argnums=2)(noisy, wide, 3)
    scores = np.asarray(maxsim(tokens[:10], mask[:10], found, kept))
    # Each query is the tokens that its document repeats; a document of more tokens may hold them too, by chance.
    assert (scores.argmax(1) == np.arange(10)).mean() >= 0.8
    assert (scores[np.arange(10), np.arange(10)] / mask[:10].sum(1)).min() > 0.9


def test_what_does_not_fit_is_refused() -> None:
    tokens, mask = documents(2, 4, 3)
    with pytest.raises(ConfigError, match="factor is 0"):
        pool_tokens(tokens, mask, 0)
    with pytest.raises(ConfigError, match=r"mask \(2, 3\)"):
        pool_tokens(tokens, mask[:, :3], 2)
