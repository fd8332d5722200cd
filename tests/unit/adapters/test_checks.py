"""What no adapter can be made of is refused where it is given, not inside a compiled step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module
from erel_jax.adapters import (
    TowerConfig,
    compacter,
    crossan,
    cut_layers,
    dora,
    houlsby,
    ia3,
    iisan,
    join_layers,
    k_adapter,
    lora,
    merge,
    named_method,
    parallel,
    partial_layers,
    tap_states,
    trainable,
    unmerge_ia3,
    vera,
    versa,
)
from erel_jax.encoders import BertConfig, Dinov2Config, bert, dinov2
from erel_jax.errors import ConfigError

ENCODER = bert(BertConfig.tiny())
SPEC = ENCODER.module.spec
NAN = float("nan")
# Values of another kind than the signatures say.
HALF: Any = 2.5
ONE: Any = 2
NOTHING: Any = None
SMALL: Any = np.int64(4)


@pytest.mark.parametrize(
    ("wrap", "match"),
    [
        (lambda: lora(SPEC, ["embeddings/token/table"], rank=2), "embeddings/token/table: got a table"),
        (lambda: houlsby(SPEC, [".*/table"], bottleneck=2), "got a table, expected a kernel"),
        (lambda: lora(SPEC, ".*/kernel", rank=2), r"list of regular expressions: \['\.\*/kernel'\]"),
        (lambda: vera(SPEC, ".*/kernel", rank=2), "list of regular expressions"),
        (lambda: ia3(SPEC, ".*/key/kernel"), "list of regular expressions"),
        (lambda: parallel(SPEC, ".*/mlp"), "list of regular expressions"),
        (lambda: parallel(SPEC, ["(mlp"]), "is not a regular expression"),
        (lambda: parallel(SPEC, scale=NAN), "scale=nan"),
        (lambda: lora(SPEC, trainable.LORA_TARGETS, rank=2, alpha=NAN), "alpha=nan"),
        (lambda: dora(SPEC, trainable.LORA_TARGETS, rank=2, alpha=NAN), "alpha=nan"),
        (lambda: lora(SPEC, trainable.LORA_TARGETS, rank=HALF), "rank=2.5"),
        (lambda: houlsby(SPEC, bottleneck=HALF), "bottleneck=2.5, expected at least 1"),
        (lambda: houlsby(SPEC, activation="mish"), "unknown activation 'mish'"),
        (lambda: compacter(SPEC, bottleneck=4, activation="mish"), "unknown activation 'mish'"),
        (lambda: TowerConfig(gate_temperature=NAN), "gate_temperature=nan"),
        (lambda: TowerConfig(gate_init=NAN), "gate_init=nan"),
        (lambda: TowerConfig(bottleneck=HALF), "bottleneck=2.5"),
        (lambda: iisan({"text": (3, 8)}, embedding=0), "embedding=0"),
        (lambda: crossan({"text": (3, 8), "image": (3, 8)}, embedding=0), "embedding=0"),
        (lambda: versa({"text": (3, 0)}), "width=0"),
        (lambda: k_adapter(ENCODER, states=[1, 1]), "each state once"),
        (lambda: k_adapter(ENCODER, states=ONE), "states=2, expected a list"),
        (lambda: k_adapter(k_adapter(ENCODER)), "k_adapter already"),
        (lambda: partial_layers(ENCODER, True), "top=True of 3 layers"),
        (lambda: partial_layers(partial_layers(ENCODER, 1), 1), "join it first"),
        (lambda: cut_layers({"towers": {}}, 1), "expected an encoder with a stack"),
        (lambda: join_layers({"layers": {}}), "those that cut_layers made"),
        (lambda: tap_states(HALF), "layers=2.5"),
        (lambda: named_method(NOTHING), "unknown method None"),
    ],
)
def test_bad_arguments(wrap, match):
    with pytest.raises(ConfigError, match=match):
        wrap()


def test_a_cut_stack_is_not_cut_again():
    params = module.init(jax.random.key(0), SPEC)
    with pytest.raises(ConfigError, match="cut in layers and top_layers already"):
        cut_layers(cut_layers(params, 1), 1)


def test_a_gate_inside_of_a_fused_kernel_is_found():
    spec = dinov2(Dinov2Config(**{**vars(Dinov2Config.tiny()), "gated": True})).module.spec
    with pytest.raises(ConfigError, match=r"layers/mlp/gate_up/kernel.*gated"):
        parallel(spec)


def test_numpy_integers_are_sizes():
    assert module.count(versa({"text": (3, 8), "image": (3, 8)}, bottleneck=SMALL).spec) > 0
    assert tap_states(SMALL) == (0, 1, 2, 3, 4)


def test_scales_are_divided_out_of_lists_of_layers_too():
    kernel = jnp.arange(1.0, 7.0).reshape(2, 3)
    wrapped = ia3({"value": {"kernel": module.ParamSpec((2, 3), (None, None))}}, [".*"], [])
    filled = module.fill(jax.random.key(0), wrapped, {"value": {"kernel": kernel}})
    scaled = jax.tree.map(lambda x: x * 2.0 if x.ndim == 1 else x, filled)
    params = {"layers": [scaled]}
    restored = unmerge_ia3(merge(params), params)
    assert jax.tree.structure(restored) == jax.tree.structure(params)
    np.testing.assert_allclose(restored["layers"][0]["value"]["kernel"].base, kernel)


def test_scales_beside_other_adapters_are_not_divided_out():
    spec = lora(ia3(SPEC), [".*/attention/query/kernel"], rank=2)
    params = module.init(jax.random.key(0), spec)
    with pytest.raises(ConfigError, match="LowRank kernel, expected Rescaled"):
        unmerge_ia3(merge(params), params)
