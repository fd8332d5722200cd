"""Encoders from Hugging Face folders: architecture, weights, tokenizer and image processor in one call.

    loaded = load_encoder("sentence-transformers/all-MiniLM-L6-v2")
    inputs = loaded.text_inputs(["a red shoe"], max_length=32)
    vectors = loaded.encoder.module.apply(loaded.params, inputs).embedding

Nothing from the folder is executed: weights are read from safetensors alone, code of the repository is refused.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.sharding import Mesh

from erel_jax.artifacts import verify_manifest
from erel_jax.encoders import ENCODERS, Encoder
from erel_jax.errors import CheckpointError, ConfigError
from erel_jax.folders import safe_join
from erel_jax.interop.configurations import towers
from erel_jax.interop.export import is_artifact
from erel_jax.interop.families import FAMILIES
from erel_jax.interop.hub import Source, locate
from erel_jax.interop.image_processor import ImageProcessor, read_image_processor
from erel_jax.interop.prompts import Prompts
from erel_jax.interop.safetensors_folder import TensorFolder, read_json
from erel_jax.interop.sentence_transformers import SentenceSettings, read_prompts, read_settings
from erel_jax.interop.tokenizer import TextTokenizer, read_tokenizer
from erel_jax.interop.weights import read_params
from erel_jax.layers import FLOAT32, Precision
from erel_jax.sharding import named_rules, shardings
from erel_jax.sharding.rules import Rules


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """An encoder with what it needs to be used.

    Attributes:
        encoder: the tower; `encoder.module.apply(params, inputs, taps=...)`.
        params: its parameters, in the dtype `precision.param`.
        tokenizer: for text encoders whose folder has one.
        image_processor: for image encoders whose folder has its settings.
        source: the Hub id or folder it came from.
        revision: 40-digit commit of a Hub snapshot, None for a plain folder.
        fingerprint: SHA-256 over weights, configuration, pooling and preprocessing: equal fingerprints give equal
            states, so caches of states are named by it.
    """

    encoder: Encoder
    params: Any
    tokenizer: TextTokenizer | None
    image_processor: ImageProcessor | None
    source: str
    revision: str | None
    fingerprint: str

    def text_inputs(
        self,
        texts: Sequence[str],
        max_length: int | None = None,
        buckets: Sequence[int] | None = None,
        prompt: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Inputs of a text encoder, see `TextTokenizer.encode`.

        Returns:
            `{"ids": int32[N, L], "mask": bool[N, L]}` on the host.

        Raises:
            ConfigError: this is no text encoder, or its folder has no tokenizer.
        """
        if self.tokenizer is None:
            raise ConfigError(
                f"{self.source} gives {self.encoder.modality} states and came without a tokenizer. For texts, load a "
                "text encoder whose folder has tokenizer.json."
            )
        return self.tokenizer.encode(texts, max_length, buckets, prompt)

    def image_inputs(self, images: np.ndarray | Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Inputs of an image encoder, see `ImageProcessor.process`.

        Args:
            images: uint8[N, H, W, 3], or N arrays uint8[H, W, 3] of any sizes.

        Returns:
            `{"pixels": float32[N, h, w, 3]}` on the host.

        Raises:
            ConfigError: this is no image encoder, or its folder has no settings for images.
        """
        if self.image_processor is None:
            raise ConfigError(
                f"{self.source} gives {self.encoder.modality} states and came without image settings. For pictures, "
                "load an image encoder whose folder has preprocessor_config.json."
            )
        return {"pixels": self.image_processor.process(images)}


def load_encoder(
    id_or_folder: str | os.PathLike[str],
    *,
    modality: str | None = None,
    precision: Precision = FLOAT32,
    pooling: str | None = None,
    prompt: str | None = None,
    revision: str | None = None,
    remat: bool = False,
    mesh: Mesh | None = None,
    rules: Rules | str | None = None,
) -> Loaded:
    """One encoder of a Hugging Face folder or Hub id.

    Args:
        id_or_folder: a folder with `config.json` and safetensors weights, or a Hub id.
        modality: "text" or "image"; needed for a CLIP model, which has both.
        precision: dtypes of the encoder; parameters are cast to `precision.param`.
        pooling: one of the family's, for example "cls", "pooler" or "mean" for BERT and "mean" or "last" for LLaMA;
            None takes what the folder says (sentence-transformers folders do), else the family's first: "cls" for
            bidirectional encoders, "mean" for decoders.
        prompt: words around every text, for `Loaded.text_inputs`: the name of a prompt of the folder, a template with
            `{text}`, or "" for none; None takes what the folder says.
        revision: branch, tag or commit of a Hub id.
        remat: recompute layers in the backward pass.
        mesh: devices to put the parameters on, see `sharding.make_mesh`; None for the default device.
        rules: how they are split over the mesh: a table or its name in `sharding.RULES`, "replicated" by default.

    Returns:
        `Loaded`. Tensors are read one by one into the slices that the devices hold, so that the host's memory peaks at
        little more than the placed parameters.

    Raises:
        ConfigError: not a folder or id, an unknown architecture, an option that does not fit it, or rules without a
            mesh.
        CheckpointError: the weights do not fit the configuration (one report), or there are only pickles.
        CorruptArtifactError: a damaged or unsafe file.
        NonFiniteError: weights with NaN or infinity.
    """
    source = locate(id_or_folder, revision)
    document = _config(source)
    available = towers(document, source.folder / "config.json")
    if modality is None and len(available) > 1:
        raise ConfigError(f"{source.name} has a text and an image encoder; choose one with modality='text' or 'image'.")
    chosen = next(iter(available)) if modality is None else modality
    if chosen not in available:
        raise ConfigError(f"{source.name} has no encoder for {chosen!r}, only for {sorted(available)}.")
    options = {"precision": precision, "pooling": pooling, "prompt": prompt, "remat": remat}
    return _load(source, *available[chosen], placing=_placing(mesh, rules), **options)


def load_towers(
    id_or_folder: str | os.PathLike[str],
    *,
    precision: Precision = FLOAT32,
    revision: str | None = None,
    mesh: Mesh | None = None,
    rules: Rules | str | None = None,
) -> dict[str, Loaded]:
    """Every encoder of a folder by modality: both towers of a CLIP model, the one encoder of others.

    Args:
        id_or_folder: as in `load_encoder`.
        precision: dtypes of the encoders.
        revision: branch, tag or commit of a Hub id.
        mesh, rules: where the parameters go, as in `load_encoder`.

    Returns:
        Modality ("text", "image") to `Loaded`.
    """
    source = locate(id_or_folder, revision)
    available = towers(_config(source), source.folder / "config.json")
    placing = _placing(mesh, rules)
    return {name: _load(source, *tower, placing=placing, precision=precision) for name, tower in available.items()}


def _placing(mesh: Mesh | None, rules: Rules | str | None) -> Callable[[Any], Any]:
    """From a spec to the places of its parameters, None for the default device."""
    if mesh is None:
        if rules is not None:
            raise ConfigError("got sharding rules without a mesh; pass mesh=sharding.make_mesh(...) too.")
        return lambda spec: None
    rules = "replicated" if rules is None else rules
    table = named_rules(rules) if isinstance(rules, str) else rules
    return lambda spec: shardings(spec, mesh, table)


def _config(source: Source) -> dict[str, Any]:
    path = safe_join(source.folder, "config.json", link_root=source.link_root)
    if not path.is_file():
        raise CheckpointError(f"{source.folder} has no config.json. Point to a folder in the Hugging Face layout.")
    return read_json(path)


def _load(
    source: Source,
    kind: str,
    document: dict[str, Any],
    *,
    placing: Callable[[Any], Any],
    precision: Precision,
    pooling: str | None = None,
    prompt: str | None = None,
    remat: bool = False,
) -> Loaded:
    family = FAMILIES[kind]
    settings = read_settings(source.folder, source.link_root) if family.poolings else SentenceSettings()
    if pooling is not None and not family.poolings:
        choices = sorted(name for name, other in FAMILIES.items() if other.poolings)
        raise ConfigError(f"got pooling {pooling!r} for {source.name}; only {', '.join(choices)} have a choice.")
    prompts = Prompts() if family.modality != "text" else read_prompts(source.folder, source.link_root)
    prompts = prompts if prompt is None else prompts.choose(prompt)
    if is_artifact(source.folder):
        verify_manifest(source.folder, kind="encoder")
    tensors = TensorFolder(source.folder, link_root=source.link_root)
    stated = document.get("erel_jax_pooling")
    if not isinstance(stated, str | None):
        raise ConfigError(f"config.json has erel_jax_pooling = {stated!r}, expected one of {family.poolings}.")
    pooled = pooling or stated or settings.pooling or (family.poolings or ("cls",))[0]
    config = family.read(document, pooled, tensors.names)
    encoder = ENCODERS[kind].build(config, precision, remat=remat)
    tokenizer = image_processor = None
    if encoder.modality == "text":
        tokenizer = read_tokenizer(
            source.folder,
            max_positions=config.max_positions,
            vocabulary=config.vocabulary,
            max_length=settings.max_length,
            lowercase=settings.lowercase,
            prompts=prompts,
            link_root=source.link_root,
        )
        _check_end(tokenizer, config, source)
        _check_padding(tokenizer, config, source)
    if prompts.default is not None and tokenizer is None:
        raise ConfigError(
            f"{source.name} has no tokenizer to put prompt {prompts.default!r} around texts; a prompt needs a text "
            "encoder whose folder has tokenizer.json."
        )
    if encoder.modality == "image":
        image_processor = read_image_processor(source.folder, source.link_root)
    return Loaded(
        encoder=encoder,
        params=read_params(tensors, family.weights(config), encoder.module.spec, placing(encoder.module.spec)),
        tokenizer=tokenizer,
        image_processor=image_processor,
        source=source.name,
        revision=source.revision,
        fingerprint=_fingerprint(tensors, kind, config, precision, tokenizer, image_processor),
    )


def _check_end(tokenizer: TextTokenizer | None, config: Any, source: Source) -> None:
    """Refuses a text tower that would read another token than the one its tokenizer puts last."""
    expected = getattr(config, "eos_id", None)
    if tokenizer is None or expected is None:
        return
    if expected == 2:
        expected = tokenizer.vocabulary - 1
    if tokenizer.end_id != expected:
        raise CheckpointError(
            f"{source.name}: texts end with token {tokenizer.end_id}, the configuration reads token {expected}. "
            "Tokenizer and config.json do not belong together."
        )


def _check_padding(tokenizer: TextTokenizer | None, config: Any, source: Source) -> None:
    """Refuses a text tower that reads its padding as another token than the one its tokenizer pads with."""
    expected = getattr(config, "pad_id", None)
    if tokenizer is not None and expected is not None and tokenizer.pad_id != expected:
        raise CheckpointError(
            f"{source.name}: the tokenizer pads with token {tokenizer.pad_id}, the configuration with {expected}, and "
            "this encoder reads its padding. Tokenizer and config.json do not belong together."
        )


def _fingerprint(
    tensors: TensorFolder,
    kind: str,
    config: Any,
    precision: Precision,
    tokenizer: TextTokenizer | None,
    image_processor: ImageProcessor | None,
) -> str:
    prompted = None if tokenizer is None else tokenizer.prompts.around
    described = {
        "weights": tensors.digests(),
        "kind": kind,
        "config": repr(config),
        "precision": repr(precision),
        "tokenizer": None if tokenizer is None else [tokenizer.to_json(), tokenizer.lowercase],
        "image_processor": None if image_processor is None else image_processor.document,
    }
    if prompted is not None and any(prompted):
        described["prompt"] = prompted
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
