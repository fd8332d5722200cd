"""Arguments of adapters, checked where they are given: a bad one would otherwise surface inside a compiled step."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from erel_jax.errors import ConfigError


def check_counts(**counts: Any) -> None:
    """Refuses sizes that are not integers of at least 1.

    Raises:
        ConfigError: with all names and values.
    """
    if any(isinstance(count, bool) or not isinstance(count, Integral) or count < 1 for count in counts.values()):
        given = " and ".join(f"{name}={value!r}" for name, value in counts.items())
        raise ConfigError(f"got {given}, expected at least 1 (an integer).")


def check_finite(**numbers: Any) -> None:
    """Refuses factors that are not finite numbers: they would make every output NaN.

    Raises:
        ConfigError: with the name and the value.
    """
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise ConfigError(f"got {name}={value!r}, expected a finite number.")


def check_patterns(patterns: Sequence[str]) -> None:
    """Refuses one string in place of a list: it would be read as one pattern per character.

    Raises:
        ConfigError: with the list that was probably meant.
    """
    if isinstance(patterns, str):
        raise ConfigError(f"got patterns {patterns!r}, expected a list of regular expressions: [{patterns!r}].")
