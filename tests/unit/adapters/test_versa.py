"""IISAN-Versa: the table's counts, the definition in NumPy, and IISAN as its special case."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module, tree
from erel_jax.adapters.iisan import IISAN_LEARNING_RATES, iisan
from erel_jax.adapters.side_tower import TowerConfig
from erel_jax.adapters.taps import tap_states
from erel_jax.adapters.versa import narrowest, versa
from erel_jax.errors import ConfigError

USER_ENCODER = 100_224
# Compiling is what these tests cost.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
E, R, N = 6, 5, 9
UNEQUAL = {"text": (4, 12), "image": (3, 8)}
THREE = {"text": (4, 12), "plot": (4, 8), "image": (3, 8)}


def random_params(spec, seed=0):
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(0.3 * draw.normal(size=s.shape), jnp.float32), spec)


def random_states(taps, seed=1):
    draw = np.random.default_rng(seed)
    return {name: jnp.asarray(draw.normal(size=(N, *shape)), jnp.float32) for name, shape in taps.items()}


@pytest.mark.parametrize(
    ("text", "image", "count"),
    [
        ((7, 768), (7, 768), 2_941_013),
        ((7, 4096), (7, 768), 28_184_661),
        ((7, 8192), (7, 768), 54_165_589),
        ((7, 8192), (7, 192), 19_463_893),
        ((7, 8192), (7, 5120), 337_802_837),
    ],
)
def test_parameter_counts_of_the_table(text, image, count):
    assert module.count(versa({"text": text, "image": image}).spec) + USER_ENCODER == count


def test_cheaper_transforms_count_what_they_should():
    """Seven maps of 8192 × 768 are most of the full form."""
    taps = {"text": (7, 8192), "image": (7, 768)}
    counts = {name: module.count(versa(taps, transform=name).spec) for name in ("full", "shared", "low_rank")}
    one = 8192 * 768 + 768
    assert counts["full"] - counts["shared"] == 6 * one
    assert counts["full"] - counts["low_rank"] == 7 * (8192 * 768 - 64 * (8192 + 768))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (12, "1,3,5,7,9,11"),
        (24, "3,7,11,15,19,23"),
        (28, "2,7,12,17,22,27"),
        (32, "1,7,13,19,25,31"),
        (48, "2,11,20,29,38,47"),
        (80, "4,19,34,49,64,79"),
    ],
)
def test_taps_are_the_released_lists(layers, expected):
    assert tap_states(layers) == (0, *(int(layer) + 1 for layer in expected.split(",")))


def test_equal_widths_and_tap_counts_are_the_iisan_towers():
    taps = {"text": (4, 8), "image": (4, 8)}
    network = versa(taps, embedding=E, bottleneck=R)
    other = iisan(taps, embedding=E, bottleneck=R, head="collapsed")
    params, states = random_params(network.spec), random_states(taps)
    heads = {}
    for name, head in params["heads"].items():
        kernel = head["hidden"]["kernel"] @ head["output"]["kernel"]
        bias = head["hidden"]["bias"] @ head["output"]["kernel"] + head["output"]["bias"]
        heads[name] = {"output": {"kernel": kernel, "bias": bias}}
    same = {**params, "heads": heads}
    assert jax.tree.structure(same) == jax.tree.structure(other.spec)
    presence = jnp.asarray(np.random.default_rng(2).random((N, 2)) > 0.4)
    for there in (None, presence):
        got, expected = jit(network.apply)(params, states, there), jit(other.apply)(same, states, there)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def numpy_block(p, x):
    return x + np.maximum(x @ p["down"]["kernel"] + p["down"]["bias"], 0) @ p["up"]["kernel"] + p["up"]["bias"]


def numpy_tower(p, taps):
    gates, s = 1 / (1 + np.exp(-p["gates"] / 0.1)), np.zeros_like(taps[:, 0])
    for k in range(taps.shape[1]):
        s = numpy_block(p["blocks"][str(k)], gates[k] * taps[:, k] + (1 - gates[k]) * s)
    return s


def numpy_map(p, x, k):
    p = p if "kernel" in p else p[str(k)]
    return x @ (p["down"] @ p["up"] if "down" in p else p["kernel"]) + p["bias"]


def numpy_versa(params, states, there):
    """Item by item, with only the modalities that the item has."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    order = sorted(states, key=lambda name: name != "image")
    steps, rows = len(p["inter"]["blocks"]), []
    for n in range(N):
        own = {name: np.asarray(s[n : n + 1], np.float64) for name, s in states.items() if there[name][n]}
        last = {name: numpy_tower(p["intra"][name], taps) for name, taps in own.items()}
        m = np.zeros((1, len(p["inter"]["blocks"]["0"]["up"]["bias"])))
        for k in range(steps):
            logits = np.append(np.atleast_1d(p["inter"]["gates"][k]), 0.0) / 0.1
            weights = {name: np.exp(logits[order.index(name)] - logits.max()) for name in own}
            for name, taps in own.items():
                h = taps[:, taps.shape[1] - steps + k]
                h = numpy_map(p["transform"][name], h, k) if name in p["transform"] else h
                m = m + weights[name] / sum(weights.values()) * h
            m = numpy_block(p["inter"]["blocks"][str(k)], m)
        last["inter"] = m
        parts = []
        for name in (*states, "inter"):
            if name in own or (name == "inter" and own):
                h = p["heads"][name]
                x = last[name] @ h["hidden"]["kernel"] + h["hidden"]["bias"]
                parts.append((x @ h["output"]["kernel"] + h["output"]["bias"])[0])
            else:
                parts.append(np.zeros(E))
        fused = np.concatenate(parts) @ p["fusion"]["kernel"] + p["fusion"]["bias"]
        rows.append(fused if own else np.zeros(E))
    return np.stack(rows)


@pytest.mark.parametrize(
    ("taps", "transform"), [(UNEQUAL, "full"), (UNEQUAL, "low_rank"), (THREE, "shared")], ids=["full", "low", "shared"]
)
def test_equals_the_definition_whatever_is_there(taps, transform):
    network = versa(taps, embedding=E, bottleneck=R, transform=transform, transform_rank=3)
    params, states = random_params(network.spec), random_states(taps)
    there = {name: np.random.default_rng(m).random(N) > 0.35 for m, name in enumerate(taps)}
    for name in taps:
        there[name][0], there[name][1] = False, True
    presence = {name: jnp.asarray(column) for name, column in there.items()}
    spoiled = {name: jnp.where(presence[name][:, None, None], s, jnp.nan) for name, s in states.items()}
    got = jit(network.apply)(params, spoiled, presence)
    np.testing.assert_allclose(got, numpy_versa(params, states, there), rtol=2e-4, atol=2e-4)
    whole = {name: np.ones(N, bool) for name in taps}
    np.testing.assert_allclose(
        jit(network.apply)(params, states), numpy_versa(params, states, whole), rtol=2e-4, atol=2e-4
    )


def test_bottlenecks_are_each_modalitys_own_and_the_joint_towers_that_of_the_narrowest():
    spec = versa(UNEQUAL, bottleneck={"text": 3, "image": 5}).spec
    assert spec["intra"]["text"]["blocks"]["0"]["down"]["kernel"].shape == (12, 3)
    assert spec["inter"]["blocks"]["2"]["down"]["kernel"].shape == (8, 5) and len(spec["inter"]["blocks"]) == 3
    assert set(spec["transform"]) == {"text"} and spec["transform"]["text"]["0"]["kernel"].shape == (12, 8)
    assert narrowest({"image": (1, 8), "text": (1, 8)}) == "text" and narrowest(UNEQUAL) == "image"


def test_released_rates_cover_every_parameter():
    rates = {}
    for path in tree.paths(versa(UNEQUAL).spec):
        rates[path] = next(rate for pattern, rate in IISAN_LEARNING_RATES if re.fullmatch(pattern, path))
    assert rates["transform/text/0/kernel"] == rates["heads/text/output/kernel"] == rates["inter/gates"] == 2e-4
    assert rates["heads/inter/hidden/bias"] == rates["heads/image/output/bias"] == rates["intra/text/gates"] == 2e-4
    assert rates["heads/image/hidden/kernel"] == rates["intra/image/gates"] == rates["inter/blocks/0/up/bias"] == 1e-4
    assert rates["heads/text/hidden/kernel"] == 5e-5


def test_switches_change_what_they_name():
    params, states = random_params(versa(UNEQUAL, embedding=E, bottleneck=R).spec), random_states(UNEQUAL)
    configs = (TowerConfig(), TowerConfig(inter_additive=False), TowerConfig(first_gate_against_zero=False))
    results = [
        np.asarray(jit(versa(UNEQUAL, embedding=E, bottleneck=R, config=config).apply)(params, states))
        for config in configs
    ]
    assert all(np.abs(one - results[0]).max() > 1e-3 for one in results[1:])
    ungated = versa(UNEQUAL, embedding=E, bottleneck=R, config=TowerConfig(gated=False))
    assert not [path for path in tree.paths(ungated.spec) if "gates" in path]
    assert ungated.apply(random_params(ungated.spec), states, jnp.ones((N, 2), bool)).shape == (N, E)
    alone = versa(UNEQUAL, inter=False)
    assert "inter" not in alone.spec and "transform" not in alone.spec
    single = versa({"text": (2, 8)}, embedding=E, bottleneck=R)
    assert "fusion" not in single.spec and "inter" not in single.spec


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: versa({}), "got no modality"),
        (lambda: versa(UNEQUAL, transform="low-rank"), "Did you mean 'low_rank'"),
        (lambda: versa(UNEQUAL, transform_rank=0), "transform_rank=0"),
        (lambda: versa(UNEQUAL, bottleneck={"text": 3}), "expected one for each of"),
    ],
)
def test_impossible_networks_are_refused(build, match):
    with pytest.raises(ConfigError, match=match):
        build()
