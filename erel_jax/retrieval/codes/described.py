"""Codes as JSON values and arrays, to be written down and made again; a code may hold another one."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from erel_jax.retrieval.codes.binary import Binary
from erel_jax.retrieval.codes.code import Code
from erel_jax.retrieval.codes.eden import Eden
from erel_jax.retrieval.codes.floats import Float32
from erel_jax.retrieval.codes.int8 import Int8PerDimension, Int8PerVector
from erel_jax.retrieval.codes.inverted import Inverted
from erel_jax.retrieval.codes.product import Product
from erel_jax.retrieval.codes.reduced import Reduced
from erel_jax.retrieval.codes.residual import Residual

CODES: Mapping[str, type] = {
    kind.__name__: kind
    for kind in (Float32, Int8PerVector, Int8PerDimension, Binary, Eden, Product, Residual, Reduced, Inverted)
}
"""Codes that can be made again, by name. A new code is a line here."""


def described(code: Code) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a folder says of a code.

    Returns:
        (its name and settings as JSON values, the arrays that make it; those of a code inside have its field's name and
        a dot before theirs).
    """
    settings, arrays = {}, {}
    for field in dataclasses.fields(code):  # type: ignore[arg-type]
        value = getattr(code, field.name)
        if type(value) in CODES.values():
            settings[field.name], inside = described(value)
            arrays |= {f"{field.name}.{name}": array for name, array in inside.items()}
        elif hasattr(value, "shape"):
            arrays[field.name] = np.asarray(value)
        else:
            settings[field.name] = value
    return {"code": type(code).__name__, "settings": settings}, arrays


def restored(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Code:
    """The code that `described` told of; KeyError where it names a code that is not known."""
    fields: dict[str, Any] = {name: array for name, array in arrays.items() if "." not in name}
    for name, value in about["settings"].items():
        if isinstance(value, Mapping) and "code" in value:
            inside = {key[len(name) + 1 :]: array for key, array in arrays.items() if key.startswith(f"{name}.")}
            fields[name] = restored(value, inside)
        else:
            fields[name] = value
    return CODES[about["code"]](**fields)
