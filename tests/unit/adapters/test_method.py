"""The table of methods."""

import jax
import pytest

from erel_jax import module, tree
from erel_jax.adapters import METHODS, Method, named_method
from erel_jax.encoders import BertConfig, bert
from erel_jax.errors import ConfigError

SPEC = bert(BertConfig.tiny("pooler")).module.spec


def test_names_are_found_and_typos_are_answered_with_the_nearest():
    assert all(named_method(name) is method and method.name == name for name, method in METHODS.items())
    with pytest.raises(ConfigError, match=r"Did you mean 'lora'.*iisan_cached"):
        named_method("lroa")


def test_cached_methods_are_those_that_read_stored_states():
    assert {name for name, method in METHODS.items() if method.cached} == {"frozen", "linear_probe", "iisan_cached"}
    assert Method(name="x", summary="x", reads="taps").cached
    assert not Method(name="x", summary="x", reads="inputs").cached


@pytest.mark.parametrize("name", METHODS)
def test_rewriting_only_adds(name):
    """Every parameter of the tower keeps its place, so pretrained weights fit."""
    method = METHODS[name]
    rewritten = tree.paths(method.rewrite(SPEC))
    shapes = {module.canonical(path): leaf.shape for path, leaf in rewritten.items()}
    assert all(shapes[path] == leaf.shape for path, leaf in tree.paths(SPEC).items())
    added = len(rewritten) - len(jax.tree.leaves(SPEC))
    # Query and value kernels get two factors each; two kernels per layer get two weights and two biases each.
    assert added == {"lora": 4, "rslora": 4, "houlsby": 8}.get(name, 0)


def test_rank_and_scale_of_the_two_low_rank_methods():
    for name, rank, scale in (("lora", 8, 1.0), ("rslora", 16, 4.0)):
        spec = METHODS[name].rewrite(SPEC)
        kernel = spec["layers"]["attention"]["query"]["kernel"]
        assert kernel.a.shape[-1] == rank and kernel.b.shape[-2] == rank and kernel.scale == pytest.approx(scale)
