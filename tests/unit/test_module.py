"""Module, ParamSpec, init, stack, fill."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module, tree
from erel_jax.errors import ConfigError
from erel_jax.layers import LowRank, Quantized
from erel_jax.module import ParamSpec


def small_spec():
    return {
        "dense": {"kernel": ParamSpec((3, 4), ("embed", "mlp")), "bias": ParamSpec((4,), ("mlp",), module.zeros)},
        "norm": {"scale": ParamSpec((4,), (None,), module.ones, jnp.bfloat16)},
    }


def test_axes_must_name_every_dimension():
    with pytest.raises(ConfigError, match="one logical axis name"):
        ParamSpec((3, 4), ("embed",))


def test_init_abstract_and_count_come_from_one_spec():
    spec = small_spec()
    params = module.init(jax.random.key(0), spec)
    shapes = jax.tree.map(lambda x: (x.shape, jnp.dtype(x.dtype)), params)
    assert shapes == jax.tree.map(lambda x: (x.shape, jnp.dtype(x.dtype)), module.abstract(spec))
    assert module.count(spec) == module.count(params) == module.count(module.abstract(spec)) == 3 * 4 + 4 + 4
    assert params["norm"]["scale"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(params["dense"]["bias"], 0)
    np.testing.assert_array_equal(params["norm"]["scale"].astype(jnp.float32), 1)


def test_adding_a_parameter_reshuffles_no_other():
    spec = small_spec()
    before = module.init(jax.random.key(0), spec)
    after = module.init(jax.random.key(0), {"another": ParamSpec((2,), (None,)), **spec})
    np.testing.assert_array_equal(before["dense"]["kernel"], after["dense"]["kernel"])
    other = module.init(jax.random.key(1), spec)
    assert not np.array_equal(before["dense"]["kernel"], other["dense"]["kernel"])


def test_equal_shapes_at_different_paths_are_drawn_apart():
    params = module.init(jax.random.key(0), {"a": ParamSpec((8,), (None,)), "b": ParamSpec((8,), (None,))})
    assert not np.array_equal(params["a"], params["b"])


def test_stack_draws_each_layer_alone_with_its_own_fan_in():
    leaf = ParamSpec((64, 8), ("embed", "mlp"), jax.nn.initializers.lecun_normal())
    stacked = module.stack({"kernel": leaf}, 50)["kernel"]
    assert stacked.shape == (50, 64, 8) and stacked.axes == ("layers", "embed", "mlp")
    drawn = module.init(jax.random.key(0), {"kernel": stacked})["kernel"]
    # lecun: standard deviation 1/sqrt(64); seen as one array of shape (50, 64, 8) it would be 1/sqrt(50·64).
    assert abs(float(jnp.std(drawn)) - 1 / 8) < 0.005
    assert not np.array_equal(drawn[0], drawn[1])


def test_init_works_under_jit_and_from_abstract_keys():
    spec = small_spec()
    jitted = jax.jit(lambda key: module.init(key, spec))(jax.random.key(3))
    eager = module.init(jax.random.key(3), spec)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a.astype(np.float32), b.astype(np.float32)), jitted, eager)
    assert jax.tree.structure(jax.eval_shape(lambda k: module.init(k, spec), jax.random.key(0))) == jax.tree.structure(
        module.abstract(spec)
    )


def test_uniform_stays_in_its_bound():
    drawn = module.uniform(0.25)(jax.random.key(0), (1000,), jnp.float32)
    assert float(jnp.max(jnp.abs(drawn))) <= 0.25
    assert float(jnp.std(drawn)) == pytest.approx(0.25 / np.sqrt(3), rel=0.1)


def test_fill_takes_what_exists_through_wrappers_and_draws_the_rest():
    plain = {"kernel": ParamSpec((3, 4), ("embed", "mlp"))}
    params = module.init(jax.random.key(0), plain)
    wrapped = {"kernel": LowRank(plain["kernel"], ParamSpec((3, 2), (None, None)), ParamSpec((2, 4), (None, None)))}
    filled = module.fill(jax.random.key(1), wrapped, params)
    assert filled["kernel"].base is params["kernel"]
    assert filled["kernel"].a.shape == (3, 2)
    again = module.fill(jax.random.key(2), wrapped, filled)
    assert again["kernel"].a is filled["kernel"].a


def test_fill_reaches_a_quantized_base():
    quantized = {"kernel": Quantized(jnp.ones((3, 4), jnp.int8), jnp.ones(4))}
    inner = Quantized(ParamSpec((3, 4), (None, None), module.zeros, jnp.int8), ParamSpec((4,), (None,)))
    spec = {"kernel": LowRank(inner, ParamSpec((3, 2), (None, None)), ParamSpec((2, 4), (None, None)))}
    filled = module.fill(jax.random.key(0), spec, quantized)
    assert filled["kernel"].base.values is quantized["kernel"].values


def test_fill_refuses_misshaped_and_homeless_parameters():
    spec = {"kernel": ParamSpec((3, 4), ("embed", "mlp"))}
    with pytest.raises(ConfigError, match=r"kernel: got shape \(4, 3\), expected \(3, 4\)"):
        module.fill(jax.random.key(0), spec, {"kernel": jnp.zeros((4, 3))})
    with pytest.raises(ConfigError, match="extra"):
        module.fill(jax.random.key(0), spec, {"kernel": jnp.zeros((3, 4)), "extra": jnp.zeros(1)})


def test_subspec_names_what_is_missing():
    assert module.subspec({"a": 1, "b": 2}, "b") == {"b": 2}
    with pytest.raises(ConfigError, match=r"no branch \['c'\]; it has \['a', 'b'\]"):
        module.subspec({"a": 1, "b": 2}, "c")


def test_paths_of_kernels_name_their_fields():
    kernel = LowRank(jnp.zeros((2, 2)), jnp.zeros((2, 1)), jnp.zeros((1, 2)))
    assert list(tree.paths({"q": {"kernel": kernel}})) == ["q/kernel/base", "q/kernel/a", "q/kernel/b"]
