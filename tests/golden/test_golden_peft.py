"""Adapters against stored outputs and gradients of Hugging Face peft on a tiny BERT (see make_peft.py)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from erel_jax import tree
from erel_jax.adapters import split, trainable
from erel_jax.interop.huggingface import load_encoder
from erel_jax.interop.peft_folder import load_adapter

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-5
TRAINS = {
    "lora": trainable.LORA_FACTORS, "rslora": trainable.LORA_FACTORS, "dora": trainable.DORA, "ia3": trainable.IA3,
    "vera": trainable.VERA, "layer_norm": trainable.LAYER_NORM, "prompt": trainable.PROMPT, "prefix": trainable.PREFIX,
}  # fmt: skip
MODULES = {
    "encoder.layer.{i}.attention.self.query": "layers/attention/query/kernel",
    "encoder.layer.{i}.attention.self.key": "layers/attention/key/kernel",
    "encoder.layer.{i}.attention.self.value": "layers/attention/value/kernel",
    "encoder.layer.{i}.intermediate.dense": "layers/mlp/up/kernel",
    "encoder.layer.{i}.output.dense": "layers/mlp/down/kernel",
    "encoder.layer.{i}.attention.output.LayerNorm": "layers/attention_norm",
    "encoder.layer.{i}.output.LayerNorm": "layers/mlp_norm",
    "embeddings.LayerNorm": "embeddings/norm",
}
PARTS = {
    "lora_A.weight": "a", "lora_B.weight": "b", "lora_magnitude_vector": "magnitude_shift", "vera_lambda_b": "outer",
    "vera_lambda_d": "inner", "ln_tuning_layers.weight": "scale", "ln_tuning_layers.bias": "bias",
}  # fmt: skip


def ours(tensors):
    """peft's tensors under our paths, layers stacked."""
    found = {}
    if "prompt_embeddings" in tensors:
        (tensor,) = tensors.values()
        if tensor.shape[1] == 20:
            return {"prompt/vectors": tensor}
        return {
            f"prefix/{name}": tensor.reshape(3, 2, 2, 20)[:, :, i].swapaxes(0, 1)
            for i, name in enumerate(("key", "value"))
        }
    for theirs, path in MODULES.items():
        stacked = "{i}" in theirs
        for part in (*PARTS, "ia3_l"):
            names = [f"base_model.model.{theirs.format(i=i)}.{part}" for i in range(2 if stacked else 1)]
            if names[0] not in tensors:
                continue
            arrays = [tensors[name] for name in names]
            leaf = PARTS.get(part) or ("input_scale" if arrays[0].shape[0] == 1 else "output_scale")
            arrays = [a.ravel() if part == "ia3_l" else a.T for a in arrays]
            found[f"{path}/{leaf}"] = np.stack(arrays) if stacked else arrays[0]
    assert sum(a.size for a in found.values()) == sum(a.size for n, a in tensors.items() if "vera_A" not in n)
    return found


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """(base encoder, arrays by method and kind, folder of each method)."""
    home = tmp_path_factory.mktemp("peft")
    with np.load(HERE / "peft.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    (home / "base").mkdir()
    (home / "base" / "config.json").write_text(str(arrays["config"]))
    weights = {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}
    save_file({k: np.ascontiguousarray(v) for k, v in weights.items()}, home / "base" / "model.safetensors")
    for name in TRAINS:
        (home / name).mkdir()
        (home / name / "adapter_config.json").write_text(str(arrays[f"{name}/config"]))
        save_file(group(arrays, f"{name}/tensors/"), home / name / "adapter_model.safetensors")
    return load_encoder(home / "base", pooling="cls"), arrays, home


def group(arrays, prefix):
    return {k.removeprefix(prefix): np.ascontiguousarray(v) for k, v in arrays.items() if k.startswith(prefix)}


def adapted(base, arrays, home, name):
    if name != "layer_norm":
        return load_adapter(home / name, base.encoder, base.params)
    params, values = base.params, ours(group(arrays, f"{name}/tensors/"))
    assert set(values) <= set(tree.paths(params))
    return tree.map_with_path(lambda path, leaf: jnp.asarray(values.get(path, leaf)), params)


def case(name):
    return name if name in ("lora", "dora", "ia3") else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", [case(name) for name in TRAINS])
def test_outputs_and_gradients_are_those_of_peft(golden, name):
    base, arrays, home = golden
    params = adapted(base, arrays, home, name)
    trains, frozen = split(params, TRAINS[name])
    inputs = {"ids": arrays["ids"], "mask": arrays["mask"]}

    def total(t, frozen):
        tokens = base.encoder.module.apply(tree.merge(t, frozen), inputs, tokens=True).tokens
        return jnp.sum(tokens * arrays["cotangent"]), tokens

    (_, tokens), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(trains, frozen)
    np.testing.assert_allclose(tokens, arrays[f"{name}/output"], rtol=TOLERANCE, atol=TOLERANCE)
    found, expected = tree.paths(gradient), ours(group(arrays, f"{name}/gradients/"))
    assert set(found) == set(expected)
    for path, theirs in expected.items():
        largest = np.abs(theirs).max()
        np.testing.assert_allclose(found[path], theirs, rtol=0, atol=TOLERANCE * max(1.0, largest), err_msg=path)
        assert largest > 1e-3, path


def test_adapters_move_the_outputs(golden):
    """So no comparison above holds by adapters that do nothing."""
    outputs = [golden[1][f"{name}/output"] for name in TRAINS]
    assert all(np.abs(a - b).max() > 0.1 for i, a in enumerate(outputs) for b in outputs[:i])
