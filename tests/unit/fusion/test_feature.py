"""Feature fusion: presence and padding are exact, whatever stands there; contracts of a module; bad input."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module, sharding
from erel_jax.errors import ConfigError
from erel_jax.fusion import FeatureFusionConfig, feature_fusion
from erel_jax.fusion.feature import distance_buckets

BATCH, LENGTHS, WIDTHS = 8, (7, 5, 4), (12, 16, 16)
CONFIG = FeatureFusionConfig(
    widths=WIDTHS, width=16, heads=2, head_width=10, mlp_width=24, buckets=8, far=12, projection=6
)
FUSION = feature_fusion(CONFIG)
quick = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
apply = quick(FUSION.apply)


@pytest.fixture(scope="module")
def params():
    drawn = module.init(jax.random.key(0), FUSION.spec)
    # Norms and distances that are no longer where they start.
    return jax.tree.map(lambda p: p + 0.1 * jnp.sin(7.0 * jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), drawn)


@pytest.fixture(scope="module")
def example():
    """Tokens, masks and presence; every combination of modalities occurs, none at all in row 0."""
    rng = np.random.default_rng(1)
    tokens = [
        rng.standard_normal((BATCH, size, width), np.float32) for size, width in zip(LENGTHS, WIDTHS, strict=True)
    ]
    real = [1 + rng.integers(0, size, BATCH) for size in LENGTHS]
    masks = [np.arange(size)[None, :] < count[:, None] for size, count in zip(LENGTHS, real, strict=True)]
    present = (np.arange(BATCH)[:, None] >> np.arange(3)[None, :]) % 2 == 1
    return tokens, masks, present


def test_each_row_is_the_fusion_of_what_it_has(params, example):
    """Every row against a module that was built for its modalities alone, without padding."""
    tokens, masks, present = example
    together = np.asarray(apply(params, tokens, masks, present))
    for row in (0, 1, 4, 5, 7):  # none, each end alone, the two around the middle, all
        chosen = np.flatnonzero(present[row])
        if not len(chosen):
            np.testing.assert_array_equal(together[row], 0)
            continue
        alone = feature_fusion(
            FeatureFusionConfig(
                widths=tuple(WIDTHS[m] for m in chosen), width=16, heads=2, head_width=10, mlp_width=24, buckets=8,
                far=12, projection=6,
            )
        )  # fmt: skip
        kernels = {str(i): params["inputs"][str(m)] for i, m in enumerate(chosen) if str(m) in params["inputs"]}
        mine = {name: value for name, value in params.items() if name != "inputs"} | (
            {"inputs": kernels} if kernels else {}
        )
        short = [tokens[m][row : row + 1, masks[m][row]] for m in chosen]
        fused = quick(alone.apply)(mine, short, [None] * len(chosen), jnp.ones((1, len(chosen)), bool))
        np.testing.assert_allclose(together[row], fused[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_padding_and_absent_modalities_reach_neither_value_nor_gradient(params, example, bad):
    tokens, masks, present = example
    counted = [masks[m] & present[:, m, None] for m in range(3)]
    dirty = [np.where(counted[m][..., None], tokens[m], bad).astype(np.float32) for m in range(3)]
    weights = np.random.default_rng(2).standard_normal((BATCH, 6), np.float32)

    @quick
    def gradients(params, tokens):
        return jax.value_and_grad(
            lambda p, t: jnp.sum(FUSION.apply(p, t, masks, present) * weights), argnums=(0, 1)
        )(params, tokens)  # fmt: skip

    clean_value, clean = gradients(params, tokens)
    dirty_value, other = gradients(params, dirty)
    assert clean_value == dirty_value
    jax.tree.map(np.testing.assert_array_equal, clean, other)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(other))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(clean[0])), "every parameter takes part"
    for m in range(3):
        assert (np.asarray(other[1][m])[~counted[m]] == 0).all()


def test_longer_padding_changes_nothing(params, example):
    tokens, masks, present = example
    longer = [np.pad(x, ((0, 0), (0, 3), (0, 0))) for x in tokens]
    padded = [np.pad(mask, ((0, 0), (0, 3))) for mask in masks]
    np.testing.assert_allclose(
        apply(params, longer, padded, present), apply(params, tokens, masks, present), rtol=1e-5, atol=1e-6
    )


def test_jit_is_eager_and_a_batch_is_its_rows(params, example):
    tokens, masks, present = example
    together = apply(params, tokens, masks, present)
    eager = FUSION.apply(
        params, [jnp.asarray(x) for x in tokens], [jnp.asarray(m) for m in masks], jnp.asarray(present)
    )
    np.testing.assert_allclose(together, eager, rtol=1e-5, atol=1e-6)
    rows = [
        apply(params, [x[b : b + 1] for x in tokens], [mask[b : b + 1] for mask in masks], present[b : b + 1])
        for b in range(3)
    ]
    np.testing.assert_allclose(together[:3], np.concatenate(rows), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rules", ["replicated", "fsdp", "fsdp_tensor"])
def test_split_over_devices_is_the_same(params, example, rules):
    mesh = sharding.make_mesh(data=4, model=2)
    placed = jax.device_put(params, sharding.shardings(FUSION.spec, mesh, sharding.named_rules(rules)))
    split = jax.tree.map(lambda x: jax.device_put(x, sharding.batch_sharding(mesh, x.ndim)), example)
    step = sharding.compile_step(FUSION.apply, mesh=mesh)
    np.testing.assert_allclose(step(placed, *split), apply(params, *example), rtol=1e-5, atol=1e-6)


def test_full_size_lowers_from_shapes_and_has_the_size_of_two_t5_layers():
    fusion = feature_fusion(FeatureFusionConfig())
    layer = 4 * 768 * 768 + 2 * 768 * 2048 + 2 * 768
    assert module.count(fusion.spec) == 2 * layer + 768 + 32 * 12
    tokens = [jax.ShapeDtypeStruct((2, size, 768), jnp.float32) for size in (77, 257)]
    masks = [jax.ShapeDtypeStruct((2, 77), jnp.bool_), None]
    shape = jax.eval_shape(
        fusion.apply, module.abstract(fusion.spec), tokens, masks, jax.ShapeDtypeStruct((2, 2), jnp.bool_)
    )
    assert (shape.shape, shape.dtype) == ((2, 768), jnp.float32)


def test_buckets_by_hand():
    buckets = distance_buckets([5, 2], 8, 16)
    # Four buckets for each direction: 0 and 1 alone, then 2 to 5 (half way from 2 to 16 in logarithms), then the rest.
    assert buckets[0].tolist() == [0, 5, 6, 6, 6, 7, 7]
    assert buckets[4].tolist() == [2, 2, 2, 1, 0, 7, 7]
    assert buckets[6].tolist() == [3, 3, 3, 3, 3, 1, 0]


@pytest.mark.parametrize(
    "options",
    [{"widths": ()}, {"heads": 0}, {"projection": 0}, {"buckets": 6}, {"buckets": 32, "far": 8}, {"widths": (0, 4)}],
)
def test_impossible_configurations_are_refused(options):
    with pytest.raises(ConfigError, match="expected"):
        FeatureFusionConfig(**options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": lambda t: t[:2]}, r"widths \(12, 16\)"),
        ({"tokens": lambda t: [t[1], t[0], t[2]]}, r"widths \(16, 12, 16\)"),
        ({"tokens": lambda t: [t[0][:3], *t[1:]]}, "equal B"),
        ({"masks": lambda m: [m[1], *m[1:]]}, r"mask 0 is bool\[8, 5\], expected bool\[8, 7\]"),
        ({"masks": lambda m: [m[0].astype(np.int32), *m[1:]]}, "mask 0 is int32"),
        ({"present": lambda p: p[:, :2]}, r"expected bool\[8, 3\]"),
        ({"present": lambda p: p.astype(np.float32)}, "present is float32"),
    ],
)
def test_bad_input_is_refused(params, example, change, message):
    given = dict(zip(("tokens", "masks", "present"), example, strict=True))
    given = {name: change[name](value) if name in change else value for name, value in given.items()}
    with pytest.raises(ConfigError, match=message):
        FUSION.apply(params, given["tokens"], given["masks"], given["present"])
