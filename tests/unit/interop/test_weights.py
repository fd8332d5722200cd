"""Parameters from tensors: one report of what does not fit, exact layouts, finite values."""

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from erel_jax import tree
from erel_jax.encoders import ENCODERS
from erel_jax.errors import CheckpointError, NonFiniteError
from erel_jax.interop.families import FAMILIES
from erel_jax.interop.safetensors_folder import WEIGHTS, TensorFolder
from erel_jax.interop.weights import read_params, write_tensors
from erel_jax.layers import Precision

NAMES = sorted(ENCODERS)


def drawn(spec):
    draw = np.random.default_rng(0)
    return tree.map_with_path(lambda path, s: draw.normal(size=s.shape).astype(np.float32), spec)


def family(name, precision=None):
    config = ENCODERS[name].config.tiny()
    encoder = ENCODERS[name].build(config, *([precision] if precision else []))
    return encoder.module.spec, FAMILIES[name].weights(config)


def stored(folder, tensors):
    save_file(tensors, folder / WEIGHTS)
    return TensorFolder(folder)


@pytest.mark.parametrize("name", NAMES)
def test_tables_name_every_parameter_and_round_trip(tmp_path, name):
    spec, weight_map = family(name)
    params = drawn(spec)
    tensors = write_tensors(params, weight_map)
    assert set(weight_map.sources) == set(tree.paths(spec))
    again = tree.paths(read_params(stored(tmp_path, tensors), weight_map, spec))
    for path, value in tree.paths(params).items():
        np.testing.assert_array_equal(again[path], value, err_msg=path)


def test_layouts_by_hand(tmp_path):
    spec, weight_map = family("vit")
    params = drawn(spec)
    tensors = write_tensors(params, weight_map)
    query = params["layers"]["attention"]["query"]["kernel"]
    np.testing.assert_array_equal(tensors["encoder.layer.2.attention.attention.query.weight"], query[2].T)
    kernel = params["embeddings"]["patch"]["kernel"]
    row, column, channel, out = 1, 3, 2, 5
    conv = tensors["embeddings.patch_embeddings.projection.weight"]
    assert conv.shape == (16, 3, 4, 4)
    assert conv[out, channel, row, column] == kernel[(row * 4 + column) * 3 + channel, out]
    assert tensors["embeddings.cls_token"].shape == (1, 1, 16)
    assert tensors["embeddings.position_embeddings"].shape == (1, 10, 16)


def test_everything_that_does_not_fit_is_one_report(tmp_path):
    spec, weight_map = family("bert")
    tensors = write_tensors(drawn(spec), weight_map)
    del tensors["encoder.layer.1.output.dense.bias"]
    del tensors["embeddings.LayerNorm.weight"]
    tensors["encoder.layer.0.attention.self.query.weight"] = np.zeros((16, 15), np.float32)
    tensors["embeddings.word_embeddings.weight"] = np.zeros((63, 16), np.float32)
    tensors["encoder.layer.3.output.dense.bias"] = np.zeros(16, np.float32)
    tensors["surprise"] = np.zeros(1, np.float32)
    with pytest.raises(CheckpointError) as caught:
        read_params(stored(tmp_path, tensors), weight_map, spec)
    message = str(caught.value)
    assert "missing (2)" in message and "misshaped (2)" in message and "unexpected (2)" in message
    assert "encoder.layer.1.output.dense.bias [16]" in message
    assert "embeddings.word_embeddings.weight: got [63, 16], expected [64, 16]" in message
    assert "encoder.layer.3.output.dense.bias" in message and "surprise" in message


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("bert", ["pooler.dense.weight", "cls.predictions.bias", "embeddings.position_ids", "classifier.weight"]),
        ("vit", ["pooler.dense.bias", "classifier.weight", "embeddings.mask_token"]),
        ("clip_text_model", ["vision_model.post_layernorm.bias", "visual_projection.weight", "logit_scale"]),
        ("clip_vision_model", ["text_model.final_layer_norm.bias", "text_projection.weight", "logit_scale"]),
    ],
)
def test_tensors_without_use_are_ignored_by_name_only(tmp_path, name, extra):
    spec, weight_map = family(name)
    tensors = write_tensors(drawn(spec), weight_map)
    tensors |= {key: np.full((2,), np.nan, np.float32) for key in extra}
    read_params(stored(tmp_path, tensors), weight_map, spec)
    tensors["other." + extra[0]] = np.zeros(2, np.float32)
    with pytest.raises(CheckpointError, match=r"other\."):
        read_params(stored(tmp_path, tensors), weight_map, spec)


def test_a_pooler_that_is_used_must_exist(tmp_path):
    spec, weight_map = family("bert")
    tensors = stored(tmp_path, write_tensors(drawn(spec), weight_map))
    config = ENCODERS["bert"].config.tiny("pooler")
    with pytest.raises(CheckpointError, match=r"pooler.dense.weight \[16, 16\]"):
        read_params(tensors, FAMILIES["bert"].weights(config), ENCODERS["bert"].build(config).module.spec)


def test_prefixes_and_old_names_of_norms_are_understood(tmp_path):
    spec, weight_map = family("bert")
    params = drawn(spec)
    old = {
        "bert." + key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in write_tensors(params, weight_map).items()
    }
    read = read_params(stored(tmp_path, old), weight_map, spec)
    np.testing.assert_array_equal(read["embeddings"]["norm"]["scale"], params["embeddings"]["norm"]["scale"])


def test_the_same_weight_under_two_names_is_refused(tmp_path):
    spec, weight_map = family("bert")
    tensors = write_tensors(drawn(spec), weight_map)
    tensors["bert.embeddings.LayerNorm.bias"] = tensors["embeddings.LayerNorm.bias"]
    with pytest.raises(CheckpointError, match="same weight"):
        read_params(stored(tmp_path, tensors), weight_map, spec)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    spec, weight_map = family("vit")
    tensors = write_tensors(drawn(spec), weight_map)
    tensors["encoder.layer.1.output.dense.weight"][0, 3] = value
    with pytest.raises(NonFiniteError, match=r"encoder.layer.1.output.dense.weight' holds 1 values"):
        read_params(stored(tmp_path, tensors), weight_map, spec)


def test_integer_weights_are_refused(tmp_path):
    spec, weight_map = family("vit")
    tensors = write_tensors(drawn(spec), weight_map)
    tensors["layernorm.bias"] = np.zeros(16, np.int8)
    with pytest.raises(CheckpointError, match=r"layernorm.bias.* is I8, expected one of F64"):
        read_params(stored(tmp_path, tensors), weight_map, spec)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_files_are_cast_to_the_policy(tmp_path, dtype):
    spec, weight_map = family("clip_vision_model")
    params = drawn(spec)
    tensors = {key: value.astype(dtype) for key, value in write_tensors(params, weight_map).items()}
    read = read_params(stored(tmp_path, tensors), weight_map, spec)
    scale = params["final_norm"]["scale"].astype(dtype).astype(np.float32)
    assert read["final_norm"]["scale"].dtype == np.float32
    np.testing.assert_array_equal(read["final_norm"]["scale"], scale)
    half, _ = family("clip_vision_model", Precision(param=ml_dtypes.bfloat16))
    assert read_params(TensorFolder(tmp_path), weight_map, half)["final_norm"]["scale"].dtype == ml_dtypes.bfloat16


def test_parameters_that_have_no_name_are_not_exported():
    spec, weight_map = family("bert")
    params = drawn(spec)
    params["layers"]["attention"]["query"]["kernel"] = {"base": 1.0, "a": 2.0}
    with pytest.raises(CheckpointError, match=r"query/kernel.*Merge"):
        write_tensors(params, weight_map)
