"""Where each parameter of ours lies in a Hugging Face checkpoint, one table a family.

A table says, for every path of the encoder's parameters, the tensor's name there and how its layout differs. Loading
and exporting read the same tables, so they cannot disagree. Parameters under `layers/` are stacked: `{i}` in a name is
the layer. Tensors that this package has no use for are named in an explicit list per family; any other tensor without
a place is an error.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from erel_jax.encoders import BertConfig, ClipTextConfig, ClipVisionConfig, VitConfig


class Layout(NamedTuple):
    """How an array of theirs becomes one of ours, and back."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


class Source(NamedTuple):
    """The tensor that holds a parameter: its name, with `{i}` for the layer of a stacked one, and its layout."""

    name: str
    layout: Layout


@dataclass(frozen=True)
class WeightMap:
    """One family's names.

    Attributes:
        sources: path of ours to its source.
        prefixes: prefixes that a whole model puts before an encoder's names; removed on reading.
        ignored: regular expressions over whole names (after removal of a prefix) of tensors without use here.
        export_prefix: prefix of the names when a folder is written; names in `bare` get none.
        bare: names outside the prefix.
    """

    sources: Mapping[str, Source]
    prefixes: tuple[str, ...]
    ignored: tuple[str, ...]
    export_prefix: str = ""
    bare: tuple[str, ...] = ()

    def canonical(self, name: str) -> str:
        """The name as the table spells it: without a model's prefix, norms as weight and bias."""
        for prefix in self.prefixes:
            name = name.removeprefix(prefix)
        return re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))

    def exported(self, name: str) -> str:
        """The name under which a tensor is written."""
        return name if name in self.bare else self.export_prefix + name

    def is_ignored(self, name: str) -> bool:
        """Whether a canonical name is on the list of tensors without use."""
        return any(re.fullmatch(pattern, name) for pattern in self.ignored)


def _same(x: np.ndarray) -> np.ndarray:
    return x


SAME = Layout(_same, _same)
LINEAR = Layout(np.transpose, np.transpose)


def leading(axes: int) -> Layout:
    """Theirs has `axes` extra leading axes of size 1."""
    return Layout(lambda x: x.reshape(x.shape[axes:]), lambda x: x.reshape((1,) * axes + x.shape))


def patches(patch: int, channels: int) -> Layout:
    """A convolution kernel [D, C, patch, patch] against our matrix [patch·patch·C, D]."""
    return Layout(
        lambda x: x.transpose(2, 3, 1, 0).reshape(patch * patch * channels, -1),
        lambda x: x.reshape(patch, patch, channels, -1).transpose(3, 2, 0, 1),
    )


def _linear(path: str, name: str, bias: bool = True) -> dict[str, Source]:
    found = {f"{path}/kernel": Source(f"{name}.weight", LINEAR)}
    return {**found, f"{path}/bias": Source(f"{name}.bias", SAME)} if bias else found


def _norm(path: str, name: str) -> dict[str, Source]:
    return {f"{path}/scale": Source(f"{name}.weight", SAME), f"{path}/bias": Source(f"{name}.bias", SAME)}


def _table(path: str, name: str) -> dict[str, Source]:
    return {f"{path}/table": Source(f"{name}.weight", SAME)}


def bert_map(config: BertConfig) -> WeightMap:
    """Names of `BertModel`; heads of task models and an unused pooler are ignored."""
    layer = "encoder.layer.{i}"
    sources = {
        **_table("embeddings/token", "embeddings.word_embeddings"),
        **_table("embeddings/position", "embeddings.position_embeddings"),
        **_table("embeddings/type", "embeddings.token_type_embeddings"),
        **_norm("embeddings/norm", "embeddings.LayerNorm"),
        **_linear("layers/attention/query", f"{layer}.attention.self.query"),
        **_linear("layers/attention/key", f"{layer}.attention.self.key"),
        **_linear("layers/attention/value", f"{layer}.attention.self.value"),
        **_linear("layers/attention/output", f"{layer}.attention.output.dense"),
        **_norm("layers/attention_norm", f"{layer}.attention.output.LayerNorm"),
        **_linear("layers/mlp/up", f"{layer}.intermediate.dense"),
        **_linear("layers/mlp/down", f"{layer}.output.dense"),
        **_norm("layers/mlp_norm", f"{layer}.output.LayerNorm"),
    }
    ignored = [r"embeddings\.(position_ids|token_type_ids)", r"(cls|classifier|qa_outputs|dropout)\..*"]
    if config.pooling == "pooler":
        sources |= _linear("pooler", "pooler.dense")
    else:
        ignored.append(r"pooler\..*")
    return WeightMap(sources, ("bert.",), tuple(ignored))


def vit_map(config: VitConfig) -> WeightMap:
    """Names of `ViTModel`; pooler, classifier, mask token and decoder are ignored."""
    layer = "encoder.layer.{i}"
    sources = {
        "embeddings/cls/vector": Source("embeddings.cls_token", leading(2)),
        "embeddings/position/table": Source("embeddings.position_embeddings", leading(1)),
        "embeddings/patch/kernel": Source(
            "embeddings.patch_embeddings.projection.weight", patches(config.patch, config.channels)
        ),
        "embeddings/patch/bias": Source("embeddings.patch_embeddings.projection.bias", SAME),
        **_linear("layers/attention/query", f"{layer}.attention.attention.query"),
        **_linear("layers/attention/key", f"{layer}.attention.attention.key"),
        **_linear("layers/attention/value", f"{layer}.attention.attention.value"),
        **_linear("layers/attention/output", f"{layer}.attention.output.dense"),
        **_norm("layers/attention_norm", f"{layer}.layernorm_before"),
        **_linear("layers/mlp/up", f"{layer}.intermediate.dense"),
        **_linear("layers/mlp/down", f"{layer}.output.dense"),
        **_norm("layers/mlp_norm", f"{layer}.layernorm_after"),
        **_norm("final_norm", "layernorm"),
    }
    ignored = (r"embeddings\.mask_token", r"(pooler|classifier|decoder)\..*")
    return WeightMap(sources, ("vit.",), ignored)


def _clip_layers() -> dict[str, Source]:
    layer = "encoder.layers.{i}"
    return {
        **_linear("layers/attention/query", f"{layer}.self_attn.q_proj"),
        **_linear("layers/attention/key", f"{layer}.self_attn.k_proj"),
        **_linear("layers/attention/value", f"{layer}.self_attn.v_proj"),
        **_linear("layers/attention/output", f"{layer}.self_attn.out_proj"),
        **_norm("layers/attention_norm", f"{layer}.layer_norm1"),
        **_linear("layers/mlp/up", f"{layer}.mlp.fc1"),
        **_linear("layers/mlp/down", f"{layer}.mlp.fc2"),
        **_norm("layers/mlp_norm", f"{layer}.layer_norm2"),
    }


def clip_text_map(config: ClipTextConfig) -> WeightMap:
    """Names of `CLIPTextModelWithProjection` or of the text half of `CLIPModel`; the other half is ignored."""
    sources = {
        **_table("embeddings/token", "embeddings.token_embedding"),
        **_table("embeddings/position", "embeddings.position_embedding"),
        **_clip_layers(),
        **_norm("final_norm", "final_layer_norm"),
    }
    bare = ()
    if config.projection is not None:
        sources |= _linear("projection", "text_projection", bias=False)
        bare = ("text_projection.weight",)
    ignored = (r"embeddings\.position_ids", r"vision_model\..*", r"visual_projection\.weight", r"logit_scale")
    return WeightMap(sources, ("text_model.",), ignored, "text_model." if bare else "", bare)


def clip_vision_map(config: ClipVisionConfig) -> WeightMap:
    """Names of `CLIPVisionModelWithProjection` or of the image half of `CLIPModel`; the other half is ignored."""
    sources = {
        "embeddings/cls/vector": Source("embeddings.class_embedding", SAME),
        "embeddings/patch/kernel": Source("embeddings.patch_embedding.weight", patches(config.patch, config.channels)),
        **_table("embeddings/position", "embeddings.position_embedding"),
        **_norm("embeddings/norm", "pre_layrnorm"),
        **_clip_layers(),
        **_norm("final_norm", "post_layernorm"),
    }
    bare = ()
    if config.projection is not None:
        sources |= _linear("projection", "visual_projection", bias=False)
        bare = ("visual_projection.weight",)
    ignored = (r"embeddings\.position_ids", r"text_model\..*", r"text_projection\.weight", r"logit_scale")
    return WeightMap(sources, ("vision_model.",), ignored, "vision_model." if bare else "", bare)


WEIGHT_MAPS: dict[str, Callable[[Any], WeightMap]] = {
    "bert": bert_map,
    "vit": vit_map,
    "clip_text_model": clip_text_map,
    "clip_vision_model": clip_vision_map,
}
