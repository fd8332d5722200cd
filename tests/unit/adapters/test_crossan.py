"""CROSSAN and its fusion against their definition in NumPy, item by item with only what the item has."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module
from erel_jax.adapters.crossan import crossan
from erel_jax.adapters.modality_experts import modality_experts, modality_experts_spec, route
from erel_jax.adapters.side_tower import TowerConfig
from erel_jax.errors import ConfigError
from erel_jax.layers import BFLOAT16, FLOAT32

E, R, N = 6, 5, 7
FOUR = {"text": (3, 8), "image": (3, 8), "audio": (3, 8), "video": (3, 8)}
MIXED = {"text": (4, 12), "image": (3, 8), "plot": (4, 12)}
ONE = {"text": (3, 8)}
# Compiling is what these tests cost.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def build(taps, **options):
    return crossan(taps, embedding=E, config=TowerConfig(bottleneck=R), **options)


def random_params(spec, seed=0):
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(0.3 * draw.normal(size=s.shape), jnp.float32), spec)


def random_states(taps, seed=1):
    draw = np.random.default_rng(seed)
    return {name: jnp.asarray(draw.normal(size=(N, *shape)), jnp.float32) for name, shape in taps.items()}


def random_presence(taps):
    """The first item has nothing, the second everything."""
    there = {name: np.random.default_rng(m).random(N) > 0.35 for m, name in enumerate(taps)}
    for name in taps:
        there[name][0], there[name][1] = False, True
    return there


def sigmoid(x):
    return 1 / (1 + np.exp(-x / 0.1))


def numpy_crossan(params, taps, states, there, cross, fusion):
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    names, rows = list(taps), []
    for n in range(N):
        own = {name: np.asarray(states[name][n], np.float64) for name in names if there[name][n]}
        vectors = {}
        for name in own:
            tower = p["towers"][name]
            c = np.zeros(taps[name][1])
            for k in range(taps[name][0]):
                gate = sigmoid(tower["gates"][k])
                x = gate * own[name][k] + (1 - gate) * c
                for other in own if cross else ():
                    at = taps[other][0] - taps[name][0] + k
                    if other == name or at < 0:
                        continue
                    h = own[other][at]
                    if taps[other][1] != taps[name][1]:
                        t = p["transform"][name][other]
                        t = t if "kernel" in t else t[str(k)]
                        h = h @ (t["down"] @ t["up"] if "down" in t else t["kernel"]) + t["bias"]
                    x = x + sigmoid(tower["cross"][k, [n for n in names if n != name].index(other)]) * h
                b = tower["blocks"][str(k)]
                inner = np.maximum(x @ b["down"]["kernel"] + b["down"]["bias"], 0)
                c = x + inner @ b["up"]["kernel"] + b["up"]["bias"]
            vectors[name] = c @ p["heads"][name]["output"]["kernel"] + p["heads"][name]["output"]["bias"]
        rows.append(numpy_fusion(p, names, vectors, fusion) if own else np.zeros(E))
    return np.stack(rows)


def numpy_fusion(p, names, vectors, fusion):
    joined = np.concatenate([vectors.get(name, np.zeros(E)) for name in names])
    if fusion == "concat":
        return joined @ p["fusion"]["kernel"] + p["fusion"]["bias"]
    logits = joined @ p["mixture"]["router"]["kernel"] if "router" in p["mixture"] else np.zeros(1)
    weights = {name: np.exp(logits[names.index(name)] - logits.max()) for name in vectors}
    experts = p["mixture"]["experts"]
    parts = [w * (vectors[n] @ experts[n]["kernel"] + experts[n]["bias"]) for n, w in weights.items()]
    return sum(parts) / sum(weights.values())


@pytest.mark.parametrize(
    ("taps", "options"),
    [
        (FOUR, {}),
        (FOUR, {"cross": False, "fusion": "concat"}),
        (MIXED, {"transform": "full", "fusion": "concat"}),
        (MIXED, {"transform": "low_rank", "transform_rank": 3}),
        (ONE, {}),
    ],
    ids=["four", "no-cross-concat", "unequal", "low-rank", "one"],
)
def test_equals_the_definition_whatever_is_there(taps, options):
    network = build(taps, **options)
    params, states, there = random_params(network.spec), random_states(taps), random_presence(taps)
    cross, fusion = options.get("cross", True), options.get("fusion", "experts")
    presence = {name: jnp.asarray(column) for name, column in there.items()}
    spoiled = {name: jnp.where(presence[name][:, None, None], s, jnp.nan) for name, s in states.items()}
    run = jit(network.apply)
    expected = numpy_crossan(params, taps, states, there, cross, fusion)
    np.testing.assert_allclose(run(params, spoiled, presence), expected, rtol=2e-4, atol=2e-4)
    columns = jnp.stack(list(presence.values()), axis=1)
    np.testing.assert_array_equal(jit(network.apply)(params, spoiled, columns), run(params, spoiled, presence))
    whole = {name: np.ones(N, bool) for name in taps}
    expected = numpy_crossan(params, taps, states, whole, cross, fusion)
    np.testing.assert_allclose(run(params, states), expected, rtol=2e-4, atol=2e-4)


def test_what_was_stored_for_an_absent_modality_reaches_no_gradient():
    network = build(MIXED)
    params, states, there = random_params(network.spec), random_states(MIXED), random_presence(MIXED)
    presence = {name: jnp.asarray(column) for name, column in there.items()}

    def scalar(params, states):
        return jnp.sum(jnp.sin(network.apply(params, states, presence)))

    run = jit(jax.value_and_grad(scalar))
    spoiled = {name: jnp.where(presence[name][:, None, None], s, jnp.nan) for name, s in states.items()}
    (value, gradients), (found, other) = run(params, states), run(params, spoiled)
    assert float(found) == float(value) and np.isfinite(float(value))
    jax.tree.map(np.testing.assert_array_equal, other, gradients)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))


def test_cross_terms_let_modalities_speak_to_each_other():
    """Without them a change of one modality leaves the others' towers alone; the router still sees it."""
    states = random_states(FOUR)
    other = {**states, "audio": states["audio"] + 1}
    for cross in (True, False):
        network = build(FOUR, cross=cross, fusion="concat")
        params = random_params(network.spec)
        # Only the text tower's vector enters the item.
        kernel = params["fusion"]["kernel"].at[E:].set(0.0)
        params = {**params, "fusion": {**params["fusion"], "kernel": kernel}}
        run = jit(network.apply)
        assert (np.abs(run(params, other) - run(params, states)).max() > 1e-3) == cross


def test_the_router_masks_what_is_absent():
    names = ("text", "image", "audio")
    params = random_params(modality_experts_spec(names, E))
    vectors = {
        name: jnp.asarray(np.random.default_rng(m).normal(size=(4, E)), jnp.float32) for m, name in enumerate(names)
    }
    there = {
        name: jnp.asarray(c).reshape(4, 1)
        for name, c in zip(names, np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0]], bool), strict=True)
    }
    kept = {name: jnp.where(there[name], v, 0.0) for name, v in vectors.items()}
    weights = np.asarray(route(params, kept, there, FLOAT32))
    np.testing.assert_allclose(weights.sum(axis=1), [1, 1, 1, 0], atol=1e-6)
    np.testing.assert_array_equal(weights[2], [0, 1, 0])
    assert weights[1, 1] == 0 and (weights[0] > 0).all()
    mixed = np.asarray(modality_experts(params, vectors, there, FLOAT32))
    expert = params["experts"]["image"]
    np.testing.assert_allclose(mixed[2], vectors["image"][2] @ expert["kernel"] + expert["bias"], atol=1e-5)
    assert not mixed[3].any()
    fresh = jax.tree.map(jnp.zeros_like, params)
    np.testing.assert_allclose(route(fresh, vectors, None, FLOAT32), np.full((4, 3), 1 / 3), atol=1e-6)


def test_parameters_are_fewer_than_half_of_iisans():
    """Two towers with one map each: 57 % below IISAN's 4,113,877, as the paper's abstract says of trained ones."""
    count = module.count(crossan({"text": (7, 768), "image": (7, 768)}).spec) + 100_224
    assert count == 2 * 7 * 99_136 + 2 * 7 + 2 * 7 + 2 * (768 * 64 + 64) + 2 * (64 * 64 + 64) + 128 * 2 + 100_224
    assert 1 - count / 4_113_877 >= 0.57


def test_bfloat16_stays_near_float32():
    half, wide = build(FOUR, precision=BFLOAT16), build(FOUR)
    params, states = random_params(wide.spec), random_states(FOUR)
    stored = jax.tree.map(lambda s: s.astype(jnp.bfloat16), states)
    reference = jit(wide.apply)(params, states)
    got = jit(half.apply)(params, stored)
    np.testing.assert_allclose(got, reference, atol=0.03 * float(jnp.max(jnp.abs(reference))))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: crossan({}), "got no modality"),
        (lambda: crossan(FOUR, fusion="expert"), "Did you mean 'experts'"),
        (lambda: crossan(FOUR, transform="ful"), "Did you mean 'full'"),
    ],
)
def test_impossible_networks_are_refused(make, match):
    with pytest.raises(ConfigError, match=match):
        make()


def test_items_are_as_many_in_every_modality_and_in_the_presence():
    taps = {"text": (3, 8), "image": (3, 8)}
    network, states = build(taps), random_states(taps)
    params = random_params(network.spec)
    for presence in (np.ones((1, 2), bool), np.ones((N + 1, 2), bool), {"text": np.ones(N, bool), "image": np.ones(1)}):
        with pytest.raises(ConfigError, match="got presence of shape"):
            network.apply(params, states, presence)
    with pytest.raises(ConfigError, match="presence of dtype float32, expected bool"):
        network.apply(params, states, jnp.full((N, 2), jnp.nan))
    with pytest.raises(ConfigError, match="equally many of each modality"):
        network.apply(params, {**states, "image": states["image"][:1]})
    with pytest.raises(ConfigError, match="states of dtype int8"):
        network.apply(params, {name: jnp.asarray(x, jnp.int8) for name, x in states.items()})
