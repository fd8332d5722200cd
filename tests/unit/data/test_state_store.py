"""The state store: what a kill, a flipped bit, another origin and int8 rounding may cost, and no more."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from erel_jax.data.state_store import JOURNAL, MANIFEST, VALUES, Layout, open_store, quantize
from erel_jax.errors import CheckpointError, ConfigError, NonFiniteError

ROWS, CHUNK, SHAPE = 11, 4, (3, 5)
ORIGIN = {"weights": "w1", "tokenizer": "t1", "items": "i1"}
VALUES_OF_ROWS = np.random.default_rng(0).normal(size=(ROWS, *SHAPE)).astype(np.float32)
STORAGES = ["bfloat16", "int8", "float32"]


class Encoder:
    """Counts what it is asked for."""

    def __init__(self, values=VALUES_OF_ROWS):
        self.values, self.calls = values, []

    def __call__(self, start, stop):
        self.calls.append((start, stop))
        return self.values[start:stop]


def layout(storage="bfloat16", **changes):
    return Layout(**{"rows": ROWS, "shape": SHAPE, "storage": storage, "chunk": CHUNK, **changes})


def opened(folder, encoder=None, storage="bfloat16", origin=ORIGIN, **options):
    chosen = options.pop("layout", layout(storage))
    encoder = encoder or Encoder()
    return open_store(folder, name="text-taps", identity=origin, layout=chosen, encode=encoder, **options)


def test_bfloat16_rows_are_the_encoders_rounded(tmp_path):
    encoder, told = Encoder(), []
    store = opened(tmp_path, encoder, progress=lambda *args: told.append(args))
    assert encoder.calls == [(0, 4), (4, 8), (8, 11)] and store.encoded_rows == ROWS
    assert store.values.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(store.values, VALUES_OF_ROWS.astype(ml_dtypes.bfloat16))
    assert (tmp_path / VALUES).stat().st_size == layout().bytes == 384  # 11 · 15 · 2 = 330 bytes, aligned to 64
    assert [done for _, done, _ in told] == [0, 4, 8, 11] and {total for *_, total in told} == {ROWS}
    assert store.build_seconds > 0


def test_float32_rows_are_the_encoders(tmp_path):
    store = opened(tmp_path, storage="float32")
    assert store.values.dtype == np.float32 and store.scales is None
    for values in (store.values, store.read(slice(None)), store.widened(slice(None))):
        np.testing.assert_array_equal(np.asarray(values), VALUES_OF_ROWS)


def test_int8_error_is_at_most_half_a_step_of_its_row_and_tap(tmp_path):
    wild = VALUES_OF_ROWS * np.array([1e-3, 1.0, 500.0], np.float32)[None, :, None]
    wild[4, 1] = 0.0
    store = opened(tmp_path, Encoder(wild), "int8")
    assert store.values.dtype == np.int8 and store.scales is not None and store.scales.shape == (ROWS, 3)
    step = np.abs(wild).max(axis=-1) / 127
    np.testing.assert_allclose(store.scales, step, rtol=1e-6)
    error = np.abs(store.widened(slice(None)) - wild)
    assert (error <= 0.5001 * step[..., None]).all() and error.max() > 0
    assert not store.widened(np.array([4]))[0, 1].any()
    read = store.read(np.array([6, 2]))
    np.testing.assert_array_equal(read["values"], store.values[[6, 2]])
    codes, scales = quantize(np.array([[1.0, -0.5, 0.25]], np.float32))
    np.testing.assert_array_equal(codes, [[127, -64, 32]])  # -63.5 rounds to even
    assert scales[0] == np.float32(1 / 127)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_second_use_computes_nothing_and_remembers_the_seconds(tmp_path, storage):
    first, again = opened(tmp_path, storage=storage), Encoder()
    store = opened(tmp_path, again, storage)
    assert again.calls == [] and store.encoded_rows == 0 and store.build_seconds == first.build_seconds
    np.testing.assert_array_equal(store.values, first.values)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_flipped_bit_costs_its_chunk_alone(tmp_path, storage):
    whole = opened(tmp_path, storage=storage).widened(slice(None))
    kept = layout(storage)
    places = [5 * kept.row_bytes + 3] + ([kept.scales_at + 5 * kept.scale_bytes] if storage == "int8" else [])
    for place in places:
        data = bytearray((tmp_path / VALUES).read_bytes())
        data[place] ^= 16
        (tmp_path / VALUES).write_bytes(data)
        again = Encoder()
        store = opened(tmp_path, again, storage)
        assert again.calls == [(4, 8)]
        np.testing.assert_array_equal(store.widened(slice(None)), whole)


@pytest.mark.parametrize(
    ("damage", "calls"),
    [
        (lambda folder: (folder / VALUES).unlink(), 3),
        (lambda folder: os.truncate(folder / VALUES, 6 * 30), 2),
        (lambda folder: (folder / MANIFEST).write_text("{"), 3),
        (lambda folder: (folder / JOURNAL).unlink(), 3),
        (lambda folder: (folder / JOURNAL).write_bytes((folder / JOURNAL).read_bytes()[:-20]), 1),
    ],
)
def test_other_damage_is_noticed_and_repaired(tmp_path, damage, calls):
    opened(tmp_path)
    damage(tmp_path)
    again = Encoder()
    np.testing.assert_array_equal(opened(tmp_path, again).values, VALUES_OF_ROWS.astype(ml_dtypes.bfloat16))
    assert len(again.calls) == calls
    last = Encoder()
    opened(tmp_path, last)
    assert last.calls == []


KILLED = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    import numpy as np
    from erel_jax.data.state_store import Layout, open_store

    def encode(start, stop):
        if start == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.full((stop - start, 3, 5), start, np.float32)

    layout = Layout(rows=11, shape=(3, 5), chunk=4)
    origin = {"weights": "w1", "tokenizer": "t1", "items": "i1"}
    open_store(Path(sys.argv[1]), name="text-taps", identity=origin, layout=layout, encode=encode)
    """
)


def test_a_killed_build_loses_one_chunk(tmp_path):
    folder = tmp_path / "store"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], env=environment, capture_output=True)
    assert done.returncode == -9, done.stderr
    encoder = Encoder(np.full((ROWS, *SHAPE), 8, np.float32))
    store = opened(folder, encoder)
    assert encoder.calls == [(8, 11)] and store.encoded_rows == 3
    np.testing.assert_array_equal(np.asarray(store.values[:, 0, 0], np.float32), [0] * 4 + [4] * 4 + [8] * 3)


def test_a_store_of_something_else_is_refused_with_both_sides_named(tmp_path):
    opened(tmp_path)
    before = (tmp_path / VALUES).read_bytes()
    other = Encoder()
    with pytest.raises(
        CheckpointError, match=r"items: the store has i1, this run i2; weights: the store has w1"
    ) as info:
        opened(tmp_path, other, origin={**ORIGIN, "weights": "w2", "items": "i2"})
    assert "tokenizer" not in str(info.value)
    with pytest.raises(CheckpointError, match=r"tokenizer: the store has t1, this run t2"):
        opened(tmp_path, other, origin={**ORIGIN, "tokenizer": "t2"})
    with pytest.raises(CheckpointError, match=r"storage: the store has bfloat16, this run int8"):
        opened(tmp_path, other, "int8")
    with pytest.raises(
        CheckpointError, match=r"rows: the store has 11, this run 12.*shape: the store has 3×5, this run"
    ):
        opened(tmp_path, other, layout=layout(rows=12, shape=(4, 5)))
    assert other.calls == [] and (tmp_path / VALUES).read_bytes() == before


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_with_their_row_and_cost_their_chunk(tmp_path, bad):
    values = VALUES_OF_ROWS.copy()
    values[6, 1, 2] = bad
    with pytest.raises(NonFiniteError, match=r"text-taps.*row 6"):
        opened(tmp_path, Encoder(values))
    again = Encoder()
    opened(tmp_path, again)
    assert again.calls == [(4, 8), (8, 11)]


def test_another_chunk_size_goes_on_with_the_stores_own(tmp_path):
    values = VALUES_OF_ROWS.copy()
    values[9] = np.nan
    with pytest.raises(NonFiniteError):
        opened(tmp_path, Encoder(values))
    again = Encoder()
    store = opened(tmp_path, again, layout=layout(chunk=2))
    assert again.calls == [(8, 10), (10, 11)] and store.layout.chunk == CHUNK


def test_impossible_layouts_and_wrong_rows_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'int8'"):
        layout("int")
    with pytest.raises(ConfigError, match="rows=0"):
        layout(rows=0)
    with pytest.raises(ConfigError, match=r"rows of shape \(3, 4\), expected \(3, 5\)"):
        opened(tmp_path, Encoder(VALUES_OF_ROWS[..., :4]))


def test_the_manifest_says_what_the_store_is(tmp_path):
    opened(tmp_path, storage="int8")
    document = json.loads((tmp_path / MANIFEST).read_text())
    assert document["identity"] == ORIGIN and document["storage"] == "int8" and document["shape"] == "3×5"
    lines = [json.loads(line) for line in (tmp_path / JOURNAL).read_text().splitlines() if line]
    assert [line["chunk"] for line in lines] == [0, 1, 2] and all(len(line["sha256"]) == 64 for line in lines)


@pytest.mark.parametrize("given", [1, 5])
def test_another_number_of_rows_than_asked_for_is_refused(tmp_path, given):
    with pytest.raises(ConfigError, match=f"gave {given} rows when asked for 0 to 4, expected 4"):
        opened(tmp_path, lambda start, stop: VALUES_OF_ROWS[:given])
