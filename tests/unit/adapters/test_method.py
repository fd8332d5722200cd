"""The table of methods."""

import jax
import jax.numpy as jnp
import pytest

from erel_jax import module, tree
from erel_jax.adapters import METHODS, Method, named_method
from erel_jax.encoders import BertConfig, bert
from erel_jax.errors import ConfigError
from erel_jax.layers import FLOAT32

ENCODER = bert(BertConfig.tiny("pooler"))
SPEC = ENCODER.module.spec


def adapted(method):
    """The spec of a tower as the method has it, and what it keeps of pretrained parameters."""
    spec = method.rewrite(method.rebuild(ENCODER, FLOAT32).module.spec)
    return spec, method.convert(jax.tree.map(lambda s: jnp.zeros(s.shape), SPEC))


def test_names_are_found_and_typos_are_answered_with_the_nearest():
    assert all(named_method(name) is method and method.name == name for name, method in METHODS.items())
    with pytest.raises(ConfigError, match=r"Did you mean 'lora'.*iisan_cached"):
        named_method("lroa")


def test_cached_methods_are_those_that_read_stored_states():
    side = {"iisan_cached", "versa_cached", "crossan_cached"}
    assert {name for name, method in METHODS.items() if method.cached} == {"frozen", "linear_probe", *side}
    assert {name: METHODS[name].side for name in side} == {name: name.removesuffix("_cached") for name in side}
    assert Method(name="x", summary="x", reads="taps").cached
    assert not Method(name="x", summary="x", reads="inputs").cached


@pytest.mark.parametrize("name", METHODS)
def test_rewriting_only_adds(name):
    """Every parameter of the tower keeps its place, so pretrained weights fit."""
    method = METHODS[name]
    spec, kept = adapted(method)
    rewritten = tree.paths(spec)
    leaves = {module.canonical(path): (leaf.shape, leaf.dtype) for path, leaf in rewritten.items()}
    assert all(leaves[path] == (leaf.shape, leaf.dtype) for path, leaf in tree.paths(kept).items())
    added = len(rewritten) - len(jax.tree.leaves(kept))
    # Query and value kernels get two factors each (and a magnitude, or two scales); a bottleneck is two weights and two
    # biases, a Kronecker matrix three factors instead of a weight.
    assert added == {
        "lora": 4, "rslora": 4, "houlsby": 8, "dora": 6, "ia3": 3, "vera": 8, "pfeiffer": 4, "parallel": 4,
        "compacter": 16, "prompt_tuning": 1, "prefix_tuning": 2,
        "qlora_int8": 4, "qlora_nf4": 4, "k_adapter": 42,
    }.get(name, 0)  # fmt: skip


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.trains])
def test_what_is_new_trains_and_random_factors_do_not(name):
    method = METHODS[name]
    spec, kept = adapted(method)
    spec = {"towers": {"text": spec}}
    trains = tree.paths(tree.partition(spec, [f"towers/[^/]+/(?:{pattern})" for pattern in method.trains])[0])
    kept = {f"towers/text/{path}" for path in tree.paths(kept)}
    new = {path for path in tree.paths(spec) if module.canonical(path) not in kept}
    assert {path for path in new if path not in trains} == {
        path for path in new if name == "vera" and path.endswith(("/a", "/b"))
    }


def test_lit_locks_every_tower_but_the_text():
    spec = {"towers": {"text": SPEC, "image": SPEC}}
    patterns = [f"towers/[^/]+/(?:{pattern})" for pattern in METHODS["lit"].trains]
    trains, frozen = tree.partition(spec, patterns)
    assert not jax.tree.leaves(trains["towers"]["image"])
    assert set(tree.paths(frozen["towers"]["text"])) == {"pooler/kernel", "pooler/bias"}


def test_rank_and_scale_of_the_two_low_rank_methods():
    for name, rank, scale in (("lora", 8, 1.0), ("rslora", 16, 4.0)):
        spec = METHODS[name].rewrite(SPEC)
        kernel = spec["layers"]["attention"]["query"]["kernel"]
        assert kernel.a.shape[-1] == rank and kernel.b.shape[-2] == rank and kernel.scale == pytest.approx(scale)
