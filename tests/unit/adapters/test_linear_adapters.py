"""DoRA, (IA)³ and VeRA against their definitions in NumPy, on one layer and on a stack, and merging them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module, tree
from erel_jax.adapters import dora, houlsby, ia3, lora, merge, split, trainable, unmerge_ia3, vera
from erel_jax.compression import quantize_spec
from erel_jax.encoders import BertConfig, VitConfig, bert, vit
from erel_jax.errors import ConfigError
from erel_jax.layers import FLOAT32, BlockConfig, dense, run_stack, stack_spec
from erel_jax.layers import block as transformer_block
from erel_jax.module import ParamSpec

CONFIG = BlockConfig(width=8, heads=2, mlp_width=16)
SPEC = {"layers": stack_spec(CONFIG, 3)}
QUERY_VALUE = [".*/attention/(query|value)/kernel"]
WRAPS = {
    "dora": (lambda spec: dora(spec, QUERY_VALUE, rank=2, alpha=3.0), trainable.DORA),
    "ia3": (ia3, trainable.IA3),
    "vera": (lambda spec: vera(spec, QUERY_VALUE, rank=5), trainable.VERA),
}


def drawn(spec, seed=0, scale=0.3):
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray((scale * draw.normal(size=s.shape)).astype(np.float32)), spec)


X = drawn(ParamSpec((2, 3, 8), (None,) * 3), seed=9, scale=1.0)
PARAMS = drawn(SPEC)


@jax.jit
def forward(params, x):
    return run_stack(lambda p, x: transformer_block(CONFIG, FLOAT32, p, x, None), params["layers"], x, layers=3)[0]


@pytest.fixture(scope="module")
def unwrapped():
    return np.asarray(forward(PARAMS, X))


@pytest.fixture(scope="module", params=WRAPS)
def case(request):
    """(name, fresh parameters, parameters with values in every trained leaf, patterns)."""
    wrap, patterns = WRAPS[request.param]
    fresh = module.fill(jax.random.key(0), wrap(SPEC), PARAMS)
    chosen = tree.select(tree.paths(fresh), patterns)
    draw = np.random.default_rng(4)

    def move(path, leaf):
        return leaf + (0.3 * draw.normal(size=leaf.shape)).astype(np.float32) if path in chosen else leaf

    return request.param, fresh, tree.map_with_path(move, fresh), patterns


def test_starts_unchanged(case, unwrapped):
    np.testing.assert_allclose(forward(case[1], X), unwrapped, atol=1e-6)


def test_merge_gives_plain_kernels_with_the_same_function(case, unwrapped):
    name, _, trained, _ = case
    merged = merge(trained)
    assert jax.tree.structure(merged) == jax.tree.structure(PARAMS)
    np.testing.assert_allclose(forward(merged, X), forward(trained, X), atol=1e-5)
    assert np.abs(np.asarray(forward(trained, X)) - unwrapped).max() > 1e-2, name


def test_gradients_exist_for_what_trains_alone(case):
    name, _, trained, patterns = case
    trains, frozen = split(trained, patterns)
    gradient = jax.jit(jax.grad(lambda t: jnp.sum(forward(tree.merge(t, frozen), X) ** 2)))(trains)
    found = tree.paths(gradient)
    assert len(found) == {"dora": 6, "ia3": 3, "vera": 4}[name]
    assert all(np.isfinite(g).all() and np.abs(g).max() > 1e-6 for g in found.values())


def one_layer(wrap):
    spec = {"kernel": ParamSpec((8, 6), ("embed", "mlp")), "bias": ParamSpec((6,), ("mlp",))}
    params = drawn(wrap(spec), seed=3)
    return params, {k: np.asarray(v, np.float64) for k, v in tree.paths(params).items()}


def test_dora_is_its_definition():
    params, p = one_layer(lambda spec: dora(spec, ["kernel"], rank=2, alpha=3.0))
    got = jax.jit(dense)(X, params["kernel"], params["bias"])
    direction = p["kernel/base"] + 1.5 * p["kernel/a"] @ p["kernel/b"]
    magnitude = np.linalg.norm(p["kernel/base"], axis=0) + p["kernel/magnitude_shift"]
    weight = magnitude * direction / np.linalg.norm(direction, axis=0)
    np.testing.assert_allclose(got, np.asarray(X) @ weight + p["bias"], atol=1e-5)


def test_doras_norm_takes_no_gradient():
    """The gradient of B is that of a model whose norm is a constant."""
    params, p = one_layer(lambda spec: dora(spec, ["kernel"], rank=2, alpha=3.0))
    trains, frozen = split(params, ["kernel/(a|b|magnitude_shift)"])

    def total(t):
        whole = tree.merge(t, frozen)
        return jnp.sum(dense(X, whole["kernel"], whole["bias"]))

    gradient = jax.jit(jax.grad(total))(trains)["kernel"]
    direction = p["kernel/base"] + 1.5 * p["kernel/a"] @ p["kernel/b"]
    norm, x = np.linalg.norm(direction, axis=0), np.asarray(X).reshape(-1, 8)
    gain = (np.linalg.norm(p["kernel/base"], axis=0) + p["kernel/magnitude_shift"]) / norm
    expected_b = 1.5 * (x @ p["kernel/a"]).T @ np.broadcast_to(gain, (len(x), 6))
    np.testing.assert_allclose(gradient.b, expected_b, atol=1e-4)
    np.testing.assert_allclose(gradient.magnitude_shift, (x @ direction).sum(0) / norm, atol=1e-4)


def test_dora_survives_a_zero_column():
    params, _ = one_layer(lambda spec: dora(spec, ["kernel"], rank=2))
    kernel = jax.tree.map(jnp.zeros_like, params["kernel"])
    np.testing.assert_array_equal(jax.jit(dense)(X, kernel, params["bias"])[0, 0], params["bias"])


def test_ia3_scales_outputs_with_their_bias_and_inputs():
    params, p = one_layer(lambda spec: ia3(spec, ["kernel"], []))
    got = jax.jit(dense)(X, params["kernel"], params["bias"])
    expected = (np.asarray(X) @ p["kernel/base"] + p["bias"]) * p["kernel/output_scale"]
    np.testing.assert_allclose(got, expected, atol=1e-5)
    params, p = one_layer(lambda spec: ia3(spec, [], ["kernel"]))
    got = jax.jit(dense)(X, params["kernel"], params["bias"])
    expected = (np.asarray(X) * p["kernel/input_scale"]) @ p["kernel/base"] + p["bias"]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_ia3_unmerges():
    trained = drawn(ia3(SPEC), seed=5)
    back = unmerge_ia3(merge(trained), trained)
    assert jax.tree.structure(back) == jax.tree.structure(trained)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), back, trained)
    erased = tree.map_with_path(lambda path, p: p * 0 if path.endswith("output_scale") else p, trained)
    with pytest.raises(ConfigError, match="scale is zero"):
        unmerge_ia3(merge(erased), erased)


def test_vera_is_its_definition_and_shares_its_random_factors():
    params, p = one_layer(lambda spec: vera(spec, ["kernel"], rank=5))
    got = jax.jit(dense)(X, params["kernel"], params["bias"])
    weight = p["kernel/base"] + (p["kernel/a"] * p["kernel/inner"]) @ p["kernel/b"] * p["kernel/outer"]
    np.testing.assert_allclose(got, np.asarray(X) @ weight + p["bias"], atol=1e-5)

    spec = {"wide": {"kernel": ParamSpec((3, 40, 4), ("layers", "embed", "mlp"))}}
    spec["narrow"] = {"kernel": ParamSpec((6, 30), ("embed", "mlp"))}
    made = module.init(jax.random.key(7), vera(spec, [".*/kernel"], rank=50))
    wide, narrow = made["wide"]["kernel"], made["narrow"]["kernel"]
    np.testing.assert_array_equal(wide.a[1, :6], narrow.a)
    np.testing.assert_array_equal(wide.b[2], narrow.b[:, :4])
    np.testing.assert_array_equal(wide.inner, np.full((3, 50), 0.1, np.float32))
    assert float(jnp.std(wide.a[0])) == pytest.approx(np.sqrt(6 / 40 / 3), rel=0.05)
    assert float(jnp.std(narrow.b)) == pytest.approx(np.sqrt(6 / 50 / 3), rel=0.05)


def test_counts_on_full_size_encoders():
    specs = {"text": bert(BertConfig()).module.spec, "image": vit(VitConfig.base_16()).module.spec}
    counts = {
        "dora": (dora(specs, trainable.LORA_TARGETS, rank=8), trainable.DORA, 48 * (8 * 1536 + 768)),
        "ia3": (ia3(specs), trainable.IA3, 24 * (768 + 768 + 3072)),
        "vera": (vera(specs, trainable.LORA_TARGETS), trainable.VERA, 48 * (256 + 768)),
    }
    for name, (wrapped, patterns, expected) in counts.items():
        assert module.count(split(wrapped, patterns)[0]) == expected, name


def test_adapters_on_one_kernel_merge_together():
    spec = {"kernel": ParamSpec((8, 6), ("embed", "mlp")), "bias": ParamSpec((6,), ("mlp",))}
    params = drawn(dora(ia3(lora(spec, ["kernel"], rank=2), ["kernel"], []), ["kernel"], rank=1), seed=6)
    merged = merge(params)
    apply = jax.jit(dense)
    got = apply(X, merged["kernel"], merged["bias"])
    # (IA)³ below DoRA scales the bias, DoRA's magnitude does not.
    np.testing.assert_allclose(got, apply(X, params["kernel"], params["bias"]), atol=1e-5)


def test_what_cannot_be_merged():
    with pytest.raises(ConfigError, match=r"layers/attention/query/kernel: cannot merge.*Quantized"):
        merge(dora(quantize_spec(SPEC), QUERY_VALUE, rank=2))
    with pytest.raises(ConfigError, match=r"cannot merge.*Bottleneck"):
        merge(houlsby(SPEC, bottleneck=2))


def test_dora_over_int8_is_dora_over_the_widened_kernel():
    spec = {"kernel": ParamSpec((8, 6), ("embed", "mlp"))}
    quantized = drawn({"kernel": quantize_spec(spec, ["kernel"], dynamic=False)["kernel"]})["kernel"]
    codes = np.random.default_rng(0).integers(-127, 128, (8, 6)).astype(np.int8)
    params = drawn(dora(spec, ["kernel"], rank=2), seed=3)["kernel"]
    base = dataclasses.replace(quantized, values=jnp.asarray(codes))
    widened = dataclasses.replace(params, base=jnp.asarray(codes * np.asarray(base.scale), jnp.float32))
    apply = jax.jit(dense)
    got = apply(X, dataclasses.replace(params, base=base))
    np.testing.assert_allclose(got, apply(X, widened), atol=1e-3, rtol=1e-5)


def test_bad_arguments():
    with pytest.raises(ConfigError, match="in both lists"):
        ia3(SPEC, [".*/mlp/down/kernel"], [".*/mlp/down/kernel"])
    for wrap in (dora, vera):
        with pytest.raises(ConfigError, match="rank=0"):
            wrap(SPEC, QUERY_VALUE, rank=0)
        with pytest.raises(ConfigError, match="matches no parameter"):
            wrap(SPEC, ["quer/kernel"])
