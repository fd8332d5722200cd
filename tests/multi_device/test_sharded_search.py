"""Rows over eight devices are found as on one."""

import jax
import numpy as np
import pytest

from erel_jax.errors import ConfigError
from erel_jax.retrieval import search_coded, search_sharded, shard_rows
from erel_jax.retrieval.codes import Float32, Int8PerVector, eden
from erel_jax.sharding import make_mesh

WIDTH = 8


def drawn(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, WIDTH)).astype(np.float32)


@pytest.mark.parametrize(
    ("code", "devices", "rows", "block"),
    [(Float32(WIDTH), 8, 203, 7), (Int8PerVector(WIDTH), 8, 64, 16384), (eden(WIDTH, 1), 4, 90, 10)],
    ids=lambda value: type(value).__name__,
)
def test_equal_to_one_device(code, devices, rows, block) -> None:
    vectors, queries = drawn(rows), drawn(5, 1)
    vectors[rows // 2 :] = vectors[: rows - rows // 2]  # every score twice, on different devices
    stored = code.encode(vectors)
    corpus = shard_rows(code, stored, make_mesh(devices), block=block)
    for array in corpus.stored.values():
        assert len({shard.device for shard in array.addressable_shards}) == devices
        assert max(shard.data.shape[0] for shard in array.addressable_shards) < len(array)
    mask = np.random.default_rng(2).random(rows) < 0.1
    for allowed in (None, mask):
        found, expected = (
            search_sharded(corpus, queries, 40, mask=allowed),
            search_coded(code, stored, queries, 40, mask=allowed),
        )
        np.testing.assert_array_equal(found.rows, expected.rows)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    assert (found.rows == -1).any(), "fewer allowed than asked for"


def test_more_devices_than_rows_and_a_second_axis() -> None:
    code, vectors = Float32(WIDTH), drawn(3)
    corpus = shard_rows(code, {"values": vectors}, make_mesh(4, 2), axis="data")
    found = search_sharded(corpus, vectors, 5)
    expected = search_coded(code, {"values": vectors}, vectors, 5)
    np.testing.assert_array_equal(found.rows, expected.rows)


def test_what_does_not_fit_is_refused() -> None:
    code, stored = Float32(WIDTH), {"values": drawn(10)}
    with pytest.raises(ConfigError, match="axis 'rows'"):
        shard_rows(code, stored, make_mesh(8), axis="rows")
    with pytest.raises(ConfigError, match="0 rows"):
        shard_rows(code, {"values": drawn(0)}, make_mesh(8))
    corpus = shard_rows(code, stored, make_mesh(8))
    with pytest.raises(ConfigError, match="k is 0"):
        search_sharded(corpus, drawn(1), 0)
    with pytest.raises(ConfigError, match=r"expected \(10,\)"):
        search_sharded(corpus, drawn(1), 1, mask=np.ones(16, bool))
    with pytest.raises(ConfigError, match="width 3"):
        search_sharded(corpus, np.ones((1, 3), np.float32), 1)
    assert jax.device_count() == 8
