"""Precision as one policy: the dtypes of parameters, of matrix-product operands and of their results."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from erel_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Precision:
    """The dtypes a model runs in.

    Attributes:
        param: dtype parameters are stored in while they train.
        compute: dtype of the operands of every matrix product.
        accumulate: dtype matrix products accumulate in and return; softmax, norms and losses run in it as well.
    """

    param: Any = jnp.float32
    compute: Any = jnp.float32
    accumulate: Any = jnp.float32


FLOAT32 = Precision()
BFLOAT16 = Precision(compute=jnp.bfloat16)


def named(name: str) -> Precision:
    """The policy called `"float32"` or `"bfloat16"`, as the command line spells it."""
    known = {"float32": FLOAT32, "bfloat16": BFLOAT16}
    if name not in known:
        raise ConfigError(f"got precision {name!r}, expected one of {sorted(known)}.")
    return known[name]
