"""A modality that an item lacks is masked, seen through the loss that trains: it has no value and no gradient there."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import tree
from erel_jax.adapters import METHODS
from erel_jax.adapters.adapted import item_encoder
from erel_jax.benchmark.next_item import next_item
from erel_jax.data.sequence_batches import SequenceBatches
from erel_jax.encoders import BertConfig, VitConfig, bert, vit
from erel_jax.layers import FLOAT32
from erel_jax.recommendation import SasrecConfig

USERS, ITEMS, LENGTH, WIDTH = 8, 9, 5, 8
ENCODERS = {"text": bert(BertConfig.tiny()), "image": vit(VitConfig.tiny())}
CACHED = [name for name in METHODS if METHODS[name].cached]
QUICK = ("linear_probe", "iisan_cached", "crossan_cached")


def windows():
    found = np.random.default_rng(0).integers(1, ITEMS + 1, (USERS, LENGTH)).astype(np.int32)
    found[0, :2] = 0
    return found


def presence():
    """Items without a text, without a picture, and with both; never without either."""
    there = np.ones((ITEMS + 1, 2), bool)
    there[[2, 5], 0] = False
    there[[3, 4, 8], 1] = False
    return there


def case(name, there):
    """(loss of stored states and parameters, both of them, the items of its batch) of a cached method."""
    adapted = item_encoder(ENCODERS, METHODS[name], embedding=WIDTH, bottleneck=4)
    problem: object = SimpleNamespace(encoders=ENCODERS, items=ITEMS)
    config = SasrecConfig(width=WIDTH, max_length=LENGTH - 1, dropout=0.0)
    model, draw = next_item(problem, adapted, config, FLOAT32), np.random.default_rng(1)  # type: ignore[arg-type]
    params = {"user": model.user.spec, **adapted.module.spec}
    values = tree.map_with_path(
        lambda path, s: jnp.asarray(0.4 * draw.normal(size=s.shape) + path.endswith("scale"), jnp.float32), params
    )
    shapes = {n: (len(adapted.taps[n]), e.width) if n in adapted.taps else (e.width,) for n, e in ENCODERS.items()}
    states = {n: jnp.asarray(draw.normal(size=(ITEMS + 1, *s)), jnp.float32) for n, s in shapes.items()}
    batches = SequenceBatches(windows=windows(), batch_size=USERS, epochs=1, seed=0).epoch(0)
    sequence = jax.tree.map(lambda array: array[0], batches)
    rows = sequence.unique_items
    batch = {"sequence": sequence, "presence": there[rows], "log_popularity": np.zeros(len(rows), np.float32)}

    def loss(stored, values):
        return model.loss({**values, "catalog": {"states": stored}}, batch, jax.random.key(0))[0]

    return loss, states, values, set(np.asarray(rows)) - {0}


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CACHED])
def test_stored_states_of_an_absent_modality_change_neither_loss_nor_gradients(name):
    there = presence()
    loss, states, values, used = case(name, there)
    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    value, (by_state, by_parameter) = run(states, values)
    spoiled = {
        n: jnp.where(there[:, m].reshape(-1, *[1] * (s.ndim - 1)), s, jnp.nan)
        for m, (n, s) in enumerate(states.items())
    }
    other, (_, gradients) = run(spoiled, values)
    assert float(other) == pytest.approx(float(value), abs=1e-6)
    for path, gradient in tree.paths(gradients).items():
        np.testing.assert_allclose(gradient, tree.paths(by_parameter)[path], atol=1e-5, err_msg=path)
    for column, modality in enumerate(ENCODERS):
        size = np.abs(np.asarray(by_state[modality])).reshape(ITEMS + 1, -1).max(1)
        for item in used:
            assert (size[item] > 0) == there[item, column], (modality, item)


def test_an_absent_modality_is_not_a_state_of_zeros():
    """An item without a picture is not one whose picture is zeros: the loss tells the two apart."""
    there = presence()
    loss, states, values, _ = case("iisan_cached", there)
    seen, _, _, _ = case("iisan_cached", np.ones_like(there))
    zeros = {**states, "image": jnp.where(there[:, 1, None, None], states["image"], 0.0)}
    masked, as_zeros = jax.jit(loss)(zeros, values), jax.jit(seen)(zeros, values)
    assert float(masked) == pytest.approx(float(jax.jit(loss)(states, values)), abs=1e-6)
    assert abs(float(as_zeros) - float(masked)) > 1e-3


def test_an_item_of_which_nothing_is_known_is_neither_target_nor_negative():
    """It has no vector, so the loss may not move one for it; as an input of its user it is what the position is."""
    there = presence()
    unknown, both = 7, windows()
    there[unknown] = False
    both[both == unknown] = 1
    both[0, -1] = both[3, -1] = unknown  # a target of two users, a negative of all others, an input of none
    table = jnp.asarray(np.random.default_rng(2).normal(size=(ITEMS + 1, WIDTH)), jnp.float32)
    module = SimpleNamespace(apply=lambda params, inputs, presence, **_: params["table"][inputs])
    problem: object = SimpleNamespace(encoders=ENCODERS, items=ITEMS)
    config = SasrecConfig(width=WIDTH, max_length=LENGTH - 1, dropout=0.0)
    model = next_item(problem, SimpleNamespace(module=module), config, FLOAT32)  # type: ignore[arg-type]
    draw = np.random.default_rng(1)
    user = tree.map_with_path(lambda _, s: jnp.asarray(0.4 * draw.normal(size=s.shape), jnp.float32), model.user.spec)
    sequence = jax.tree.map(
        lambda array: array[0], SequenceBatches(windows=both, batch_size=USERS, epochs=1, seed=0).epoch(0)
    )
    rows = sequence.unique_items

    def loss(table, there):
        batch = {
            "sequence": sequence,
            "presence": there[rows],
            "log_popularity": np.zeros(len(rows), np.float32),
            "inputs": rows,
        }
        return model.loss({"table": table, "user": user}, batch, jax.random.key(0))[0]

    value, gradient = jax.value_and_grad(loss)(table, there)
    moved = np.abs(np.asarray(gradient)).max(axis=1)
    assert not moved[unknown] and (moved[sorted(set(both.ravel()) - {0, unknown})] > 0).all()
    assert float(loss(table.at[unknown].set(100.0), there)) == float(value)
    there[unknown, 0] = True
    assert np.abs(np.asarray(jax.grad(loss)(table, there)))[unknown].max() > 0
