"""Training-free floors by hand on a toy catalog, and their table on real data."""

import numpy as np
import pytest

from erel_jax.benchmark.floors import (
    Combined,
    EmbeddingNeighbors,
    Markov,
    Popularity,
    TfidfNeighbors,
    combine_scores,
    rank_floors,
    recency_weights,
)
from erel_jax.data.items import align_texts, read_items
from erel_jax.data.sequence_splits import split_sequences
from erel_jax.data.sequences import read_sequences
from erel_jax.errors import ConfigError, DataError, NonFiniteError
from erel_jax.metrics.ranking import rank_by_scores, ranking_metrics

WINDOWS = np.array([[0, 1, 2, 3], [1, 2, 1, 4]], np.int32)
COUNTS = np.array([0, 3, 2, 1, 1])


def test_recency_weights_by_hand():
    histories = np.array([[5, 1, 2, 1], [0, 0, 0, 3], [0, 0, 0, 0]], np.int32)
    weights = recency_weights(histories, 5, last=3, decay=0.5).toarray()
    np.testing.assert_allclose(weights, [[1.25, 0.5, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]])
    assert weights.dtype == np.float32
    for bad in ({"last": 0, "decay": 0.5}, {"last": 1, "decay": 0.0}, {"last": 1, "decay": 1.5}):
        with pytest.raises(ConfigError, match="expected last of at least 1"):
            recency_weights(histories, 5, **bad)


def test_popularity_is_the_share_of_training_items():
    scores = Popularity(train_counts=COUNTS).scores(np.zeros((2, 3), np.int32))
    np.testing.assert_allclose(scores, [[3 / 7, 2 / 7, 1 / 7, 1 / 7]] * 2, rtol=1e-6)


def test_markov_sums_transitions_of_the_last_items():
    floor = Markov(windows=WINDOWS, train_counts=COUNTS, popularity_weight=0.0)
    # Transitions: 1 -> 2 twice, 2 -> 3, 2 -> 1, 1 -> 4.
    np.testing.assert_allclose(
        floor.scores(np.array([[0, 0, 1], [0, 1, 2], [0, 0, 0]], np.int32)),
        [[0, 2, 0, 1], [1, 0.5 * 2, 1, 0.5], [0, 0, 0, 0]],
    )
    with_popularity = Markov(windows=WINDOWS, train_counts=COUNTS).scores(np.zeros((1, 3), np.int32))
    np.testing.assert_allclose(with_popularity, [1e-3 * COUNTS[1:] / 7], rtol=1e-6)


def test_tfidf_prefers_rare_words_and_gives_missing_titles_nothing():
    floor = TfidfNeighbors(titles=["red lamp", "blue lamp", "red chair", "", "green lamp"])
    scores = floor.scores(np.array([[0, 1], [0, 4]], np.int32))
    assert scores[0, 0] == pytest.approx(1.0)
    assert scores[0, 2] > scores[0, 1] > 0
    assert scores[0, 1] == pytest.approx(scores[0, 4])
    assert scores[0, 3] == 0
    assert not scores[1].any()
    with pytest.raises(DataError, match="none of 2 titles"):
        TfidfNeighbors(titles=["", ""])


def test_embedding_neighbors_are_cosines():
    floor = EmbeddingNeighbors(embeddings=np.array([[3, 0], [0, 2], [1, 1], [0, 0]]), decay=0.5)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(floor.scores(np.array([[2, 1]], np.int32)), [[1, 0.5, 1.5 * half, 0]], rtol=1e-6)
    with pytest.raises(NonFiniteError, match="embedding of item 2"):
        EmbeddingNeighbors(embeddings=np.array([[1.0], [np.nan]]))
    with pytest.raises(DataError, match=r"expected \[N, E\]"):
        EmbeddingNeighbors(embeddings=np.zeros(3))


def test_combination_scales_each_row_by_its_largest_score():
    parts = {"a": np.array([[1, 4], [0, 0]], np.float32), "b": np.array([[2, 0], [1, 3]], np.float32)}
    combined = combine_scores(parts, {"a": 1.0, "b": 0.5})
    np.testing.assert_allclose(combined, [[0.25 + 0.5, 1.0], [0.5 / 3, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(parts["a"], [[1, 4], [0, 0]])
    with pytest.raises(ConfigError, match="no part is called 'c'"):
        combine_scores(parts, {"c": 1.0})
    with pytest.raises(ConfigError, match="got no weights"):
        combine_scores(parts, {})


def test_ranking_together_equals_ranking_alone():
    rng = np.random.default_rng(0)
    histories = rng.integers(0, 5, (7, 3)).astype(np.int32)
    targets = rng.integers(1, 5, 7).astype(np.int32)
    floors = {
        "popularity": Popularity(train_counts=COUNTS),
        "markov": Markov(windows=WINDOWS, train_counts=COUNTS),
    }
    weights = {"markov": 1.0, "popularity": 0.5}
    together = rank_floors(floors, histories, targets, histories, combinations={"both": weights}, block_size=3)
    alone = {**floors, "both": Combined(parts=floors, weights=weights)}
    assert list(together) == list(alone)
    for name, floor in alone.items():
        ranks = rank_by_scores(floor.scores, histories, targets, histories)
        np.testing.assert_array_equal(together[name].favorable, ranks.favorable)
        np.testing.assert_array_equal(together[name].by_id, ranks.by_id)


@pytest.mark.slow
@pytest.mark.parity
def test_table_of_the_scientific_data_set(shared_data):
    """The rows that need no encoder; figures of the data folder's README, both tie rules within its tolerance."""
    items = read_items(shared_data / "amazon_scientific_items.tsv")
    data = split_sequences(read_sequences(shared_data / "amazon_scientific_users.tsv"), item_order=items.ids)
    titles = align_texts(items, data.item_ids).texts[1:]
    floors = {
        "popularity": Popularity(train_counts=data.train_counts),
        "markov": Markov(windows=data.windows, train_counts=data.train_counts),
        "tfidf": TfidfNeighbors(titles=titles),
    }
    ranks = rank_floors(floors, data.test.histories, data.test.targets, data.test.seen)
    table = {"popularity": (0.0152, 0.0095), "markov": (0.0514, 0.0358), "tfidf": (0.0758, 0.0484)}
    for name, (hit, gain) in table.items():
        metrics = ranking_metrics(ranks[name])
        for suffix in ("", "_ties_by_id"):
            assert metrics[f"hr@10{suffix}"] == pytest.approx(hit, abs=0.002), name
            assert metrics[f"ndcg@10{suffix}"] == pytest.approx(gain, abs=0.002), name
