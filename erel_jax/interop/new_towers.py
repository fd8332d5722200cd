"""Small encoders with random weights, for training from nothing: complete with tokenizer or image settings.

They look like what `load_encoder` returns, so whatever trains, saves or reads a loaded encoder takes them as well.
"""

from collections.abc import Sequence
from typing import Any

import jax

from erel_jax import module
from erel_jax.encoders import BertConfig, Encoder, VitConfig, bert, vit
from erel_jax.errors import ConfigError
from erel_jax.interop.huggingface import Loaded
from erel_jax.interop.image_processor import ImageProcessor, vit_settings
from erel_jax.interop.wordpiece import train_wordpiece
from erel_jax.layers import FLOAT32, Precision


def new_image_tower(
    size: int,
    *,
    width: int = 128,
    layers: int = 3,
    patch: int = 8,
    seed: int = 0,
    precision: Precision = FLOAT32,
) -> Loaded:
    """A ViT with random weights that reads square pictures.

    Args:
        size: Height and width of its pictures in pixels, a multiple of `patch`.
        width: D, also the width of its embedding; a multiple of four heads of any width, or of fewer.
        layers: Transformer layers.
        patch: Height and width of a patch in pixels.
        seed: Of the weights.
        precision: Dtypes of the encoder.

    Returns:
        The encoder with an image processor that maps pixels to -1..1.

    Raises:
        ConfigError: The numbers do not fit together.
    """
    heads, mlp = _heads(width), 4 * width
    config = VitConfig(image_size=size, patch=patch, width=width, layers=layers, heads=heads, mlp_width=mlp)
    return _new(vit(config, precision), seed, precision, image_processor=ImageProcessor(vit_settings(size)))


def new_text_tower(
    texts: Sequence[str],
    *,
    width: int = 128,
    layers: int = 2,
    vocabulary: int = 8000,
    tokens: int = 64,
    seed: int = 0,
    precision: Precision = FLOAT32,
) -> Loaded:
    """A BERT with random weights and a WordPiece vocabulary trained on some texts; it pools by the mean.

    Args:
        texts: What the vocabulary is trained on.
        width: D, also the width of its embedding.
        layers: Transformer layers.
        vocabulary: Most entries of the vocabulary.
        tokens: Longest text in tokens.
        seed: Of the weights.
        precision: Dtypes of the encoder.

    Returns:
        The encoder with its tokenizer.

    Raises:
        ConfigError: There are no texts, or the numbers do not fit together.
    """
    if not texts:
        raise ConfigError("got no texts to train a vocabulary on; pass the training texts.")
    tokenizer = train_wordpiece(texts, vocabulary=vocabulary, max_length=tokens)
    config = BertConfig(
        vocabulary=tokenizer.vocabulary,
        width=width,
        layers=layers,
        heads=_heads(width),
        mlp_width=4 * width,
        max_positions=tokens,
        pooling="mean",
    )
    return _new(bert(config, precision), seed, precision, tokenizer=tokenizer)


def _heads(width: int) -> int:
    return next(heads for heads in (4, 3, 2, 1) if width % heads == 0)


def _new(encoder: Encoder, seed: int, precision: Precision, **parts: Any) -> Loaded:
    return Loaded(
        encoder=encoder,
        params=module.init(jax.random.key(seed), encoder.module.spec),
        source="random weights",
        revision=None,
        fingerprint=f"random weights, seed {seed}, {precision}, {encoder.config}",
        **{"tokenizer": None, "image_processor": None, **parts},
    )
