"""Weights go from files to where they will live: values, places and dtypes, and what the host needs meanwhile."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from erel_jax import tree
from erel_jax.encoders import ENCODERS
from erel_jax.errors import ConfigError, NonFiniteError
from erel_jax.interop.export import save_encoder
from erel_jax.interop.host_parts import HostParts
from erel_jax.interop.huggingface import load_encoder, load_towers
from erel_jax.layers import Precision
from erel_jax.sharding import RULES, make_mesh, shardings


def llama(folder, dtype=np.float32, shards=3):
    """(folder of a tiny LLaMA in shards whose layers are spread over the files, its encoder, its parameters)."""
    encoder = ENCODERS["llama"].build(ENCODERS["llama"].config.tiny())
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda s: draw.normal(size=s.shape).astype(np.float32), encoder.module.spec)
    save_encoder(folder, encoder, params)
    (folder / "manifest.json").unlink()
    tensors = {name: value.astype(dtype) for name, value in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    files = {f"part-{i}.safetensors": sorted(tensors)[i::shards] for i in range(shards)}
    for file, names in files.items():
        save_file({name: tensors[name] for name in names}, folder / file)
    index = {"weight_map": {name: file for file, names in files.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder, encoder, params


@pytest.mark.parametrize("rules", ["fsdp_tensor", RULES["fsdp"], None])
def test_shards_are_read_into_the_places_of_the_rules(tmp_path, rules):
    folder, encoder, params = llama(tmp_path / "llama")
    mesh = make_mesh(data=4, model=2)
    loaded = load_encoder(folder, mesh=mesh, rules=rules)
    table = RULES[rules or "replicated"] if not isinstance(rules, dict) else rules
    wanted = tree.paths(shardings(encoder.module.spec, mesh, table))
    for path, value in tree.paths(loaded.params).items():
        assert value.sharding == wanted[path], path
        np.testing.assert_array_equal(value, tree.paths(params)[path], err_msg=path)
        for shard in value.addressable_shards:
            np.testing.assert_array_equal(shard.data, tree.paths(params)[path][shard.index], err_msg=path)
    kernel = tree.paths(loaded.params)["layers/mlp/gate/kernel"]
    parts = {"fsdp_tensor": 8, None: 1}.get(rules if not isinstance(rules, dict) else "", 4)
    assert kernel.addressable_shards[0].data.size * parts == kernel.size


@pytest.mark.parametrize(("stored", "wanted"), [(np.float32, jnp.bfloat16), (ml_dtypes.bfloat16, jnp.float32)])
def test_values_are_cast_once_on_their_way(tmp_path, stored, wanted):
    folder, _, params = llama(tmp_path / "llama", stored)
    loaded = load_encoder(folder, precision=Precision(param=wanted), mesh=make_mesh(2, 4), rules="fsdp_tensor")
    for path, value in tree.paths(loaded.params).items():
        assert value.dtype == wanted
        expected = tree.paths(params)[path].astype(stored).astype(wanted)
        np.testing.assert_array_equal(np.asarray(value), expected, err_msg=path)


def test_placed_weights_are_checked_as_others_are(tmp_path):
    folder, _, _ = llama(tmp_path / "llama")
    tensors = load_file(folder / "part-1.safetensors")
    name = sorted(tensors)[0]
    tensors[name].flat[-1] = np.inf
    save_file(tensors, folder / "part-1.safetensors")
    with pytest.raises(NonFiniteError, match=f"{name}' holds 1 values"):
        load_encoder(folder, mesh=make_mesh(8), rules="fsdp")
    with pytest.raises(ConfigError, match="without a mesh"):
        load_encoder(folder, rules="fsdp")
    with pytest.raises(ConfigError, match="Did you mean 'fsdp'"):
        load_encoder(folder, mesh=make_mesh(8), rules="fdsp")


def test_both_towers_are_placed(clip_folder):
    folder, towers = clip_folder
    for modality, loaded in load_towers(folder, mesh=make_mesh(4, 2), rules="fsdp").items():
        assert not loaded.params["layers"]["mlp"]["up"]["kernel"].is_fully_replicated
        for path, value in tree.paths(towers[modality][1]).items():
            np.testing.assert_array_equal(tree.paths(loaded.params)[path], value, err_msg=path)


def test_layers_split_over_devices_hold_their_own_layers():
    mesh = make_mesh(data=4, model=2)
    place = NamedSharding(mesh, PartitionSpec("data", None, "model"))
    whole = np.arange(8 * 3 * 4, dtype=np.float32).reshape(8, 3, 4)
    parts = HostParts(whole.shape, np.float32, place)
    for layer in (3, 0, 7, 1, 2, 4, 6, 5):
        parts.write(whole[layer], layer)
    made = parts.to_devices()
    assert made.sharding == place and made.addressable_shards[0].data.shape == (2, 3, 2)
    np.testing.assert_array_equal(made, whole)


def test_a_program_that_reuses_the_memory_leaves_no_trace_in_other_arrays():
    parts = HostParts((64, 64), np.float32, NamedSharding(make_mesh(8), PartitionSpec()))
    parts.write(np.ones((64, 64), np.float32))
    made = parts.to_devices()
    kept = made + 0.0
    jax.jit(lambda x: x * 3.0, donate_argnums=0)(made)
    np.testing.assert_array_equal(kept, np.ones((64, 64)))


MEASURE = """
import sys
import jax
from erel_jax import tree
from erel_jax.interop.huggingface import load_encoder
from erel_jax.layers import Precision
from erel_jax.profiling.memory import peak_memory, reset_process_peak
from erel_jax.sharding import make_mesh

small, folder, dtype, rules = sys.argv[1:]
options = {"precision": Precision(param=dtype)}
options |= {"mesh": make_mesh(data=4, model=2), "rules": rules} if rules else {}
load_encoder(small, **options)  # whatever the first load imports and allocates
jax.block_until_ready(jax.numpy.zeros(8))
assert reset_process_peak()
before = peak_memory().bytes
params = load_encoder(folder, **options).params
jax.block_until_ready(params)
print(peak_memory().bytes - before, tree.nbytes(params))
"""


def big_folder(folder, width, layers):
    """A LLaMA in shards as transformers cuts them: in the order of the layers, each file of a few tensors."""
    document = {
        "model_type": "llama", "vocab_size": 4 * width, "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 3 * width,
        "max_position_embeddings": 64,
    }  # fmt: skip
    sizes = {"q": width, "k": width // 4, "v": width // 4, "o": width}
    parts = [{"model.embed_tokens.weight": (4 * width, width), "model.norm.weight": (width,)}]
    for i in range(layers):
        layer = {f"self_attn.{n}_proj.weight": (size, width) for n, size in sizes.items()}
        layer |= {f"mlp.{n}_proj.weight": (3 * width, width) for n in ("gate", "up")}
        layer |= {"mlp.down_proj.weight": (width, 3 * width)}
        layer |= {f"{n}_layernorm.weight": (width,) for n in ("input", "post_attention")}
        if i % 2 == 0:
            parts.append({})
        parts[-1] |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(document))
    draw, index = np.random.default_rng(0), {}
    for i, part in enumerate(parts):
        file = f"model-{i}.safetensors"
        save_file({name: draw.random(shape, np.float32) for name, shape in part.items()}, folder / file)
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return max(path.stat().st_size for path in folder.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("width", "layers", "dtype", "rules"),
    [
        (512, 6, "float32", "fsdp_tensor"),
        pytest.param(1024, 10, "float32", "", marks=pytest.mark.slow),
        pytest.param(1024, 10, "float32", "fsdp_tensor", marks=pytest.mark.slow),
        pytest.param(1024, 10, "bfloat16", "fsdp_tensor", marks=pytest.mark.slow),
    ],
)
def test_the_host_never_holds_more_than_a_shard_beside_the_placed_weights(
    tmp_path, plain_environment, width, layers, dtype, rules
):
    """Peak resident memory of a fresh process, on devices that are host memory themselves."""
    llama(tmp_path / "small")
    largest = big_folder(tmp_path / "big", width, layers)
    arguments = [str(tmp_path / "small"), str(tmp_path / "big"), dtype, rules]
    environment = plain_environment | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    peak, placed = map(int, done.stdout.split())
    print(f"peak {peak / 1e6:.1f} MB, placed {placed / 1e6:.1f} MB, largest shard {largest / 1e6:.1f} MB")
    assert 0.9 * placed < peak < placed + 1.2 * largest
