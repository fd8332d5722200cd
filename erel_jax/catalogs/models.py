"""The encoder of a catalog: a tower of a folder or Hub id, arranged for serving, that returns finished vectors."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.compression import in_chunks, quantize_grouped, quantize_int8, quantize_nf4, serving_params
from erel_jax.errors import ConfigError
from erel_jax.folders import safe_join
from erel_jax.interop.configurations import towers
from erel_jax.interop.hub import locate
from erel_jax.interop.huggingface import Loaded, load_encoder
from erel_jax.interop.image_processor import PixelSettings
from erel_jax.interop.safetensors_folder import TensorFolder, read_json
from erel_jax.layers import BFLOAT16, FLOAT32
from erel_jax.sharding import Step, compile_step

MODALITIES = ("image", "text")
CHUNK_TOKENS = 1024
"""Tokens that a CPU encodes at a time: more leave its cache."""
SHORTEST_BUCKET = 16
SMALLER: Mapping[str, Callable[[Any], Any]] = {
    "int8": quantize_int8,
    "int4": partial(quantize_grouped, group=32),  # divides the widths of all families
    "nf4": quantize_nf4,
}
"""Rewrites of parameters by the names that `--precision` knows; a new one is a line here and in `config`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedder:
    """A tower that turns prepared inputs into vectors.

    Attributes:
        loaded: the tower with its tokenizer or image processor.
        modality: "image" or "text".
        params: its parameters, arranged for serving.
        step: `step(params, inputs) -> (float32[B, E], float32[B])`: vectors of length 1, and the length they had.
        width: E, after truncation.
        buckets: lengths in tokens that texts are padded to.
        settings: how pictures become pixels; None where only the image processor knows.
        space: fingerprint of the vector space: weights, configuration, pooling and width. Both towers of a CLIP model
            share it; the number format and prompts do not enter.
    """

    loaded: Loaded
    modality: str
    params: Any
    step: Step
    width: int
    buckets: tuple[int, ...]
    settings: PixelSettings | None
    space: str

    def encode(self, inputs: dict[str, np.ndarray]) -> tuple[jax.Array, jax.Array]:
        """Vectors and their lengths; returns before they are computed where the backend allows that."""
        return self.step(self.params, jax.tree.map(jnp.asarray, inputs))


def modalities_of(model: str, revision: str | None = None) -> list[str]:
    """What a model reads: "image", "text" or both.

    Raises:
        ConfigError: neither a folder nor a Hub id, of an unknown architecture, or it reads neither.
        CheckpointError: the folder has no configuration.
    """
    if pair := _pair(model):
        return list(pair)
    source = locate(model, revision)
    path = safe_join(source.folder, "config.json", link_root=source.link_root)
    if not path.is_file():
        raise ConfigError(
            f"{source.folder} has no config.json. Point --model to a folder in the Hugging Face layout, or to one that "
            "holds two such folders, `image` and `text`."
        )
    found = [name for name in MODALITIES if name in (known := towers(read_json(path), path))]
    if not found:
        raise ConfigError(f"{model} reads {', '.join(known)}; catalogs have pictures and texts. Choose another model.")
    return found


def load_embedder(
    model: str,
    modality: str,
    *,
    precision: str = "bfloat16",
    pooling: str | None = None,
    prompt: str | None = None,
    max_length: int | None = None,
    dims: int | None = None,
    revision: str | None = None,
) -> Embedder:
    """Loads a tower for embedding.

    Args:
        model: folder in the Hugging Face layout, folder of two of them (`image` and `text`, trained for one space), or
            Hub id.
        modality: "image" or "text".
        precision: "float32", "bfloat16", or weights of "int8", "int4" or "nf4" with bfloat16 around them.
        pooling, prompt, revision: as of `load_encoder`.
        max_length: most tokens of a text; None takes the tokenizer's.
        dims: leading dimensions that are kept, for models trained so; None keeps all.

    Raises:
        ConfigError: an option that does not fit the model, or a text model without tokenizer.
        CheckpointError: weights that do not fit.
    """
    policy = FLOAT32 if precision == "float32" else BFLOAT16
    source = _pair(model).get(modality, model)
    loaded = load_encoder(
        source, modality=modality, precision=policy, pooling=pooling, prompt=prompt, revision=revision
    )
    encoder = loaded.encoder
    if dims is not None and not 1 <= dims <= encoder.embedding_width:
        raise ConfigError(f"--dims is {dims}, expected 1 to {encoder.embedding_width}, the width of {model}.")
    needed = loaded.tokenizer if modality == "text" else loaded.image_processor
    if needed is None:
        file = "tokenizer.json" if modality == "text" else "preprocessor_config.json"
        raise ConfigError(f"{model} came without {file}, which says how {modality}s are prepared. Get that file too.")
    width = dims or encoder.embedding_width
    params = _smaller(model, loaded.params, precision)
    settings = None if loaded.image_processor is None else loaded.image_processor.pixel_settings()
    return Embedder(
        loaded=loaded,
        modality=modality,
        params=serving_params(params, encoder.layers, policy.compute),
        step=compile_step(_encoding(loaded, width, settings)),
        width=width,
        buckets=_buckets(loaded, max_length) if modality == "text" else (),
        settings=settings,
        space=_space(model, loaded, width, revision),
    )


def _smaller(model: str, params: Any, precision: str) -> Any:
    if precision not in SMALLER:
        return params
    try:
        return SMALLER[precision](params)
    except ConfigError as error:  # a width that blocks do not divide; int8 has none
        raise ConfigError(
            f"--precision {precision} does not fit {model}: {error} Take int8, bfloat16 or float32."
        ) from error


def _encoding(loaded: Loaded, width: int, settings: PixelSettings | None) -> Callable[[Any, Any], Any]:
    """A pure function from parameters and one batch to vectors and their lengths."""

    def embed(params: Any, inputs: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        if settings is not None and "pixels" in inputs and inputs["pixels"].dtype == jnp.uint8:
            scale, shift = (jnp.asarray(part)[None, None, None] for part in (settings.scale, settings.shift))
            inputs = {"pixels": inputs["pixels"].astype(jnp.float32) * scale + shift}
        vectors = loaded.encoder.module.apply(params, inputs).embedding[:, :width].astype(jnp.float32)
        largest = jnp.max(
            jnp.abs(vectors), axis=1, keepdims=True
        )  # first to 1, so that squares neither over- nor underflow
        scaled = vectors / jnp.where(largest > 0, largest, 1.0)
        length = jnp.sqrt(jnp.sum(scaled * scaled, axis=1, keepdims=True))
        return scaled / jnp.where(length > 0, length, 1.0), (length * largest)[:, 0]

    def chunked(params: Any, inputs: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        rows = next(iter(inputs.values())).shape[0]
        if jax.default_backend() != "cpu":
            return embed(params, inputs)
        tokens = inputs["ids"].shape[1] if "ids" in inputs else getattr(loaded.encoder.config, "patches", 196) + 1
        fitting = [size for size in range(1, rows + 1) if rows % size == 0 and size * tokens <= CHUNK_TOKENS]
        return in_chunks(embed, max(fitting, default=1))(params, inputs)

    return chunked


def _buckets(loaded: Loaded, max_length: int | None) -> tuple[int, ...]:
    """Powers of two up to the longest text."""
    assert loaded.tokenizer is not None
    limit = loaded.tokenizer.max_length if max_length is None else max_length
    if not 1 <= limit <= loaded.tokenizer.max_length:
        raise ConfigError(f"--max-length is {max_length}, expected 1 to {loaded.tokenizer.max_length}.")
    around = 0 if max_length is None else int(loaded.tokenizer.encode([""])["mask"].sum())
    if limit <= around:
        raise ConfigError(
            f"--max-length is {limit}, expected at least {around + 1}: {around} tokens are no text's own."
        )
    sizes = [SHORTEST_BUCKET]
    while sizes[-1] < limit:
        sizes.append(2 * sizes[-1])
    return (*[size for size in sizes if size < limit], limit)


def _pair(model: str) -> dict[str, str]:
    """The folders of two towers side by side by modality; empty for any other model."""
    folder = Path(model)
    if (folder / "config.json").exists():
        return {}
    return {name: str(folder / name) for name in MODALITIES if (folder / name / "config.json").is_file()}


def _space(model: str, loaded: Loaded, width: int, revision: str | None) -> str:
    found = [locate(part, revision) for part in _pair(model).values() or (model,)]
    described = {
        "weights": [TensorFolder(source.folder, link_root=source.link_root).digests() for source in found],
        "config": [read_json(safe_join(source.folder, "config.json", link_root=source.link_root)) for source in found],
        "pooling": getattr(loaded.encoder.config, "pooling", None) if len(found) == 1 else None,
        "width": width,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
