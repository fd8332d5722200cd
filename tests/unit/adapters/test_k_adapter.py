"""A K-adapter against NumPy, and what stays as it was."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module, tree
from erel_jax.adapters import k_adapter, split, trainable
from erel_jax.encoders import AstConfig, BertConfig, VitConfig, ast, bert, vit
from erel_jax.encoders.example_inputs import example_inputs
from erel_jax.errors import ConfigError
from erel_jax.profiling import count_flops

TEXT = bert(BertConfig.tiny("mean"))
ADAPTED = k_adapter(TEXT, states=(0, 2), bottleneck=8, blocks=1)
INPUTS = example_inputs(TEXT, 3, 7)
QUICK = {"xla_backend_optimization_level": 0}


def drawn(spec, seed=1):
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray((0.3 * draw.normal(size=s.shape)).astype(np.float32)), spec)


def run(encoder, params, inputs=INPUTS, **options):
    apply = jax.jit(lambda p: encoder.module.apply(p, inputs, **options), compiler_options=QUICK)
    return jax.device_get(apply(params))


def affine(params, x):
    return x @ params["kernel"] + params["bias"]


def norm(params, x):
    scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    return scaled * params["scale"] + params["bias"]


def transformer_block(params, x, mask, heads):
    """A BERT layer on [B, L, R]."""
    attention = params["attention"]
    query, key, value = (affine(attention[name], x) for name in ("query", "key", "value"))
    mixed = np.zeros_like(x)
    size = x.shape[-1] // heads
    for row, head in np.ndindex(len(x), heads):
        part = slice(head * size, (head + 1) * size)
        weights = np.exp(query[row, :, part] @ key[row, :, part].T / math.sqrt(size)) * mask[row]
        mixed[row, :, part] = weights / weights.sum(-1, keepdims=True) @ value[row, :, part]
    x = norm(params["attention_norm"], x + affine(attention["output"], mixed))
    hidden = affine(params["mlp"]["up"], x)
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    return norm(params["mlp_norm"], x + affine(params["mlp"]["down"], hidden))


def test_against_numpy():
    params = drawn(ADAPTED.module.spec)
    rest = {name: branch for name, branch in params.items() if name != "k_adapter"}
    states = run(TEXT, rest, hidden_states=True).hidden_states
    own = jax.tree.map(lambda x: np.asarray(x, np.float64), params["k_adapter"])
    given = 0.0
    for state in (0, 2):
        part, read = own[f"state_{state}"], states[state] + given
        one = jax.tree.map(lambda x: x[0], part["layers"])
        given = read + affine(part["up"], transformer_block(one, affine(part["down"], read), INPUTS["mask"], 4))
    tokens = affine(own["join"], np.concatenate([states[3], given], axis=-1))
    got = run(ADAPTED, params, tokens=True, hidden_states=True, taps=(1, 3))
    np.testing.assert_allclose(got.tokens, tokens, rtol=1e-5, atol=1e-5)
    mean = (tokens * INPUTS["mask"][..., None]).sum(1) / INPUTS["mask"].sum(1, keepdims=True)
    np.testing.assert_allclose(got.embedding, mean, rtol=1e-5, atol=1e-5)
    # Taps and hidden states are the encoder's own.
    np.testing.assert_allclose(got.hidden_states, states, atol=1e-6)
    assert got.taps.shape == (3, 2, 16) and np.abs(got.embedding - got.taps[:, 1]).max() > 0.1


@pytest.mark.parametrize(
    "encoder",
    [
        pytest.param(TEXT, id="bert", marks=pytest.mark.slow),
        pytest.param(vit(VitConfig.tiny()), id="vit"),
        pytest.param(ast(AstConfig.tiny()), id="ast", marks=pytest.mark.slow),
    ],
)
def test_starts_unchanged_and_every_part_can_learn(encoder):
    params = drawn(encoder.module.spec)
    adapted = k_adapter(encoder)
    filled = module.fill(jax.random.key(0), adapted.module.spec, params)
    inputs = example_inputs(encoder, 2)
    plain = run(encoder, params, inputs, tokens=True)
    np.testing.assert_allclose(run(adapted, filled, inputs, tokens=True).tokens, plain.tokens, atol=1e-6)
    trains, frozen = split(drawn(adapted.module.spec, 2), trainable.K_ADAPTER)

    def total(t, frozen):
        return jnp.sum(jnp.sin(adapted.module.apply(tree.merge(t, frozen), inputs).embedding))

    gradients = tree.paths(jax.jit(jax.grad(total), compiler_options=QUICK)(trains, frozen))
    for path, leaf in gradients.items():
        assert np.isfinite(leaf).all() and (path.endswith("key/bias") or np.abs(leaf).max() > 1e-8), path
    # A quarter of the width inside, two adapters of two blocks.
    assert adapted.module.spec["k_adapter"]["state_0"]["layers"]["mlp"]["up"]["kernel"].shape == (2, 4, 16)


def test_no_backward_pass_runs_through_the_encoder():
    """A step costs the encoder's forward pass and three times that of the adapter's."""
    params = module.abstract(ADAPTED.module.spec)
    trains, frozen = split(params, trainable.K_ADAPTER)

    def loss(t, frozen):
        return jnp.sum(ADAPTED.module.apply(tree.merge(t, frozen), INPUTS).embedding ** 2)

    step = count_flops(jax.grad(loss), trains, frozen).total
    forward = count_flops(loss, trains, frozen).total
    rest = {name: branch for name, branch in params.items() if name != "k_adapter"}
    tower = count_flops(lambda p: TEXT.module.apply(p, INPUTS).embedding, rest).total
    assert step < tower + 3.1 * (forward - tower)


def test_taps_alone_run_no_adapter():
    params = module.abstract(ADAPTED.module.spec)
    both = [
        count_flops(lambda p, e=e: e.module.apply(p, INPUTS, taps=(1,), embedding=False).taps, params).total
        for e in (ADAPTED, TEXT)
    ]
    assert both[0] == both[1]


def test_what_is_refused():
    with pytest.raises(ConfigError, match=r"taps \(4,\).*0 .*to 3"):
        k_adapter(TEXT, states=(4,))
    with pytest.raises(ConfigError, match="bottleneck=0 and blocks=2"):
        k_adapter(TEXT, bottleneck=0)
