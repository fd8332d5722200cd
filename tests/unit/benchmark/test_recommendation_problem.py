"""What is refused or remarked before training: modalities that teach nothing, targets that never hit."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from erel_jax.benchmark.config import BenchConfig
from erel_jax.benchmark.recommendation_problem import Problem, _check_modalities, _chosen
from erel_jax.data.item_sources import ItemSources
from erel_jax.data.items import Items
from erel_jax.data.sequence_splits import split_sequences
from erel_jax.data.sequences import read_sequences
from erel_jax.errors import ConfigError, DataError


@pytest.fixture
def sequences(tmp_path):
    (tmp_path / "users.tsv").write_text("u\ta b c d e\nv\tb a d c f\nw\ta b c d a\n")
    return read_sequences(tmp_path / "users.tsv")


def test_a_modality_that_no_training_item_has_is_refused_with_where_it_was_looked_for(sequences):
    split = split_sequences(sequences)
    plots = Items(ids=("zzz",), texts=("story",), source="texts/plot.tsv")
    sources = ItemSources(sequences=sequences, texts={"text": plots, "plot": plots}, images=Path("pictures"))
    there, none = np.ones(split.item_count + 1, bool), np.zeros(split.item_count + 1, bool)
    _check_modalities(split, {"text": there, "plot": there}, sources)
    with pytest.raises(DataError, match=r"has a plot in texts/plot.tsv.*such as 'a'.*--modalities text\.$"):
        _check_modalities(split, {"text": there, "plot": none}, sources)
    with pytest.raises(DataError, match="has a image in pictures") as caught:
        _check_modalities(split, {"image": none}, sources)
    assert "--modalities" not in str(caught.value)
    held_out = np.array([False, *(split.train_counts[1:] == 0)])
    assert held_out.any()
    with pytest.raises(DataError, match="no item that trains has a text"):
        _check_modalities(split, {"text": held_out}, sources)


def test_modalities_without_a_name_are_refused():
    config: Any = SimpleNamespace(modalities=" , ")
    with pytest.raises(ConfigError, match="--modalities got no name, expected some of text, image"):
        _chosen(config, ["text", "image"])


@pytest.mark.parametrize(("last", "said"), [("a", "33% of the users"), ("f", "")])
def test_targets_that_never_hit_are_remarked(tmp_path, last, said):
    (tmp_path / "users.tsv").write_text(f"u\ta b c d e\nv\tb a d c f\nw\ta b c d {last}\n")
    split = split_sequences(read_sequences(tmp_path / "users.tsv"))
    problem = Problem(
        config=BenchConfig(),
        cache=tmp_path,
        sequences=split,
        titles=(),
        towers={},
        tokens={},
        pictures=None,
        presence=np.ones((split.item_count + 1, 1), bool),
        dropped={},
        fingerprint="",
    )
    remarks = " ".join(problem.remarks)
    assert remarks.startswith(said) and bool(remarks) == bool(said)
    assert not said or "more than 0.67 of any metric" in remarks


def test_items_of_which_nothing_is_known_are_remarked(tmp_path):
    (tmp_path / "users.tsv").write_text("u\ta b c d e\n")
    split = split_sequences(read_sequences(tmp_path / "users.tsv"))
    presence = np.ones((split.item_count + 1, 2), bool)
    presence[0] = presence[2] = False
    presence[3, 0] = False
    problem: Any = SimpleNamespace(
        sequences=split, presence=presence, items=split.item_count, towers={"text": None, "image": None}
    )
    (remark,) = Problem.remarks.fget(problem)  # type: ignore[misc]
    assert remark.startswith("1 of 5 items have no text and no image: in training they are neither target nor negative")
