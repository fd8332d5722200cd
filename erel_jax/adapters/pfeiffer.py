"""Pfeiffer adapters: one serial bottleneck per layer instead of Houlsby's two, and so half the cost.

The block is that of `houlsby`. By default it stands after the attention's output projection, the variant that
recommendation studies use; after the MLP's second product it is that of AdapterFusion (arXiv 2005.00247) without its
extra norm.
"""

from typing import Any, Literal

from erel_jax.adapters.houlsby import houlsby
from erel_jax.adapters.trainable import HOULSBY_TARGETS
from erel_jax.errors import ConfigError, suggest

PyTree = Any


def pfeiffer(
    spec: PyTree,
    *,
    after: Literal["attention", "mlp"] = "attention",
    bottleneck: int = 64,
    activation: str = "relu",
    zero_up: bool = True,
) -> PyTree:
    """Wraps one kernel per layer in `Bottleneck`.

    Args:
        spec: a module's spec; see `lora` for what a kernel may be. Bring parameters in with `module.fill`.
        after: the sub-layer whose output the adapter refines.
        bottleneck, activation, zero_up: as in `houlsby`.

    Returns:
        The rewritten spec, with `2·D·R + R + D` new parameters per layer; `trainable.HOULSBY` selects them.

    Raises:
        ConfigError: the spec has no such kernel, or `after` is neither of the two.
    """
    places = dict(zip(("attention", "mlp"), HOULSBY_TARGETS, strict=True))
    if after not in places:
        raise ConfigError(f"got after={after!r}. {suggest(after, places)}")
    return houlsby(spec, [places[after]], bottleneck=bottleneck, activation=activation, zero_up=zero_up)
