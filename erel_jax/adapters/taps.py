"""Which hidden states a side network reads.

An encoder of N layers has states 0 (embedding output) to N (last layer). Reading all of them is wasteful: neighbors
say nearly the same. *Group layer-dropping* (IISAN-Versa) cuts the layers into equal groups and keeps the last state of
each, so that encoders of different depth give equally many taps.
"""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError


def tap_states(layers: int, taps: int = 7, *, include_embedding: bool = True) -> tuple[int, ...]:
    """State indices by group layer-dropping.

    The last state is always read; from there the rule goes back by `(layers - 1) // (groups - 1)` layers until there is
    one state per group, and state 0 comes first. An encoder with fewer layers than groups has all its states read.

    Args:
        layers: transformer layers N.
        taps: wanted number of taps, the embedding output included: 7 gives 6 groups.
        include_embedding: False leaves state 0 out (one tap less; `remove_first` of the released code).

    Returns:
        Increasing state indices, for example (0, 2, 4, 6, 8, 10, 12) for 12 layers and (0, 1, 2, 3, 4) for 4.

    Raises:
        ConfigError: no layer, or fewer than two taps.

    Reference: arXiv 2411.02992; the rule gives the released lists of BERT, ViT, LLaMA, Gemma and EVA-CLIP.

    >>> tap_states(24)
    (0, 4, 8, 12, 16, 20, 24)
    """
    whole = all(isinstance(n, Integral) for n in (layers, taps))
    if not whole or layers < 1 or taps < 2:
        raise ConfigError(f"got layers={layers}, taps={taps}; expected at least 1 layer and 2 taps.")
    groups = min(taps - 1, layers)
    step = (layers - 1) // (groups - 1) if groups > 1 else 0
    states = tuple(layers - step * (groups - 1 - group) for group in range(groups))
    return (0, *states) if include_embedding else states


def widen(stored: Any) -> jax.Array:
    """Stored states as floating point: `{"values": int8[..., D], "scales": float32[...]}` multiplied out to float32.

    Floating-point states are returned as they are. Inside a compiled step the product fuses into what reads it, so int8
    states never exist in float32 as a whole.
    """
    if not isinstance(stored, Mapping):
        return stored
    return stored["values"].astype(jnp.float32) * stored["scales"][..., None]
