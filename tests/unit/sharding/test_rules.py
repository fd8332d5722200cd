"""Rules tables, collisions, fitting, reports and meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from erel_jax import module
from erel_jax.encoders import VitConfig, vit
from erel_jax.errors import ConfigError
from erel_jax.module import ParamSpec
from erel_jax.sharding import (
    RULES,
    batch_sharding,
    fitted_spec,
    make_mesh,
    named_rules,
    partition_spec,
    replicated_sharding,
    sharding_report,
    shardings,
)


def test_tables():
    assert sorted(RULES) == ["fsdp", "fsdp_tensor", "replicated", "tensor"]
    assert partition_spec(("embed", "mlp"), RULES["replicated"]) == PartitionSpec(None, None)
    assert partition_spec(("embed", "mlp"), RULES["fsdp"]) == PartitionSpec("data", None)
    assert partition_spec(("embed", "mlp"), RULES["tensor"]) == PartitionSpec(None, "model")
    assert partition_spec(("embed", "mlp"), RULES["fsdp_tensor"]) == PartitionSpec("data", "model")
    assert partition_spec(("batch", None), RULES["tensor"]) == PartitionSpec("data", None)


def test_unknown_table_suggests_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'fsdp'"):
        named_rules("fdsp")


def test_one_mesh_axis_twice_is_refused():
    with pytest.raises(ConfigError, match="one mesh axis is used twice"):
        partition_spec(("batch", "embed"), RULES["fsdp"])


def test_a_dimension_that_does_not_divide_stays_whole():
    mesh = make_mesh(4, 2)
    assert fitted_spec((8, 6), ("embed", "mlp"), mesh, RULES["fsdp_tensor"]) == PartitionSpec("data", "model")
    assert fitted_spec((6, 3), ("embed", "mlp"), mesh, RULES["fsdp_tensor"]) == PartitionSpec(None, None)


def test_meshes():
    mesh = make_mesh(model=2)
    assert mesh.axis_names == ("data", "model") and mesh.devices.shape == (4, 2)
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert make_mesh(1).devices.shape == (1, 1)
    assert make_mesh(devices=jax.devices()[:3]).devices.shape == (3, 1)
    with pytest.raises(ConfigError, match="needs 16 devices, found 8"):
        make_mesh(8, 2)
    with pytest.raises(ConfigError, match="data=0"):
        make_mesh(model=9)


def test_shardings_place_every_parameter():
    mesh = make_mesh(4, 2)
    spec = {"kernel": ParamSpec((8, 6), ("embed", "mlp")), "bias": ParamSpec((6,), ("mlp",))}
    placed = shardings(spec, mesh, RULES["fsdp_tensor"])
    params = jax.device_put(module.init(jax.random.key(0), spec), placed)
    assert params["kernel"].addressable_shards[0].data.shape == (2, 3)
    assert params["bias"].addressable_shards[0].data.shape == (3,)
    batch = jax.device_put(jnp.zeros((8, 3)), batch_sharding(mesh, 2))
    assert batch.addressable_shards[0].data.shape == (2, 3)
    assert jax.device_put(jnp.zeros((8, 3)), replicated_sharding(mesh)).is_fully_replicated


def test_initialization_is_the_same_sharded_and_not():
    mesh = make_mesh(4, 2)
    spec = {"kernel": ParamSpec((8, 6), ("embed", "mlp")), "deep": {"kernel": ParamSpec((16, 4), ("mlp", "embed"))}}
    alone = jax.jit(lambda k: module.init(k, spec))(jax.random.key(0))
    together = jax.jit(lambda k: module.init(k, spec), out_shardings=shardings(spec, mesh, RULES["fsdp_tensor"]))
    # Equal up to the rounding of the vectorized erfinv, which differs at the ends of a shard.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), alone, together(jax.random.key(0)))


def test_report_counts_bytes_by_hand():
    spec = {
        "kernel": ParamSpec((8, 6), ("embed", "mlp")),
        "norm": ParamSpec((7,), ("embed",)),
        "codes": ParamSpec((8, 2), ("embed", None), module.zeros, jnp.int8),
    }
    report = sharding_report(spec, make_mesh(4, 2), RULES["fsdp_tensor"])
    assert report == {
        "total_bytes": 8 * 6 * 4 + 7 * 4 + 16,
        "bytes_per_device": 8 * 6 * 4 // 8 + 7 * 4 + 16 // 4,
        "replicated_bytes": 7 * 4,
    }


def test_under_fsdp_little_of_a_full_size_encoder_is_replicated():
    report = sharding_report(vit(VitConfig.base_16()).module.spec, make_mesh(8), RULES["fsdp"])
    assert report["replicated_bytes"] < 0.01 * report["total_bytes"]
    assert report["bytes_per_device"] < report["total_bytes"] / 8 * 1.1
