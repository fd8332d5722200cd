"""k-means and SemDeDup against brute force and on injected copies."""

import numpy as np
import pytest

from erel_jax.errors import ConfigError, NonFiniteError
from erel_jax.kmeans import tile_rows_for
from erel_jax.selection import (
    DedupSettings,
    duplicate_cosines,
    embedding_fingerprint,
    fit_centroids,
    nearest_centroids,
    remove_duplicates,
    semdedup,
)

TILE = 16
SETTINGS = DedupSettings(clusters=4, tile_rows=TILE, iterations=3)


def _topics(count, width=16, topics=6, seed=0):
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(count, width)) + 2 * draw.normal(size=(topics, width))[draw.integers(0, topics, count)]
    return rows.astype(np.float32)


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_centroids_of_separate_directions():
    rows = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0) * np.arange(1, 16, dtype=np.float32)[:, None]
    centroids = fit_centroids(rows, 15, iterations=2)
    near, cosines = nearest_centroids(rows, centroids, probes=2, rows=4)
    np.testing.assert_allclose(cosines, 1, atol=1e-6)
    np.testing.assert_allclose(centroids[near[:, 0]], _unit(rows), atol=1e-6)
    assert (near[:, 0] != near[:, 1]).all()
    with pytest.raises(ConfigError, match="expected 1 to 15"):
        fit_centroids(rows, 16)
    with pytest.raises(ConfigError, match="expected finite rows"):
        fit_centroids(np.full((4, 2), np.nan, np.float32), 2)
    with pytest.raises(ConfigError, match="expected finite rows"):
        nearest_centroids(np.ones((4, 2), np.float32), np.full((2, 2), np.nan))
    with pytest.raises(ConfigError, match="0 iterations"):
        fit_centroids(rows, 2, iterations=0)
    with pytest.raises(ConfigError, match="probes=16"):
        nearest_centroids(rows, centroids, probes=16)


def test_lloyd_equals_numpy():
    rows = _topics(50)
    start = _unit(rows)[np.sort(np.random.default_rng(3).choice(50, 5, replace=False))]
    for _ in range(2):
        owner = np.argmax(_unit(rows) @ start.T, axis=1)
        start = _unit(np.stack([_unit(rows)[owner == k].sum(0) for k in range(5)]))
    np.testing.assert_allclose(fit_centroids(rows, 5, iterations=2, seed=3), start, atol=1e-5)


@pytest.mark.parametrize("keep", ["hard", "easy", "random"])
def test_one_cluster_equals_brute_force(keep):
    rows = _topics(50)
    settings = DedupSettings(clusters=1, tile_rows=TILE, keep=keep, sample_per_cluster=64)
    found = duplicate_cosines(rows, settings)
    cosines = _unit(rows) @ _unit(rows).T
    toward_center = _unit(rows) @ _unit(_unit(rows).sum(0, keepdims=True))[0]
    order = {
        "hard": np.argsort(toward_center),
        "easy": np.argsort(-toward_center),
        "random": np.argsort(np.random.default_rng(0).permutation(50)),
    }[keep]
    for place, row in enumerate(order):
        earlier = order[:place]
        if place == 0:
            assert found.partner[row] == -1
            continue
        assert found.partner[row] == earlier[np.argmax(cosines[row, earlier])]
        np.testing.assert_allclose(found.cosines[row], cosines[row, earlier].max(), atol=1e-5)


def test_injected_copies_are_found():
    rows = _topics(1_000, 32, topics=20)
    noise = np.random.default_rng(1).normal(size=(100, 32)).astype(np.float32)
    rows[-100:] = rows[:100] + 0.15 * np.linalg.norm(rows[:100], axis=1, keepdims=True) * _unit(noise)
    gone = np.zeros(1_000, bool)
    gone[semdedup(rows, epsilon=0.05, settings=DedupSettings(tile_rows=64)).removed] = True
    assert np.mean(gone[:100] | gone[-100:]) >= 0.95
    assert np.mean(gone[100:-100]) <= 0.01
    assert not (gone[:100] & gone[-100:]).any(), "one of a pair must stay"


def test_a_second_cluster_finds_what_a_border_divides():
    rows = np.random.default_rng(0).normal(size=(600, 32)).astype(np.float32)
    rows[300:] = rows[:300] + 0.2 * np.random.default_rng(1).normal(size=(300, 32))
    found = []
    for probes in (1, 2):
        outcome = semdedup(rows, settings=DedupSettings(clusters=60, probes=probes, tile_rows=TILE * 2))
        found.append(len(outcome.removed))
    assert found[0] < found[1] <= 300


def test_measured_once_for_many_thresholds():
    measured = duplicate_cosines(_topics(200, 8), SETTINGS)
    kept = [set(remove_duplicates(measured, epsilon).kept.tolist()) for epsilon in (0.0, 0.05, 0.2, 2.0)]
    assert kept[0] >= kept[1] >= kept[2] >= kept[3]
    assert len(kept[0]) > len(kept[2]) > len(kept[3]) >= 1
    with pytest.raises(ConfigError, match="epsilon is nan"):
        semdedup(lambda: pytest.fail("the setting is looked at before the rows"), epsilon=float("nan"))
    with pytest.raises(ConfigError, match="epsilon is 3"):
        remove_duplicates(measured, 3)


def test_streams_and_mapped_files_give_the_same_rows(tmp_path):
    rows = _topics(120)
    np.save(tmp_path / "rows.npy", rows)
    expected = duplicate_cosines(rows, SETTINGS)
    mapped = duplicate_cosines(np.load(tmp_path / "rows.npy", mmap_mode="r"), SETTINGS)
    stream = duplicate_cosines(lambda: iter(np.array_split(rows, 7)), SETTINGS, scratch=tmp_path)
    for other in (mapped, stream):
        np.testing.assert_array_equal(other.partner, expected.partner)
        np.testing.assert_array_equal(other.cosines, expected.cosines)
        assert other.fingerprint == expected.fingerprint == embedding_fingerprint(rows)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.npy"], "the copy of the stream is gone"


def test_bad_input():
    rows = _topics(10)
    rows[7, 3] = np.nan
    with pytest.raises(NonFiniteError, match=r"first rows \[7\]"):
        semdedup(rows)
    for name in ("clusters", "probes", "tile_rows", "iterations", "sample_per_cluster"):
        with pytest.raises(ConfigError, match=name):
            DedupSettings(**{name: 0})  # pyright: ignore[reportArgumentType]
    for name, value in (("seed", -1), ("clusters", 2.5), ("tile_rows", float("nan"))):
        with pytest.raises(ConfigError, match=f"{name} is {value}, expected a whole number"):
            DedupSettings(**{name: value})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="scratch is /nonexistent"):
        semdedup(lambda: iter([_topics(10)]), scratch="/nonexistent")
    with pytest.raises(ConfigError, match="keep is 'soft'"):
        DedupSettings(keep="soft")  # pyright: ignore[reportArgumentType]


def test_tiles_shrink_as_centroids_grow():
    assert [tile_rows_for(clusters) for clusters in (1, 8_192, 65_536, 10**9)] == [2048, 2048, 256, 64]
