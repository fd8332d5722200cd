"""Token merging against an independent NumPy version, and what it must leave as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.layers import FLOAT32, BlockConfig, block, block_spec
from erel_jax.layers.token_merging import SizedTokens, merge_most_similar, merging_block, size_bias, sized

CONFIG = BlockConfig(width=8, heads=2, mlp_width=16, eps=1e-6)
DRAW = np.random.default_rng(0)


def merged_by_loops(tokens, sizes, metric, pairs, protected):
    """One row: list the givers' best partners, sort them, average."""
    unit = metric / np.linalg.norm(metric, axis=1, keepdims=True)
    givers, receivers = range(protected, len(tokens), 2), range(protected + 1, len(tokens), 2)
    best = []
    for g in givers:
        cosines = [unit[g] @ unit[r] for r in receivers]
        best.append((max(cosines), g, list(receivers)[int(np.argmax(cosines))]))
    chosen = sorted(best, key=lambda one: -one[0])[:pairs]
    bags = {r: [r] for r in receivers}
    for _, g, r in chosen:
        bags[r].append(g)
    gone = {g for _, g, _ in chosen}
    order = [[i] for i in range(protected)] + [[g] for g in givers if g not in gone] + list(bags.values())
    new = [np.average(tokens[bag], axis=0, weights=sizes[bag]) for bag in order]
    return np.array(new), np.array([sizes[bag].sum() for bag in order])


@pytest.mark.parametrize(("length", "protected", "pairs"), [(9, 1, 3), (8, 0, 4), (10, 2, 1), (7, 1, 9), (8, 5, 9)])
def test_merges_as_written_out(length, protected, pairs):
    tokens = DRAW.normal(size=(3, length, 4)).astype(np.float32)
    sizes = DRAW.integers(1, 5, (3, length)).astype(np.float32)
    metric = DRAW.normal(size=(3, length, 5)).astype(np.float32)
    got = jax.jit(merge_most_similar, static_argnames=("pairs", "protected"))(
        SizedTokens(jnp.asarray(tokens), jnp.asarray(sizes)), jnp.asarray(metric), pairs=pairs, protected=protected
    )
    possible = min(pairs, (length - protected) // 2)
    for row in range(3):
        expected = merged_by_loops(tokens[row], sizes[row], metric[row], possible, protected)
        np.testing.assert_allclose(got.tokens[row], expected[0], atol=1e-6)
        np.testing.assert_array_equal(got.sizes[row], expected[1])
    assert got.tokens.shape[1] == length - possible
    np.testing.assert_array_equal(got.sizes.sum(1), sizes.sum(1))


def random_params(seed=0):
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(0.5 * draw.normal(size=s.shape), jnp.float32), block_spec(CONFIG))


def test_without_pairs_it_is_the_block():
    x = jnp.asarray(DRAW.normal(size=(2, 6, 8)), jnp.float32)
    state = merging_block(CONFIG, FLOAT32, random_params(), sized(x), pairs=0, protected=1)
    np.testing.assert_allclose(state.tokens, block(CONFIG, FLOAT32, random_params(), x, None), atol=1e-6)
    np.testing.assert_array_equal(state.sizes, 1.0)


def test_tokens_that_are_equal_may_be_merged_without_a_trace():
    """Merged twins weigh as much in attention as both did: two layers end where they end without merging."""
    first = DRAW.normal(size=(2, 1, 8))
    twins = np.repeat(DRAW.normal(size=(2, 4, 8)), 2, axis=1)
    x = jnp.asarray(np.concatenate([first, twins], axis=1), jnp.float32)
    merged, plain = sized(x), x
    for seed in (1, 2):
        merged = merging_block(CONFIG, FLOAT32, random_params(seed), merged, pairs=4 if seed == 1 else 0, protected=1)
        plain = block(CONFIG, FLOAT32, random_params(seed), plain, None)
    assert merged.tokens.shape == (2, 5, 8) and merged.sizes.tolist() == [[1, 2, 2, 2, 2]] * 2
    np.testing.assert_allclose(merged.tokens, plain[:, [0, 2, 4, 6, 8]], atol=1e-5)


def test_size_bias_and_gradients():
    np.testing.assert_allclose(size_bias(jnp.asarray([[1.0, 2.0]]))[0, 0, 0], [0.0, np.log(2.0)], atol=1e-7)
    x = jnp.asarray(DRAW.normal(size=(2, 9, 8)), jnp.float32).at[:, 3].set(0.0)

    def total(params, x):
        return jnp.sum(merging_block(CONFIG, FLOAT32, params, sized(x), pairs=3, protected=1).tokens ** 2)

    for leaf in jax.tree.leaves(jax.jit(jax.grad(total, argnums=(0, 1)))(random_params(), x)):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0
