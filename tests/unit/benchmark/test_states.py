"""Stored states: computed once, reused, rebuilt when damaged, refused when not finite."""

import ml_dtypes
import numpy as np
import pytest

from erel_jax.benchmark.states import stored_states
from erel_jax.errors import NonFiniteError

ROWS, CHUNK = 10, 4
VALUES = np.random.default_rng(0).normal(size=(ROWS, 3, 5)).astype(np.float32)


class Encoder:
    """Counts its calls."""

    def __init__(self, values=VALUES):
        self.values, self.calls = values, []

    def __call__(self, start, stop):
        self.calls.append((start, stop))
        return self.values[start:stop]


def store(cache, encoder, key=("weights", "items"), rows=ROWS, progress=lambda *_: None):
    return stored_states(cache, "text-taps", key, rows, encoder, CHUNK, progress)


def test_values_are_those_of_the_encoder_rounded_to_bfloat16(tmp_path):
    encoder, told = Encoder(), []
    states = store(tmp_path, encoder, progress=lambda *args: told.append(args))
    assert encoder.calls == [(0, 4), (4, 8), (8, 10)]
    assert states.values.dtype == ml_dtypes.bfloat16 and states.values.shape == VALUES.shape
    np.testing.assert_array_equal(states.values, VALUES.astype(ml_dtypes.bfloat16))
    assert states.bytes_per_item == 3 * 5 * 2 and states.build_seconds > 0
    assert [done for _, done, _ in told] == [0, 4, 8, 10] and {total for *_, total in told} == {ROWS}


def test_a_second_use_computes_nothing_and_remembers_the_seconds(tmp_path):
    first, again = store(tmp_path, Encoder()), Encoder()
    states = store(tmp_path, again)
    assert again.calls == []
    np.testing.assert_array_equal(states.values, first.values)
    assert states.build_seconds == first.build_seconds


@pytest.mark.parametrize("change", [{"key": ("weights", "other items")}, {"rows": 8}])
def test_another_key_is_another_store(tmp_path, change):
    store(tmp_path, Encoder())
    other = Encoder()
    assert len(store(tmp_path, other, **change).values) == change.get("rows", ROWS)
    assert other.calls


def test_damage_is_noticed_and_repaired(tmp_path):
    store(tmp_path, Encoder())
    (file,) = tmp_path.rglob("states.npy")
    for damage in ("flip", "truncate", "delete"):
        data = bytearray(file.read_bytes())
        data[-3] ^= 1
        if damage == "delete":
            file.unlink()
        else:
            file.write_bytes(bytes(data) if damage == "flip" else bytes(data[:-7]))
        again = Encoder()
        np.testing.assert_array_equal(store(tmp_path, again).values, VALUES.astype(ml_dtypes.bfloat16))
        assert again.calls, damage


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_with_their_row_and_not_stored(tmp_path, bad):
    values = VALUES.copy()
    values[6, 1, 2] = bad
    with pytest.raises(NonFiniteError, match=r"text-taps.*row 6"):
        store(tmp_path, Encoder(values))
    assert not list(tmp_path.rglob("*.npy"))
    again = Encoder()
    store(tmp_path, again)
    assert again.calls
