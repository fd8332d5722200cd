"""Closed forms for the operations of a transformer encoder, forward and per training step.

One multiply-add is two operations. The forms count matrix products (projections, attention, feed-forward, patch
embedding), which are 95 % or more of an encoder of real width; norms, softmax and activations are left out. Tests hold
them against `erel_jax.profiling.flops.count_flops`: equal to its `matmul`, within 5 % of its `total` at full size.

>>> giga = vit_flops(layers=12, width=768, mlp_width=3072, image_size=224, patch=16) / 1e9
>>> round(giga, 1)  # ViT-B/16, one image: 17.6 billion multiply-adds
35.1
"""

from typing import Literal

from erel_jax.errors import ConfigError, suggest

Trained = Literal["none", "full", "bias", "lora", "bottleneck"]
_TRAINED = ("none", "full", "bias", "lora", "bottleneck")


def dense_flops(*, layers: int, width: int, mlp_width: int, tokens: int, batch: int = 1) -> float:
    """Products of a stack with its weights: four `D×D` projections and two `D×F` maps per token and layer."""
    return 2.0 * batch * tokens * layers * (4 * width * width + 2 * width * mlp_width)


def attention_flops(*, layers: int, width: int, tokens: int, batch: int = 1) -> float:
    """Products of activations with each other: scores and weighted values, independent of the number of heads."""
    return 2.0 * batch * tokens * layers * (2 * tokens * width)


def transformer_flops(*, layers: int, width: int, mlp_width: int, tokens: int, batch: int = 1) -> float:
    """Forward pass of a stack of transformer layers.

    Args:
        layers, width, mlp_width: depth, D and F of the stack.
        tokens: padded length L; masked positions are computed too.
        batch: B.
    """
    products = dense_flops(layers=layers, width=width, mlp_width=mlp_width, tokens=tokens, batch=batch)
    return products + attention_flops(layers=layers, width=width, tokens=tokens, batch=batch)


def bert_flops(*, layers: int, width: int, mlp_width: int, length: int, batch: int = 1, pooler: bool = False) -> float:
    """Forward pass of a BERT-like text tower; embedding look-ups multiply nothing.

    Args:
        length: padded tokens per text.
        pooler: count the `D×D` map of the first token.
    """
    stack = transformer_flops(layers=layers, width=width, mlp_width=mlp_width, tokens=length, batch=batch)
    return stack + (2.0 * batch * width * width if pooler else 0.0)


def vit_flops(
    *,
    layers: int,
    width: int,
    mlp_width: int,
    image_size: int,
    patch: int,
    batch: int = 1,
    channels: int = 3,
    extra_tokens: int = 1,
) -> float:
    """Forward pass of a ViT-like image tower on square images.

    Args:
        image_size, patch: sides in pixels; the first is a multiple of the second.
        extra_tokens: tokens besides the patches ([CLS]).
    """
    patches = (image_size // patch) ** 2
    embedding = 2.0 * batch * patches * patch * patch * channels * width
    tokens = patches + extra_tokens
    return embedding + transformer_flops(layers=layers, width=width, mlp_width=mlp_width, tokens=tokens, batch=batch)


def training_flops(
    *,
    layers: int,
    width: int,
    mlp_width: int,
    tokens: int,
    batch: int = 1,
    trained: Trained = "full",
    rank: int = 8,
    places: int = 2,
) -> float:
    """One training step of a stack: forward, gradients of activations, gradients of the weights that train.

    The optimizer's own operations (a few per trained parameter) are left out, and so is a tower's embedding.

    Args:
        trained: "none" (frozen tower, nothing below it trains: forward alone), "full", "bias" (no weight gradient,
            but the cotangent still passes through every layer), "lora" (`places` low-rank pairs on `D×D` projections
            per layer) or "bottleneck" (`places` serial adapters `D→rank→D` per layer).
        rank: R, of LoRA or of the bottleneck.
        places: how many matrices of each layer carry an adapter.

    Returns:
        Global operations of one step.

    Raises:
        ConfigError: unknown `trained`.
    """
    if trained not in _TRAINED:
        raise ConfigError(f"got trained={trained!r}. {suggest(str(trained), _TRAINED)}")
    weights = dense_flops(layers=layers, width=width, mlp_width=mlp_width, tokens=tokens, batch=batch)
    mixing = attention_flops(layers=layers, width=width, tokens=tokens, batch=batch)
    forward = weights + mixing
    if trained == "none":
        return forward
    # Each product with a weight has one activation gradient; a product of two activations has two.
    through = weights + 2 * mixing
    if trained == "full":
        return forward + through + weights
    adapters = 2.0 * batch * tokens * layers * places * (2 * width * rank) if trained in ("lora", "bottleneck") else 0.0
    return forward + through + 3 * adapters
