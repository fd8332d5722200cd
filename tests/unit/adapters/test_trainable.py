"""Named training sets: their counts on full-size encoders, and splitting."""

import jax
import pytest

from erel_jax import module, tree
from erel_jax.adapters import split, trainable
from erel_jax.encoders import BertConfig, VitConfig, bert, vit
from erel_jax.errors import ConfigError

ENCODERS = {"text": bert(BertConfig(pooling="pooler")).module.spec, "image": vit(VitConfig.base_16()).module.spec}
HEADS_AND_USER_ENCODER = 206_912


def test_bias_tuning_counts_every_bias():
    assert module.count(split(ENCODERS, trainable.BITFIT)[0]) == 412_736 - HEADS_AND_USER_ENCODER == 205_824


def test_full_fine_tuning_leaves_the_pooler_frozen():
    trains, frozen = split(ENCODERS, trainable.FULL)
    assert module.count(trains) == 194_897_216 - HEADS_AND_USER_ENCODER
    assert list(tree.paths(frozen)) == ["text/pooler/bias", "text/pooler/kernel"]


def test_full_also_matches_a_tree_without_pooler():
    trains, frozen = split(ENCODERS["image"], trainable.FULL)
    assert module.count(frozen) == 0 and module.count(trains) == module.count(ENCODERS["image"])


def test_sets_can_be_prefixed():
    towers = {"towers": ENCODERS}
    patterns = [f"towers/text/(?:{pattern})" for pattern in trainable.BITFIT]
    assert module.count(split(towers, patterns)[0]) == 205_824 // 2


def test_exclude_takes_back_and_must_match():
    params = {"a": {"kernel": 1.0, "bias": 2.0}, "b": {"bias": 3.0}}
    trains, frozen = split(params, [".*/bias"], exclude=["b/.*"])
    assert tree.paths(trains) == {"a/bias": 2.0}
    assert tree.paths(frozen) == {"a/kernel": 1.0, "b/bias": 3.0}
    assert tree.merge(trains, frozen) == params
    with pytest.raises(ConfigError, match="matches no parameter"):
        split(params, [".*/bias"], exclude=["c/.*"])


def test_split_works_on_abstract_arrays():
    trains, _ = split(module.abstract(ENCODERS["text"]), trainable.BITFIT)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(trains))
