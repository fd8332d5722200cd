"""Paths, patterns, partition and merge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import tree
from erel_jax.errors import ConfigError

PARAMS = {
    "text": {"query": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}, "key": {"kernel": jnp.ones((2, 3))}},
    "image": {"query": {"kernel": jnp.full((4, 4), 2.0)}},
}


def test_paths_join_keys_fields_and_indices():
    assert list(tree.paths(PARAMS)) == [
        "image/query/kernel",
        "text/key/kernel",
        "text/query/bias",
        "text/query/kernel",
    ]
    assert list(tree.paths({"a": [1, (2, 3)]})) == ["a/0", "a/1/0", "a/1/1"]


def test_partition_and_merge_are_inverse_and_leave_holes():
    selected, rest = tree.partition(PARAMS, [".*/query/.*"])
    assert selected["text"]["key"]["kernel"] is None
    assert rest["text"]["query"]["bias"] is None
    assert len(jax.tree.leaves(selected)) == 3 and len(jax.tree.leaves(rest)) == 1
    merged = tree.merge(selected, rest)
    assert jax.tree.structure(merged) == jax.tree.structure(PARAMS)
    assert all(a is b for a, b in zip(jax.tree.leaves(merged), jax.tree.leaves(PARAMS), strict=True))
    assert tree.merge(rest, selected)["image"]["query"]["kernel"] is PARAMS["image"]["query"]["kernel"]


def test_an_empty_list_selects_nothing():
    selected, rest = tree.partition(PARAMS, [])
    assert not jax.tree.leaves(selected) and len(jax.tree.leaves(rest)) == 4


def test_gradients_exist_for_the_selected_half_alone():
    selected, rest = tree.partition(PARAMS, ["text/query/kernel"])

    def loss(selected):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree.merge(selected, rest)))

    gradient = jax.grad(loss)(selected)
    assert list(tree.paths(gradient)) == ["text/query/kernel"]
    np.testing.assert_array_equal(gradient["text"]["query"]["kernel"], 2.0)


def test_patterns_match_whole_paths():
    with pytest.raises(ConfigError, match="matches no parameter"):
        tree.partition(PARAMS, ["query"])


def test_a_pattern_without_match_lists_what_there_is():
    with pytest.raises(ConfigError) as error:
        tree.select(tree.paths(PARAMS), [".*", "text/qeury/kernel"])
    assert "'text/qeury/kernel' matches no parameter" in str(error.value)
    assert "text/query/kernel" in str(error.value).split("Available")[0]
    assert "image/query/kernel" in str(error.value)


def test_a_broken_pattern_is_named():
    with pytest.raises(ConfigError, match=r"'\(' is not a regular expression"):
        tree.select(["a"], ["("])


def test_long_listings_are_cut():
    with pytest.raises(ConfigError, match=r"… \(50 in all\)"):
        tree.select([f"leaf{n}" for n in range(50)], ["nothing"])


def test_cast_leaves_integers_alone():
    cast = tree.cast({"w": jnp.ones(2), "codes": jnp.ones(2, jnp.int8)}, jnp.bfloat16)
    assert cast["w"].dtype == jnp.bfloat16 and cast["codes"].dtype == jnp.int8


def test_nbytes_counts_stored_bytes():
    mixed = {"w": jnp.ones((2, 3)), "h": jnp.ones(5, jnp.bfloat16), "codes": jax.ShapeDtypeStruct((7,), jnp.int8)}
    assert tree.nbytes(mixed) == 24 + 10 + 7
    assert tree.nbytes(tree.partition({"w": jnp.ones(2)}, [])[0]) == 0
