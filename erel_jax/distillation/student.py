"""Smaller students of an encoder: the same family, fewer heads, layers and feed-forward channels.

A student keeps the width of its teacher's heads, so that the heads it inherits compute what they did, and everything
that inputs and outputs depend on: vocabulary, patches, positions, the shared embedding space of a projection.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from erel_jax import module
from erel_jax.distillation.inheritance import chosen_layers, heads_of, inherit
from erel_jax.encoders.encoded import Encoder
from erel_jax.encoders.example_inputs import example_inputs
from erel_jax.encoders.registry import ENCODERS
from erel_jax.errors import ConfigError
from erel_jax.layers import FLOAT32, Precision
from erel_jax.profiling import count_flops

PyTree = Any
_TEXT_TOKENS = 32
_STEP = 8


def student_config(
    config: Any,
    *,
    width_fraction: float = 1.0,
    layers: int | Sequence[int] | None = None,
    mlp_width: int | None = None,
) -> Any:
    """A smaller architecture of the same family.

    Args:
        config: a config of any encoder family.
        width_fraction: share of the heads to keep, a whole number of them; the model width follows, and so does the
            feed-forward width. Key heads stay in proportion as far as they divide the heads.
        layers: how many layers to keep, or which of the teacher's (see `chosen_layers`). None keeps all.
        mlp_width: feed-forward width; None keeps its proportion to the model width.

    Returns:
        A config of the same class. What differs between layers (windows) goes with the layers taken.

    Raises:
        ConfigError: the config lacks a field that must change, the fraction is no whole number of heads, or the family
            does not allow the result.

    Example:
        >>> from erel_jax.encoders import BertConfig
        >>> small = student_config(BertConfig.base(), width_fraction=0.5, layers=6)
        >>> small.width, small.heads, small.mlp_width, small.layers
        (384, 6, 1536, 6)
    """
    fields = set(getattr(config, "__dataclass_fields__", ()))
    name = type(config).__name__
    missing = sorted({"width", "heads", "layers"} - fields)
    if missing:
        raise ConfigError(
            f"{name} has no field {', '.join(missing)}, so a smaller one cannot be derived; make it by hand."
        )
    heads = round(config.heads * width_fraction)
    if not 0 < width_fraction <= 1 or heads < 1 or not math.isclose(heads, config.heads * width_fraction, abs_tol=1e-6):
        raise ConfigError(
            f"width_fraction is {width_fraction}, expected a whole number of the {config.heads} heads, for example "
            f"{max(1, config.heads // 2) / config.heads:g}."
        )
    if config.width * heads % config.heads:
        raise ConfigError(f"width {config.width} cannot be divided as {heads} of {config.heads} heads.")
    changes: dict[str, Any] = {"heads": heads, "width": config.width * heads // config.heads}
    if "kv_heads" in fields:
        most = config.kv_heads * heads // config.heads
        changes["kv_heads"] = max(n for n in range(1, max(1, most) + 1) if heads % n == 0)
    if mlp_width is not None and not ("mlp_width" in fields and 1 <= mlp_width <= config.mlp_width):
        limit = f"1 to {config.mlp_width}" if "mlp_width" in fields else f"none, since {name} derives it from the width"
        raise ConfigError(f"mlp_width is {mlp_width}, expected {limit}.")
    if "mlp_width" in fields:
        changes["mlp_width"] = mlp_width or max(1, config.mlp_width * heads // config.heads)
    taken = chosen_layers(config.layers, layers)
    changes["layers"] = len(taken)
    if getattr(config, "windowed", None) is not None:
        changes["windowed"] = tuple(config.windowed[layer] for layer in taken)
    return dataclasses.replace(config, **changes)


def inherited_student(
    encoder: Encoder,
    params: PyTree,
    precision: Precision = FLOAT32,
    *,
    width_fraction: float = 1.0,
    layers: int | Sequence[int] | None = None,
    mlp_width: int | None = None,
) -> tuple[Encoder, PyTree]:
    """A smaller encoder of the same family with weights cut out of its teacher's.

    Args:
        encoder: the teacher, of any family of `encoders.ENCODERS`.
        params: its parameters, without adapters.
        precision: dtypes of the student.
        width_fraction, layers, mlp_width: as in `student_config`.

    Returns:
        (encoder, parameters) of the student. Its embedding is narrower where the family has no projection of its own.

    Raises:
        ConfigError: as `student_config` and `inherit`.

    Reference: TinyCLIP (Wu et al. 2023), manual inheritance.
    """
    config = student_config(encoder.config, width_fraction=width_fraction, layers=layers, mlp_width=mlp_width)
    student = _built(config, precision)
    layouts = heads_of(encoder.config), heads_of(config)
    inherited = inherit(params, encoder.module.spec, student.module.spec, layers=layers, heads=layouts)
    return student, inherited


def quarter_student(
    encoder: Encoder, params: PyTree, precision: Precision = FLOAT32, *, flops_fraction: float = 0.25
) -> tuple[Encoder, PyTree]:
    """A student that costs at most a quarter of its teacher's FLOPs, with inherited weights.

    Args:
        encoder: the teacher, of any family of `encoders.ENCODERS`.
        params: its parameters, without adapters.
        precision: dtypes of the student.
        flops_fraction: the most it may cost, as a share of one forward pass of the teacher.

    Returns:
        (encoder, parameters) of the student: √fraction of the heads, rounded, at least one; as many layers as the
        budget allows, spread evenly over the teacher's; the feed-forward width lowered by up to a half to keep more
        layers.

    Raises:
        ConfigError: even one layer costs more, or the fraction is not in (0, 1].

    FLOPs are counted from the programs of one example (texts of 32 tokens) by `profiling.count_flops`; `flops_of` gives
    the same count.
    """
    if not 0 < flops_fraction <= 1:
        raise ConfigError(f"flops_fraction is {flops_fraction}, expected above 0 and at most 1.")
    config = encoder.config
    budget = flops_fraction * flops_of(encoder)
    fraction = max(1, round(config.heads * math.sqrt(flops_fraction))) / config.heads
    for layers in range(config.layers, 0, -1):
        mlp_width = _mlp_width_within(config, fraction, layers, budget)
        if mlp_width is not None:
            chosen = {"width_fraction": fraction, "layers": layers, "mlp_width": mlp_width or None}
            return inherited_student(encoder, params, precision, **chosen)
    raise ConfigError(
        f"no student of {type(config).__name__} with {fraction:g} of the heads costs {flops_fraction:g} of the "
        "teacher's FLOPs or less; allow more, or choose its size by hand with inherited_student."
    )


def flops_of(encoder: Encoder) -> float:
    """FLOPs of an encoder's embedding of one example (a text of 32 tokens), matrix products and elementwise."""
    limit = getattr(encoder.config, "max_positions", _TEXT_TOKENS)
    inputs = example_inputs(encoder, rows=1, length=min(_TEXT_TOKENS, limit))
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), inputs)
    apply = encoder.module.apply
    return count_flops(lambda p, x: apply(p, x).embedding, module.abstract(encoder.module.spec), abstract).total


def _mlp_width_within(config: Any, fraction: float, layers: int, budget: float) -> int | None:
    """The widest feed-forward network within the budget, 0 for the proportional one, None where none is."""

    def cost(mlp_width: int | None) -> float:
        smaller = student_config(config, width_fraction=fraction, layers=layers, mlp_width=mlp_width)
        return flops_of(_built(smaller, FLOAT32))

    whole = cost(None)
    if whole <= budget:
        return 0
    if not any(field.name == "mlp_width" for field in dataclasses.fields(config)):
        return None
    widest = student_config(config, width_fraction=fraction).mlp_width
    least = (widest + 1) // 2
    floor = cost(least)
    if floor > budget or least == widest:
        return None
    # The cost is linear in the width.
    wanted = least + int((widest - least) * (budget - floor) / (whole - floor))
    return max(least, wanted // _STEP * _STEP)


def _built(config: Any, precision: Precision) -> Encoder:
    for family in ENCODERS.values():
        if type(config) is family.config:
            return family.build(config, precision)
    raise ConfigError(f"no encoder family has a config {type(config).__name__}; known: {', '.join(ENCODERS)}.")
