"""IISAN against its definition in NumPy, its oracles, presence, and what its program does not compute."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module, tree
from erel_jax.adapters import IISAN_LEARNING_RATES, collapse_heads, iisan, side_tower
from erel_jax.errors import ConfigError
from erel_jax.layers import BFLOAT16

K, D, E, R, N = 4, 12, 6, 5, 9
TAPS = {"text": (K, D), "image": (K, D)}
USER_ENCODER = 100_224


def build(**options):
    return iisan(TAPS, embedding=E, bottleneck=R, **options)


def random_params(spec, seed=0):
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(0.3 * draw.normal(size=s.shape), jnp.float32), spec)


def random_states(names=("text", "image"), rows=N, seed=1):
    draw = np.random.default_rng(seed)
    return {name: jnp.asarray(draw.normal(size=(rows, K, D)), jnp.float32) for name in names}


def numpy_block(p, x):
    inner = np.maximum(x @ p["down"]["kernel"] + p["down"]["bias"], 0)
    return x + inner @ p["up"]["kernel"] + p["up"]["bias"]


def numpy_iisan(params, states):
    """The definition, tap by tap, in float64."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    h = {name: np.asarray(s, np.float64) for name, s in states.items()}
    last = {}
    for name in h:
        gates = 1 / (1 + np.exp(-p["intra"][name]["gates"] / 0.1))
        s = np.zeros((len(h[name]), D))
        for k in range(K):
            s = numpy_block(p["intra"][name]["blocks"][str(k)], gates[k] * h[name][:, k] + (1 - gates[k]) * s)
        last[name] = s
    gates = 1 / (1 + np.exp(-p["inter"]["gates"] / 0.1))
    m = np.zeros((len(h["text"]), D))
    for k in range(K):
        mixed = m + gates[k] * h["image"][:, k] + (1 - gates[k]) * h["text"][:, k]
        m = numpy_block(p["inter"]["blocks"][str(k)], mixed)
    last["inter"] = m
    vectors = []
    for name in ("text", "image", "inter"):
        head, x = p["heads"][name], last[name]
        if "hidden" in head:
            x = x @ head["hidden"]["kernel"] + head["hidden"]["bias"]
        vectors.append(x @ head["output"]["kernel"] + head["output"]["bias"])
    return np.concatenate(vectors, 1) @ p["fusion"]["kernel"] + p["fusion"]["bias"]


@pytest.mark.parametrize("head", ["two_affine", "collapsed"])
@pytest.mark.parametrize("rows", [3, 40])
def test_equals_the_definition(head, rows):
    network = build(head=head)
    params, states = random_params(network.spec), random_states(rows=rows)
    expected = numpy_iisan(params, states)
    got = jax.jit(network.apply)(params, states)
    assert got.shape == (rows, E) and got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_gradients_against_finite_differences():
    network = build()
    params, states = random_params(network.spec), random_states(rows=20)
    weights = np.random.default_rng(5).normal(size=(20, E))
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(network.apply(p, states) * jnp.asarray(weights, jnp.float32))))(
        params
    )
    draw = np.random.default_rng(6)
    wide = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    for branch in ("intra/text/gates", "inter/gates", "inter/blocks/2", "intra/image/blocks/0", "heads", "fusion"):
        direction = tree.map_with_path(
            lambda path, a, branch=branch: draw.normal(size=a.shape) * path.startswith(branch), wide
        )
        step = 1e-6
        values = [
            np.sum(numpy_iisan(jax.tree.map(lambda a, d, s=s: a + s * d, wide, direction), states) * weights)
            for s in (step, -step)
        ]
        slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: float(np.sum(np.asarray(g) * d)), gradient, direction)))
        assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3, abs=1e-3), branch


def test_parameter_counts_of_the_paper():
    base = {"text": (7, 768), "image": (7, 768)}
    assert module.count(iisan(base).spec) == 4_113_877 - USER_ENCODER
    assert module.count(iisan({name: (6, 768) for name in base}).spec) == 3_816_466 - USER_ENCODER
    assert module.count(side_tower(1, 768).spec) == 99_136 + 1
    assert module.count(iisan(base, head="collapsed").spec) == 4_113_877 - USER_ENCODER - 3 * (768 * 768 + 768)


def zero_blocks(params):
    def erase(path, p):
        return jnp.zeros_like(p) if "/blocks/" in path or path.startswith("blocks/") else p

    return tree.map_with_path(erase, params)


def test_zero_blocks_give_the_closed_form_of_the_intra_tower():
    tower = side_tower(K, D, R)
    params = zero_blocks(module.init(jax.random.key(0), tower.spec))
    states = random_states()["text"]
    expected = sum(2.0 ** -(K - k) * np.asarray(states[:, k]) for k in range(K))
    np.testing.assert_allclose(tower.apply(params, states), expected, atol=1e-6)


def test_zero_blocks_give_the_closed_form_of_the_inter_tower():
    network = iisan(TAPS, embedding=D, bottleneck=R, head="collapsed")
    params = zero_blocks(module.init(jax.random.key(0), network.spec))
    identity = {"kernel": jnp.eye(D), "bias": jnp.zeros(D)}
    pick = {"kernel": jnp.eye(3 * D)[:, 2 * D :], "bias": jnp.zeros(D)}
    params = {**params, "heads": {name: {"output": identity} for name in params["heads"]}, "fusion": pick}
    states = random_states()
    expected = np.asarray(states["text"] + states["image"]).sum(1) / 2
    np.testing.assert_allclose(network.apply(params, states), expected, atol=1e-5)


def test_blocks_start_near_the_identity():
    tower = side_tower(K, D, R)
    params = module.init(jax.random.key(0), tower.spec)
    states = random_states()["text"]
    drift = tower.apply(params, states) - tower.apply(zero_blocks(params), states)
    assert 0 < float(jnp.max(jnp.abs(drift))) < 0.02
    np.testing.assert_array_equal(params["gates"], 0.0)


def test_collapsed_heads_are_the_same_function():
    network, small = build(), build(head="collapsed")
    params, states = random_params(network.spec), random_states()
    collapsed = collapse_heads(params)
    assert jax.tree.structure(collapsed) == jax.tree.structure(module.abstract(small.spec))
    np.testing.assert_allclose(small.apply(collapsed, states), network.apply(params, states), atol=1e-4)


@pytest.mark.parametrize("name", ["text", "image"])
def test_one_modality_needs_neither_fusion_nor_inter_tower(name):
    network = iisan({name: (K, D)}, embedding=E, bottleneck=R)
    assert set(network.spec) == {"intra", "heads"}
    params, states = random_params(network.spec), random_states((name,))
    tower = side_tower(K, D, R).apply(params["intra"][name], states[name])
    head = params["heads"][name]
    expected = np.asarray(tower) @ np.asarray(head["hidden"]["kernel"]) + np.asarray(head["hidden"]["bias"])
    expected = expected @ np.asarray(head["output"]["kernel"]) + np.asarray(head["output"]["bias"])
    np.testing.assert_allclose(network.apply(params, states), expected, rtol=1e-4, atol=1e-4)


def test_an_absent_modality_is_left_out_exactly():
    network = build()
    params, states = random_params(network.spec), random_states()
    presence = jnp.ones((N, 2), bool).at[0, 1].set(False).at[1, 0].set(False).at[2].set(False)
    poisoned = {
        "text": states["text"].at[1:3].set(jnp.nan),
        "image": states["image"].at[0].set(jnp.nan).at[2].set(jnp.inf),
    }
    apply = jax.jit(network.apply)
    got = apply(params, poisoned, presence)
    full = apply(params, states)
    np.testing.assert_allclose(got[3:], full[3:], atol=1e-5)
    np.testing.assert_array_equal(got[2], 0.0)
    assert np.all(np.isfinite(got)) and not np.allclose(got[0], full[0], atol=1e-3)
    # With one modality the inter tower reads it with weight 1, whatever the gates say.
    alone = {"text": states["text"][:1], "image": states["text"][:1]}
    wide = jax.tree.map(lambda a: np.asarray(a), params)
    wide["heads"]["image"] = jax.tree.map(np.zeros_like, wide["heads"]["image"])
    np.testing.assert_allclose(got[:1], numpy_iisan(wide, alone), rtol=1e-4, atol=1e-4)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(network.apply(p, poisoned, presence) ** 2)))(params)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradient))


def test_presence_may_be_named():
    network = build()
    params, states = random_params(network.spec), random_states()
    presence = jnp.ones((N, 2), bool).at[0, 1].set(False)
    named = {"image": presence[:, 1], "text": presence[:, 0]}
    np.testing.assert_array_equal(network.apply(params, states, presence), network.apply(params, states, named))


def test_first_gate_and_ungated_switches():
    tower = side_tower(1, D, R)
    params = random_params(tower.spec)
    states = random_states()["text"][:, :1]
    block = jax.tree.map(np.asarray, params["blocks"]["0"])
    gate = 1 / (1 + np.exp(-np.asarray(params["gates"])[0] / 0.1))
    h = np.asarray(states[:, 0])
    np.testing.assert_allclose(tower.apply(params, states), numpy_block(block, gate * h), atol=1e-5)
    fed = iisan({"text": (1, D)}, embedding=E, bottleneck=R, first_gate_against_zero=False, head="collapsed")
    given = {"intra": {"text": params}, "heads": {"text": {"output": {"kernel": jnp.eye(D, E), "bias": jnp.zeros(E)}}}}
    np.testing.assert_allclose(fed.apply(given, {"text": states}), numpy_block(block, h)[:, :E], atol=1e-5)
    ungated = iisan(TAPS, embedding=E, bottleneck=R, gated=False)
    assert not [path for path in tree.paths(ungated.spec) if path.endswith("gates")]
    assert ungated.apply(random_params(ungated.spec), random_states()).shape == (N, E)


def test_bfloat16_stays_near_float32():
    wide, half = build(), build(precision=BFLOAT16)
    params, states = module.init(jax.random.key(0), wide.spec), random_states()
    stored = jax.tree.map(lambda s: s.astype(jnp.bfloat16), states)
    reference = wide.apply(params, states)
    np.testing.assert_allclose(half.apply(params, stored), reference, atol=0.02 * float(jnp.max(jnp.abs(reference))))


def test_no_gradient_of_the_stored_states_is_computed():
    states = random_states()

    def products(transformed, network):
        params = module.abstract(network.spec)
        program = jax.jit(lambda p, s: transformed(lambda p, s: jnp.sum(network.apply(p, s) ** 2))(p, s))
        return program.lower(params, states).as_text().count("dot_general")

    def by_parameters(loss):
        return jax.grad(loss)

    def by_both(loss):
        return jax.grad(loss, argnums=(0, 1))

    # Every product forward has two backward. Per tower: two per block; five in the last one, which is composed with
    # the head; two to compose the head itself. One fusion. Gates need every block's input gradient, ungated towers do
    # not need that of their first block.
    blocks, heads, fusion = 3 * 3 * (2 * (K - 1) + 5), 3 * 3 * 2, 3
    assert products(by_parameters, build()) == blocks + heads + fusion
    assert products(by_parameters, build(gated=False)) == blocks + heads + fusion - 3
    assert products(by_both, build(gated=False)) == blocks + heads + fusion


def test_learning_rates_cover_every_parameter_by_the_released_table():
    spec = iisan(TAPS, embedding=E, bottleneck=R).spec
    rates = {}
    for path in tree.paths(spec):
        rates[path] = next(rate for pattern, rate in IISAN_LEARNING_RATES if re.fullmatch(pattern, path))
    assert rates["intra/text/blocks/0/up/kernel"] == rates["inter/blocks/3/down/bias"] == 1e-4
    assert rates["intra/image/gates"] == rates["heads/image/hidden/kernel"] == 1e-4
    assert rates["heads/text/hidden/bias"] == 5e-5
    assert rates["intra/text/gates"] == rates["inter/gates"] == rates["heads/inter/hidden/kernel"] == 2e-4
    assert rates["heads/image/output/kernel"] == rates["fusion/kernel"] == 2e-4


@pytest.mark.parametrize(
    ("build_it", "match"),
    [
        (lambda: iisan({}), "got no modality"),
        (lambda: iisan(TAPS, head="one"), "unknown head 'one'"),
        (lambda: iisan({"text": (4, 8), "image": (4, 12)}), "pass inter=False"),
        (lambda: iisan({"a": (4, 8), "b": (4, 8), "c": (4, 8)}), "pass inter=False"),
        (lambda: iisan(TAPS, activation="rel"), "Did you mean 'relu'"),
        (lambda: iisan(TAPS, gate_temperature=0.0), "gate_temperature=0.0"),
        (lambda: iisan({"text": (0, 8)}), "got 0 taps"),
    ],
)
def test_impossible_networks_are_refused(build_it, match):
    with pytest.raises(ConfigError, match=match):
        build_it()


def test_wrong_inputs_are_named():
    network = build()
    params, states = module.abstract(network.spec), random_states()
    with pytest.raises(ConfigError, match="no states of modality 'image'"):
        network.apply(params, {"text": states["text"]})
    with pytest.raises(ConfigError, match=r"image: got taps of shape \(9, 3, 12\), expected \[N, 4, 12\]"):
        network.apply(params, {**states, "image": states["image"][:, :3]})
    with pytest.raises(ConfigError, match=r"expected \[N, 2\]"):
        network.apply(params, states, jnp.ones((N, 3), bool))
    with pytest.raises(ConfigError, match="presence is given for"):
        network.apply(params, states, {"text": jnp.ones(N, bool)})


def test_unequal_widths_fuse_without_inter_tower():
    network = iisan({"text": (4, 8), "image": (3, 12)}, embedding=E, bottleneck=R, inter=False)
    params = random_params(network.spec)
    states = {"text": jnp.ones((2, 4, 8)), "image": jnp.ones((2, 3, 12))}
    assert network.apply(params, states).shape == (2, E) and "inter" not in network.spec
