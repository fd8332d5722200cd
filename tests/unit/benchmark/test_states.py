"""Where stored states lie on disk and in training, and that it makes no difference to a batch."""

import shutil
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.adapters.taps import widen
from erel_jax.benchmark.state_feed import ShardedStates, StreamedStates, resident_states
from erel_jax.benchmark.states import choose_placement, described, stored_states, tower_identity
from erel_jax.data.state_store import Layout
from erel_jax.errors import CheckpointError, ConfigError

ROWS = 21
VALUES = {
    "text": np.random.default_rng(0).normal(size=(ROWS, 3, 5)).astype(np.float32),
    "image": np.random.default_rng(1).normal(size=(ROWS, 2, 7)).astype(np.float32),
}
ORIGIN = {"weights": "w", "items": "i"}


def store(cache, name="text", storage: Any = "bfloat16", identity=ORIGIN, calls=None):
    def encode(start, stop):
        if calls is not None:
            calls.append((start, stop))
        return VALUES[name][start:stop]

    layout = Layout(rows=ROWS, shape=VALUES[name].shape[1:], storage=storage, chunk=8)
    return stored_states(cache, f"{name}-taps", identity, layout, encode, lambda *_: None)


def test_another_identity_is_another_folder_and_a_folder_under_a_wrong_name_is_refused(tmp_path):
    store(tmp_path)
    calls = []
    store(tmp_path, identity={**ORIGIN, "items": "j"}, calls=calls)
    assert len(calls) == 3
    store(tmp_path, calls=calls)
    assert len(calls) == 3
    one, other = sorted((tmp_path / "states").iterdir())
    shutil.rmtree(other)
    one.rename(other)
    with pytest.raises(CheckpointError, match=r"items: the store has \w, this run \w"):
        for identity in (ORIGIN, {**ORIGIN, "items": "j"}):
            store(tmp_path, identity=identity, calls=calls)


def test_a_towers_identity_tells_tokenizers_apart():
    def tower(words):
        return SimpleNamespace(fingerprint="f", tokenizer=SimpleNamespace(to_json=lambda: words))

    one, other = (tower_identity(tower(words), "items", (0, 2), "bfloat16") for words in ("a", "b"))
    assert {key for key in one if one[key] != other[key]} == {"tokenizer"}
    pictures = tower_identity(SimpleNamespace(fingerprint="f", tokenizer=None), "items", None, "bfloat16")
    assert pictures == {"weights": "f", "items": "items", "taps": "None", "precision": "bfloat16"}


def test_the_first_placement_that_fits_is_chosen_and_a_wish_is_granted():
    assert choose_placement(10, 10) == "resident"
    assert choose_placement(11, 10) == "streamed"
    assert choose_placement(80, 10, devices=8) == "sharded"
    assert choose_placement(81, 10, devices=8) == "streamed"
    assert choose_placement(1, 10, wanted="streamed") == "streamed"
    with pytest.raises(ConfigError, match="Did you mean 'sharded'"):
        choose_placement(1, 10, wanted="shard")


def test_size_and_placement_are_said():
    line = described({"text": Layout(rows=1000, shape=(7, 384))}, "resident", 2_000_000)
    assert "text 1,000 × 7×384 bfloat16 5.4 MB" in line and "5.4 MB in all, resident (2 MB" in line


@pytest.mark.parametrize("storage", ["bfloat16", "int8"])
@pytest.mark.parametrize("feed", [StreamedStates, ShardedStates])
def test_a_feed_gives_what_resident_states_give(tmp_path, storage, feed):
    stores = {name: store(tmp_path, name, storage) for name in VALUES}
    resident, other = resident_states(stores), feed(stores)
    wide = {}
    for seed in range(3):
        rows = np.random.default_rng(seed).integers(0, ROWS, 9).astype(np.int32)
        rows[-1] = ROWS - 1
        if seed:
            other.prefetch(rows)
        got = other(rows)
        expected = jax.tree.map(lambda array, rows=rows: array[rows], resident)
        jax.tree.map(np.testing.assert_array_equal, got, expected)
        wide = {name: widen(jax.tree.map(jnp.asarray, part)) for name, part in got.items()}
        for name in VALUES:
            np.testing.assert_allclose(wide[name].astype(jnp.float32), VALUES[name][rows], atol=0.03)
    assert {leaf.sharding.num_devices for leaf in jax.tree.leaves(wide)} == {1}


def test_sharded_rows_lie_spread_over_the_devices(tmp_path):
    states = ShardedStates({"text": store(tmp_path)}).states["text"]
    assert states.shape == (24, 3, 5) and {shard.data.shape for shard in states.addressable_shards} == {(3, 3, 5)}


def test_reading_ahead_is_used_and_bounded(tmp_path):
    feed = StreamedStates({"text": store(tmp_path)}, ahead=2)
    batches = [np.arange(start, start + 4) for start in range(5)]
    for rows in batches:
        feed.prefetch(rows)
    for rows in batches:
        np.testing.assert_allclose(feed(rows)["text"].astype(np.float32), VALUES["text"][rows], atol=0.03)
    assert feed.hits == 2
