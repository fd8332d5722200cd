"""Group layer-dropping against the released tap lists."""

import pytest

from erel_jax.adapters import tap_states
from erel_jax.errors import ConfigError

RELEASED = {  # layers: 0-based layer ids as released; a state index is one more
    12: (1, 3, 5, 7, 9, 11),
    24: (3, 7, 11, 15, 19, 23),
    28: (2, 7, 12, 17, 22, 27),
    32: (1, 7, 13, 19, 25, 31),
    48: (2, 11, 20, 29, 38, 47),
    80: (4, 19, 34, 49, 64, 79),
}


@pytest.mark.parametrize("layers", RELEASED)
def test_released_lists(layers):
    states = tuple(layer + 1 for layer in RELEASED[layers])
    assert tap_states(layers) == (0, *states)
    assert tap_states(layers, include_embedding=False) == states


def test_shallow_encoders_have_all_states_read():
    assert tap_states(6) == (0, 1, 2, 3, 4, 5, 6)
    assert tap_states(4) == (0, 1, 2, 3, 4)
    assert tap_states(1) == (0, 1)


@pytest.mark.parametrize("layers", range(1, 60))
def test_taps_increase_end_at_the_last_state_and_are_as_many_as_wanted(layers):
    for taps in (2, 4, 7, 13):
        states = tap_states(layers, taps)
        assert list(states) == sorted(set(states)) and states[0] == 0 and states[-1] == layers
        assert len(states) == min(taps, layers + 1)


def test_nonsense_is_refused():
    with pytest.raises(ConfigError, match="layers=0"):
        tap_states(0)
    with pytest.raises(ConfigError, match="taps=1"):
        tap_states(12, 1)
