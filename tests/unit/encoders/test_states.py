"""The shared way through a stack against a plain loop over its layers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.encoders.states import block_layer, run_states
from erel_jax.errors import ConfigError
from erel_jax.layers import FLOAT32, BlockConfig, block, first_token, stack_spec

CONFIG = BlockConfig(width=8, heads=2, mlp_width=12)
LAYERS = 3


@pytest.fixture(scope="module")
def stack():
    draw = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: jnp.asarray(draw.normal(size=s.shape) * 0.3, jnp.float32), stack_spec(CONFIG, LAYERS)
    )
    return params, jnp.asarray(draw.normal(size=(2, 5, 8)), jnp.float32)


@pytest.fixture(scope="module")
def looped(stack):
    params, x = stack
    step = jax.jit(lambda p, y: block(CONFIG, FLOAT32, p, y, None))
    states = [x]
    for i in range(LAYERS):
        states.append(step(jax.tree.map(lambda p, i=i: p[i], params), states[-1]))
    return np.stack(states)


def run(stack, **options):
    return jax.jit(
        partial(run_states, block_layer(CONFIG, FLOAT32, None), layers=LAYERS, pool=first_token, **options)
    )(*stack)  # fmt: skip


def test_everything_at_once(stack, looped):
    found = run(stack, taps=(3, 0, 3), last=True, hidden_states=True)
    np.testing.assert_allclose(found.hidden_states, looped, atol=1e-5)
    np.testing.assert_allclose(found.last, looped[-1], atol=1e-5)
    np.testing.assert_allclose(found.taps, looped[[3, 0, 3], :, 0].transpose(1, 0, 2), atol=1e-5)


@pytest.mark.parametrize("top", range(LAYERS + 1))
def test_taps_alone_stop_at_the_highest(stack, looped, top):
    found = run(stack, taps=(0, top), last=False, hidden_states=False)
    np.testing.assert_allclose(found.last, looped[top], atol=1e-5)
    np.testing.assert_allclose(found.taps, looped[[0, top], :, 0].transpose(1, 0, 2), atol=1e-5)
    assert found.hidden_states is None


def test_the_last_state_alone_emits_nothing(stack, looped):
    found = run(stack, taps=None, last=True, hidden_states=False)
    np.testing.assert_allclose(found.last, looped[-1], atol=1e-5)
    assert found.taps is None and found.hidden_states is None


def test_nothing_asked_is_an_error(stack):
    with pytest.raises(ConfigError, match="nothing to compute"):
        run(stack, taps=None, last=False, hidden_states=False)
