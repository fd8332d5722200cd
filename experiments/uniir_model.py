"""The model of `uniir.py`: two towers and a fusion of what an example has, and the settings of a run."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax import encoders, fusion, losses, module
from erel_jax.data.image_sources import Pictures
from erel_jax.data.mbeir import MbeirItem
from erel_jax.data.mbeir_tasks import MbeirData, gather_inputs
from erel_jax.errors import ConfigError
from erel_jax.interop.wordpiece import train_wordpiece
from erel_jax.layers import dense, layer_norm


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """One run; the defaults are those of UniIR on CLIP ViT-L/14, but for the batch of one device.

    Attributes:
        data: folder in the layout of M-BEIR.
        encoder: CLIP folder or Hub id, None for small towers from nothing.
        fusion: "score" or "feature".
        batch: pairs in a batch.
        sub_batch: examples whose activations exist at once, None for the whole batch.
        epochs: passes over the training queries.
        rate, fusion_rate: peak learning rates of the towers and of the fusion.
        text_length: tokens of a text.
        out: folder for checkpoints, from which a stopped run goes on; None stores nothing.
        seed: of parameters, order, wordings and chosen positives.
    """

    data: str
    encoder: str | None = None
    fusion: str = "score"
    batch: int = 96
    sub_batch: int | None = None
    epochs: int = 20
    rate: float = 1e-5
    fusion_rate: float = 5e-4
    text_length: int = 77
    out: str | None = None
    seed: int = 0

    def __post_init__(self):
        if self.fusion not in ("score", "feature"):
            raise ConfigError(f"got fusion {self.fusion!r}, expected 'score' or 'feature'.")
        sub_batch = self.batch if self.sub_batch is None else self.sub_batch
        if min(self.batch, self.epochs, self.text_length, sub_batch) < 1:
            raise ConfigError(f"got {self}; expected batch, sub_batch, epochs and text_length of at least 1.")


class Model:
    """Two towers and a fusion: from texts and pictures to one embedding.

    Args:
        settings: the run.
        data: training texts, for the tokenizer of towers from nothing.

    Attributes:
        params: first parameters: `text`, `image`, `fusion` (where it has any) and `log_scale`.
        encode: `encode(params, inputs, key) -> float32[B, E]` on what `inputs` makes.
    """

    def __init__(self, settings: Settings, data: MbeirData) -> None:
        self.length = settings.text_length
        self.tokenize, self.process, towers = small(settings, data) if settings.encoder is None else loaded(settings)
        self.text, self.image = towers["text"][0], towers["image"][0]
        self.size = self.image.config.image_size
        self.resize = settings.encoder is None
        self.params: dict[str, Any] = {name: params for name, (_, params) in towers.items()}
        self.params["log_scale"] = jnp.asarray(losses.INITIAL_LOG_SCALE, jnp.float32)
        self.encode = self.by_score
        if settings.fusion == "feature":
            width = self.image.embedding_width
            config = fusion.FeatureFusionConfig(widths=(self.text.width, width), width=width)
            if settings.encoder is None:
                config = dataclasses.replace(config, heads=4, head_width=16, mlp_width=2 * width)
            self.fusion = fusion.feature_fusion(config)
            self.params["fusion"] = module.init(jax.random.key(settings.seed + 1), self.fusion.spec)
            # Token states of the text tower are read before its projection, which is left over.
            self.params["text"] = {name: value for name, value in self.params["text"].items() if name != "projection"}
            self.encode = self.by_feature

    def by_score(self, params: Any, inputs: Mapping[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
        """CLIP-SF."""
        text = self.text.module.apply(params["text"], {"ids": inputs["ids"], "mask": inputs["mask"]})
        image = self.image.module.apply(params["image"], {"pixels": self.shown(inputs)})
        return fusion.score_fusion([text.embedding, image.embedding], inputs["present"])

    def by_feature(self, params: Any, inputs: Mapping[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
        """CLIP-FF."""
        given = {"ids": inputs["ids"], "mask": inputs["mask"]}
        text = self.text.module.apply(params["text"], given, embedding=False, tokens=True)
        image = self.image.module.apply(
            params["image"], {"pixels": self.shown(inputs)}, embedding=False, tokens=True
        ).tokens
        normed = layer_norm(params["image"]["final_norm"], image, self.image.config.eps)
        patches = dense(normed, params["image"]["projection"]["kernel"])
        return self.fusion.apply(params["fusion"], [text.tokens, patches], [text.mask, None], inputs["present"])

    def shown(self, inputs: Mapping[str, jax.Array]) -> jax.Array:
        """Pixels, 0 where there is no picture: what stands there must not reach the tower's gradients."""
        return jnp.where(inputs["present"][:, 1, None, None, None], inputs["pixels"], 0.0)

    def inputs(
        self, items: Sequence[MbeirItem], data: MbeirData, pictures: Pictures, texts: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Tokens, pixels and presence of queries or candidates, on the host."""
        found = gather_inputs(items, pictures, self.size, texts=texts, resize=self.resize, bad=data.bad)
        present = np.stack([found.has_text, found.has_image], axis=1)
        return {**self.tokenize(found.texts), "pixels": self.process(found.pictures), "present": present}


def loaded(settings: Settings) -> tuple[Callable, Callable, dict[str, tuple[Any, Any]]]:
    """Tokenizer, image processor and towers of a CLIP folder."""
    from erel_jax.interop.huggingface import load_towers

    assert settings.encoder is not None
    towers = load_towers(settings.encoder)
    if set(towers) != {"text", "image"} or not isinstance(towers["image"].encoder.config, encoders.ClipVisionConfig):
        raise ConfigError(f"{settings.encoder} is no CLIP model with two towers. Name a CLIP folder with --encoder.")
    text, image = towers["text"], towers["image"]
    length = min(settings.text_length, text.encoder.config.max_positions)
    return (
        lambda texts: text.text_inputs(texts, max_length=length),
        lambda pictures: image.image_inputs(pictures)["pixels"],
        {name: (tower.encoder, tower.params) for name, tower in towers.items()},
    )


def small(settings: Settings, data: MbeirData) -> tuple[Callable, Callable, dict[str, tuple[Any, Any]]]:
    """Tokenizer, image processor and towers from nothing."""
    seed = None if data.instructions is None else settings.seed
    spoken = [text for task in data.tasks.values() for text in data.texts(task, seed)]
    spoken += [item.text for item in data.union.items if item.text]
    tokenizer = train_wordpiece(spoken, vocabulary=512, max_length=settings.text_length)
    assert tokenizer.end_id is not None
    shape: dict[str, Any] = {"width": 64, "layers": 2, "heads": 4, "mlp_width": 128, "projection": 64}
    text = encoders.clip_text(
        encoders.ClipTextConfig(
            vocabulary=tokenizer.vocabulary, max_positions=settings.text_length, eos_id=tokenizer.end_id, **shape
        )
    )
    image = encoders.clip_vision(encoders.ClipVisionConfig(image_size=16, patch=4, **shape))
    key = jax.random.key(settings.seed)
    return (
        tokenizer.encode,
        lambda pictures: np.stack(pictures).astype(np.float32) / 127.5 - 1.0,
        {name: (tower, drawn(key, tower.module.spec)) for name, tower in (("text", text), ("image", image))},
    )


def drawn(key: jax.Array, spec: Any) -> Any:
    """First parameters of a narrow tower: the usual 0.02 is meant for ten times the width and starts too slowly."""
    return jax.tree.map(lambda p: 4.0 * p if p.ndim > 1 else p, module.init(key, spec))
