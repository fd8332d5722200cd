"""Feature fusion: the tokens of all modalities meet in a light transformer before they are averaged.

The encoder is T5's: RMSNorm before each sub-layer, no biases, unscaled scores with a learned bias per head and bucket
of distance, ReLU. It is masked: padding and the tokens of an absent modality are neither read nor averaged.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.errors import ConfigError
from erel_jax.fusion.presence import check_inputs, check_present, kept
from erel_jax.layers import FLOAT32, Precision, attend, dense, masked_mean, run_stack
from erel_jax.layers.norm import rms_norm, rms_norm_spec
from erel_jax.module import Module, ParamSpec, normal, stack


@dataclass(frozen=True, kw_only=True)
class FeatureFusionConfig:
    """A feature fusion; the defaults are UniIR's on CLIP ViT-L/14.

    Attributes:
        widths: width of each modality's tokens, in the order in which they are given. One that is not `width` is
            brought to it by a linear map.
        width: width D of the encoder.
        layers: transformer layers.
        heads: attention heads H.
        head_width: channels K of a head; H·K need not be D.
        mlp_width: feed-forward width F.
        buckets: number of buckets of distances, half of them for each direction.
        far: distance in tokens from which on all share the last bucket, as tokens of different modalities do.
        projection: embedding width E of a last linear map, or None for none (E = D).
        eps: epsilon of the norms.
    """

    widths: tuple[int, ...] = (768, 768)
    width: int = 768
    layers: int = 2
    heads: int = 12
    head_width: int = 64
    mlp_width: int = 2048
    buckets: int = 32
    far: int = 128
    projection: int | None = None
    eps: float = 1e-6

    def __post_init__(self):
        sizes = (*self.widths, self.width, self.layers, self.heads, self.head_width, self.mlp_width)
        if not self.widths or min(sizes) < 1 or (self.projection is not None and self.projection < 1):
            raise ConfigError(f"got {self}; expected at least one modality and sizes of at least 1.")
        if self.buckets < 4 or self.buckets % 4 or self.far <= self.buckets // 4:
            raise ConfigError(
                f"got {self.buckets} buckets up to distance {self.far}; expected a multiple of 4, and a distance above "
                "a quarter of it."
            )

    @classmethod
    def tiny(cls, width: int = 16) -> "FeatureFusionConfig":
        """A few thousand parameters on tokens of one width, for tests."""
        return cls(widths=(width, width), width=width, heads=2, head_width=8, mlp_width=2 * width)


def feature_fusion(config: FeatureFusionConfig, precision: Precision = FLOAT32) -> Module:
    """Tokens of all modalities → masked transformer encoder → masked mean → optional projection.

    Args:
        config: the architecture.
        precision: dtypes of the products.

    Returns:
        A `Module` whose `apply(params, tokens, masks, present, key=None, train=False)` takes

        - `tokens`: M times float[B, L_m, D_m], any lengths;
        - `masks`: M times bool[B, L_m] of real tokens, or None where all are;
        - `present`: bool[B, M]; False leaves the modality out, exactly as if it were not given;

        and returns float32[B, E], not normalized. A row with nothing present gives 0. ConfigError where shapes or
        dtypes do not fit.

    Positions: tokens of one modality know their distances; those of different modalities are far from each other,
    with a direction. So neither padding nor an absent modality moves the others.

    Numerics: norms, scores, softmax and the mean in float32. Values in absent or padded places, NaN included, have no
    influence on value or gradient.

    Cost: 11.0 M parameters with the default sizes, `count(feature_fusion(config).spec)` for others.

    Reference: CLIP-FF of UniIR (Wei et al. 2024) on T5's encoder (Raffel et al. 2020). UniIR passes no mask, counts
    distances through the joined sequence and drops out a tenth while training; here there is a mask, distances as above
    and no dropout. Relation: `score_fusion` has no parameters and was better in UniIR's comparison on CLIP.
    """

    def apply(
        params: Any,
        tokens: Sequence[jax.Array],
        masks: Sequence[jax.Array | None],
        present: jax.Array,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        mask = _token_mask(config, tokens, masks, present)
        joined = []
        for m, (x, width) in enumerate(zip(tokens, config.widths, strict=True)):
            start = sum(jnp.shape(other)[1] for other in tokens[:m])
            x = kept(x.astype(precision.accumulate), mask[:, start : start + x.shape[1]])
            joined.append(x if width == config.width else dense(x, params["inputs"][str(m)]["kernel"], None, precision))
        lengths = tuple(jnp.shape(x)[1] for x in tokens)
        buckets = distance_buckets(lengths, config.buckets, config.far)
        bias = jnp.transpose(params["distance"]["table"].astype(precision.accumulate)[buckets], (2, 0, 1))[None]
        visible = mask[:, None, None, :]
        states, _ = run_stack(
            lambda layer, x: _layer(config, precision, layer, x, visible, bias),
            params["layers"],
            jnp.concatenate(joined, axis=1),
            layers=config.layers,
        )
        pooled = masked_mean(rms_norm(params["final_norm"], states, config.eps), mask)
        if config.projection is None:
            return pooled
        return dense(pooled, params["projection"]["kernel"], None, precision).astype(jnp.float32)

    return Module(_spec(config), apply)


def distance_buckets(lengths: Sequence[int], buckets: int, far: int) -> np.ndarray:
    """Which bucket the distance from each token to each other one falls into.

    Args:
        lengths: tokens of each modality.
        buckets: number of buckets; the second half is for tokens to the right.
        far: distance from which on all share the last bucket of their half.

    Returns:
        int32[L, L] for L = Σ lengths. A quarter of the buckets holds one distance each, the next quarter grows with
        the logarithm of the distance.
    """
    half, exact = buckets // 2, buckets // 4
    place = np.concatenate([np.arange(length) for length in lengths])
    owner = np.repeat(np.arange(len(lengths)), lengths)
    step = place[None, :] - place[:, None]
    step = np.where(owner[None, :] == owner[:, None], step, far * np.sign(owner[None, :] - owner[:, None]))
    distance = np.abs(step)
    # In float32 like every implementation of T5: at a border, another precision would choose another bucket.
    grown = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact)) / np.float32(math.log(far / exact))
    coarse = np.minimum(exact + (grown * (half - exact)).astype(np.int32), half - 1)
    return (np.where(distance < exact, distance, coarse) + np.where(step > 0, half, 0)).astype(np.int32)


def _spec(config: FeatureFusionConfig) -> dict[str, Any]:
    width, inner = config.width, config.heads * config.head_width

    def kernel(shape: tuple[int, int], axes: tuple[str | None, str | None], std: float) -> dict[str, ParamSpec]:
        return {"kernel": ParamSpec(shape, axes, normal(std))}

    # Scores are not divided by √K, so queries are drawn that much smaller.
    layer = {
        "attention_norm": rms_norm_spec(width),
        "attention": {
            "query": kernel((width, inner), ("embed", "heads"), (width * config.head_width) ** -0.5),
            "key": kernel((width, inner), ("embed", "heads"), width**-0.5),
            "value": kernel((width, inner), ("embed", "heads"), width**-0.5),
            "output": kernel((inner, width), ("heads", "embed"), inner**-0.5),
        },
        "mlp_norm": rms_norm_spec(width),
        "mlp": {
            "up": kernel((width, config.mlp_width), ("embed", "mlp"), width**-0.5),
            "down": kernel((config.mlp_width, width), ("mlp", "embed"), config.mlp_width**-0.5),
        },
    }
    spec: dict[str, Any] = {
        "distance": {"table": ParamSpec((config.buckets, config.heads), (None, None), normal(width**-0.5))},
        "layers": stack(layer, config.layers),
        "final_norm": rms_norm_spec(width),
    }
    inputs = {
        str(m): kernel((given, width), (None, "embed"), given**-0.5)
        for m, given in enumerate(config.widths)
        if given != width
    }
    if inputs:
        spec["inputs"] = inputs
    if config.projection is not None:
        spec["projection"] = kernel((width, config.projection), ("embed", None), width**-0.5)
    return spec


def _layer(
    config: FeatureFusionConfig, precision: Precision, params: Any, x: jax.Array, visible: jax.Array, bias: jax.Array
) -> jax.Array:
    batch, length, _ = x.shape
    attention, network = params["attention"], params["mlp"]
    normed = rms_norm(params["attention_norm"], x, config.eps)

    def project(name: str) -> jax.Array:
        y = dense(normed, attention[name]["kernel"], None, precision)
        return y.reshape(batch, length, config.heads, config.head_width)

    mixed = attend(project("query"), project("key"), project("value"), visible, precision, scale=1.0, score_bias=bias)
    x = x + dense(mixed.reshape(batch, length, -1), attention["output"]["kernel"], None, precision)
    hidden = jax.nn.relu(dense(rms_norm(params["mlp_norm"], x, config.eps), network["up"]["kernel"], None, precision))
    return x + dense(hidden, network["down"]["kernel"], None, precision)


def _token_mask(
    config: FeatureFusionConfig,
    tokens: Sequence[jax.Array],
    masks: Sequence[jax.Array | None],
    present: jax.Array,
) -> jax.Array:
    """bool[B, L] over the joined tokens: real, and of a modality that is present."""
    batch = check_inputs(tokens, "BLD")
    widths = tuple(jnp.shape(x)[2] for x in tokens)
    if widths != config.widths or len(masks) != len(tokens):
        raise ConfigError(
            f"got tokens of widths {widths} with {len(masks)} masks, expected widths {config.widths} and one mask (or "
            "None) for each."
        )
    check_present(present, batch, len(tokens))
    parts = []
    for m, (x, mask) in enumerate(zip(tokens, masks, strict=True)):
        here = jnp.broadcast_to(present[:, m, None], x.shape[:2])
        if mask is not None and (jnp.shape(mask) != x.shape[:2] or jnp.result_type(mask) != jnp.bool_):
            raise ConfigError(
                f"mask {m} is {jnp.result_type(mask)}{list(jnp.shape(mask))}, expected bool{list(x.shape[:2])}."
            )
        parts.append(here if mask is None else here & mask)
    return jnp.concatenate(parts, axis=1)
