"""Efficient multimodal representations for retrieval and recommendation, in pure JAX, and what they cost.

The package is a set of rooms (`erel_jax.encoders`, `erel_jax.adapters`, `erel_jax.losses` and so on); nothing is
loaded before it is asked for, so that `import erel_jax` costs next to nothing.

    import erel_jax as ej
    ej.losses.info_nce  # loads erel_jax.losses now
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from erel_jax import (
        adapters,
        artifacts,
        benchmark,
        catalogs,
        compression,
        data,
        distillation,
        doctor,
        encoders,
        errors,
        fusion,
        interaction,
        interop,
        layers,
        losses,
        metrics,
        module,
        profiling,
        recommendation,
        retrieval,
        selection,
        sharding,
        training,
        tree,
    )

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "adapters",
    "artifacts",
    "benchmark",
    "catalogs",
    "compression",
    "data",
    "distillation",
    "doctor",
    "encoders",
    "errors",
    "fusion",
    "interaction",
    "interop",
    "layers",
    "losses",
    "metrics",
    "module",
    "profiling",
    "recommendation",
    "retrieval",
    "selection",
    "sharding",
    "training",
    "tree",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
