"""The state: its start, its abstract twin, its refusals."""

import jax
import jax.numpy as jnp
import pytest

from erel_jax.errors import ConfigError
from erel_jax.sharding import make_mesh
from erel_jax.training import abstract_state, adam, new_state, tree_shardings


def test_abstract_state_has_the_shapes_of_the_real_one(head_task):
    abstract = abstract_state(head_task.trainable, head_task.optimizer)
    real = head_task.new_state()
    assert jax.tree.structure(abstract) == jax.tree.structure(real)
    assert jax.tree.leaves(jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), abstract, real)) == [
        True
    ] * len(jax.tree.leaves(real))


def test_abstract_state_lowers_without_memory(head_task):
    huge = {"kernel": jax.ShapeDtypeStruct((1 << 20, 1 << 20), jnp.float32), "other": None}
    state = abstract_state(huge, adam(0.1))
    assert state.optimizer_state[0].mu["kernel"].shape == (1 << 20, 1 << 20)


def test_nothing_trainable_is_refused():
    with pytest.raises(ConfigError, match="no trainable parameter"):
        new_state({"a": None}, adam(0.1), jax.random.key(0))


def test_integer_parameters_cannot_train():
    with pytest.raises(ConfigError, match="values int8"):
        new_state({"values": jnp.zeros((2, 2), jnp.int8)}, adam(0.1), jax.random.key(0))


def test_splitting_rules_need_a_spec():
    with pytest.raises(ConfigError, match="pass the spec"):
        tree_shardings({"a": jnp.zeros((8, 8))}, make_mesh(), "fsdp")


def test_parameters_outside_the_spec_are_named():
    with pytest.raises(ConfigError, match="no parameter a"):
        tree_shardings({"a": jnp.zeros((8, 8))}, make_mesh(), "fsdp", spec={})
