"""Floating-point operations of a program, counted two independent ways.

`count_flops` walks the program that JAX traces (its jaxpr) and multiplies a loop's body by its length. `xla_flops` asks
XLA for its own count of a copy whose stacks are unrolled, because XLA counts a loop's body once whatever its length.
The two agree within 5 % on every step of this library, which a test checks; `erel_jax.profiling.analytic` is the third,
closed-form way.

Both are counts of the *global* program, before it is split over devices and before the compiler fuses it, and both
take abstract arguments, so a full-size model is counted without its memory.

>>> import jax, jax.numpy as jnp
>>> x = jax.ShapeDtypeStruct((8, 16), jnp.float32)
>>> w = jax.ShapeDtypeStruct((16, 4), jnp.float32)
>>> count_flops(lambda x, w: jnp.tanh(x @ w), x, w)
Flops(matmul=1024.0, elementwise=0.0, transcendental=32.0)
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import Literal

from erel_jax.errors import ConfigError
from erel_jax.layers.transformer import unrolled


@dataclasses.dataclass(frozen=True)
class Flops:
    """Operations of one execution of a program, over all devices.

    Attributes:
        matmul: multiplications and additions of matrix products and convolutions, in any dtype (int8 included).
        elementwise: one per element of every arithmetic, comparison and conversion, and of every reduced element.
        transcendental: exp, log, tanh, erf, rsqrt …, one per element. XLA keeps them apart, so `total` leaves them out.
    """

    matmul: float = 0.0
    elementwise: float = 0.0
    transcendental: float = 0.0

    @property
    def total(self) -> float:
        """`matmul + elementwise`, the number XLA calls flops."""
        return self.matmul + self.elementwise

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(
            self.matmul + other.matmul,
            self.elementwise + other.elementwise,
            self.transcendental + other.transcendental,
        )

    def __mul__(self, times: float) -> "Flops":
        return Flops(self.matmul * times, self.elementwise * times, self.transcendental * times)


def count_flops(fn: Callable[..., Any], *args: Any, while_trips: int | None = None) -> Flops:
    """Counts the operations of `fn(*args)` from its jaxpr.

    Scan bodies count as often as they run, the dearest branch of a `cond` counts, code whose result nobody uses does
    not, a rematerialized body counts each time it is computed, and a `shard_map` body counts once per device.

    Args:
        fn: a function of pytrees of arrays; a jitted function will do.
        args: concrete or abstract arguments.
        while_trips: how often a `while_loop` runs; needed only when there is one, because its count is not in the
            program.

    Returns:
        The global `Flops` of one call.

    Raises:
        ConfigError: there is a `while_loop` and no `while_trips`, or an operation that cannot be counted.
    """
    traced = jax.jit(lambda *inner: fn(*inner)).trace(*args)
    jaxpr = _open(traced.jaxpr)
    flops, _ = _Walk(while_trips).jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return flops


def xla_flops(fn: Callable[..., Any], *args: Any) -> float:
    """XLA's own count for an unrolled copy of `fn`, global and before optimization; compare with `Flops.total`.

    Args:
        fn: as in `count_flops`. Stacks run by `layers.run_stack` are unrolled for the copy.
        args: concrete or abstract arguments.

    Raises:
        ConfigError: a loop stays a loop (XLA would count its body once), or the backend reports no count.
    """
    with unrolled():
        # JAX caches a trace under the function's identity: a new function is traced inside this context.
        traced = jax.jit(lambda *inner: fn(*inner)).trace(*args)
    loops = _rolled_loops(_open(traced.jaxpr))
    if loops:
        raise ConfigError(
            f"the program keeps {loops} loops of more than one trip, whose bodies XLA counts once; "
            "unroll them or use count_flops."
        )
    analysis = traced.lower().cost_analysis()
    if not analysis or analysis.get("flops", -1.0) < 0:
        raise ConfigError("this backend reports no cost analysis; use count_flops or the closed forms.")
    return float(analysis["flops"])


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MATMUL = {"dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general"}

# Moves data or describes it; XLA counts nothing for these.
_FREE = _words(
    """
    all_gather all_gather_invariant all_to_all axis_index bitcast_convert_type broadcast broadcast_in_dim
    concatenate copy create_token device_put dynamic_slice dynamic_update_slice empty expand_dims full
    gather iota layout_constraint mesh_cast optimization_barrier pad pbroadcast pcast ppermute
    pvary random_clone random_unwrap random_wrap reshape reshard rev
    sharding_constraint slice split squeeze stop_gradient top_k transpose

    """
)
_PER_OUTPUT = _words(
    """
    abs add add_any and ceil clamp convert_element_type div eq eq_to floor ge gt is_finite le lt max min mul
    ne neg not or population_count psum psum_invariant reduce_precision reduce_scatter rem round select_n
    shift_left shift_right_arithmetic shift_right_logical sign square sub xor
    """
)
_TRANSCENDENTAL = _words(
    """
    acos asin atan atan2 cbrt cos cosh erf exp expm1 log log1p pow rsqrt sin sinh sqrt tan tanh
    """
)
_REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_or", "reduce_and", "reduce_xor"}
_CUMULATIVE = {"cumsum", "cumprod", "cummax", "cummin"}


class _Walk:
    """Counts jaxprs backward from the outputs in use, so that dead code is left out as the compiler leaves it out."""

    def __init__(self, while_trips: int | None):
        self.while_trips = while_trips
        self._asked: dict[Any, Flops] = {}

    def jaxpr(self, jaxpr: Any, used_outputs: Sequence[bool]) -> tuple[Flops, list[bool]]:
        """Flops of a jaxpr whose outputs are used as told, and which of its inputs that needs."""
        live = {v for v, used in zip(jaxpr.outvars, used_outputs, strict=True) if used and not isinstance(v, Literal)}
        flops = Flops()
        for equation in reversed(jaxpr.eqns):
            used = [v in live for v in equation.outvars]
            if not any(used) and not equation.effects:
                continue
            counted, needed = self.equation(equation, used)
            flops += counted
            for v, need in zip(equation.invars, needed, strict=True):
                if need and not isinstance(v, Literal):
                    live.add(v)
        return flops, [v in live for v in jaxpr.invars]

    def equation(self, equation: Any, used: list[bool]) -> tuple[Flops, list[bool]]:
        """Flops of one equation and which of its operands it needs."""
        name, everything = equation.primitive.name, [True] * len(equation.invars)
        if name == "scan":
            return self.scan(equation, used)
        if name == "while":
            return self.while_loop(equation), everything
        if name == "cond":
            results = [self.jaxpr(_open(branch), used) for branch in equation.params["branches"]]
            needed = [any(column) for column in zip(*(needed for _, needed in results), strict=True)]
            return max((flops for flops, _ in results), key=lambda flops: flops.total), [True, *needed]
        body = _body(equation.params)
        if body is None:
            return self.leaf(equation), everything
        if len(body.invars) != len(equation.invars) or len(body.outvars) != len(used):
            raise ConfigError(f"cannot count {name!r}: its body and its operands differ in number.")
        flops, needed = self.jaxpr(body, used)
        return flops * _copies(equation), needed

    def scan(self, equation: Any, used: list[bool]) -> tuple[Flops, list[bool]]:
        """A scan's body once per trip. What a later trip uses of the carry, every trip must compute."""
        body, length = _open(equation.params["jaxpr"]), equation.params["length"]
        # Stacked operands and results have one axis more outside than inside; the rest is carry and constants.
        carries = sum(o.aval.ndim == i.aval.ndim for o, i in zip(equation.outvars, body.outvars, strict=True))
        stacked = sum(o.aval.ndim != i.aval.ndim for o, i in zip(equation.invars, body.invars, strict=True))
        constants = len(body.invars) - stacked - carries
        used = list(used)
        while True:
            flops, needed = self.jaxpr(body, used)
            carried = needed[constants : constants + carries]
            grown = [u or c for u, c in zip(used[:carries], carried, strict=True)] + used[carries:]
            if grown == used:
                return flops * length, needed
            used = grown

    def while_loop(self, equation: Any) -> Flops:
        if self.while_trips is None:
            raise ConfigError(
                "the program has a while loop, whose trip count is unknown before it runs; give while_trips, or write "
                "the loop as a scan or a fori_loop with static bounds."
            )
        parts = [_open(equation.params[part]) for part in ("cond_jaxpr", "body_jaxpr")]
        test, body = (self.jaxpr(part, [True] * len(part.outvars))[0] for part in parts)
        return (test + body) * self.while_trips

    def leaf(self, equation: Any) -> Flops:
        """Flops of an operation without a body, by XLA's rules."""
        name = equation.primitive.name
        outputs = float(sum(math.prod(v.aval.shape) for v in equation.outvars))
        inputs = float(sum(math.prod(v.aval.shape) for v in equation.invars))
        if name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            return Flops(matmul=2.0 * outputs * math.prod(shape[axis] for axis in contracted))
        if name in _FREE:
            return Flops()
        if name in _PER_OUTPUT or name in _CUMULATIVE:
            return Flops(elementwise=outputs)
        if name in _TRANSCENDENTAL:
            return Flops(transcendental=outputs)
        if name in _REDUCTIONS:
            return Flops(elementwise=inputs - outputs)
        return self.asked(equation)

    def asked(self, equation: Any) -> Flops:
        """An operation that is in no table, lowered alone: XLA says what it counts for it."""
        primitive, params = equation.primitive, equation.params
        operands = [v.val if isinstance(v, Literal) else v.aval for v in equation.invars]
        shapes = tuple((v.aval.shape, str(v.aval.dtype)) for v in equation.invars)
        key = (primitive.name, shapes, repr(params))
        if key in self._asked:
            return self._asked[key]
        abstract = [
            jax.ShapeDtypeStruct(x.shape, x.dtype) if hasattr(x, "shape") and not isinstance(v, Literal) else x
            for x, v in zip(operands, equation.invars, strict=True)
        ]
        try:
            cost = jax.jit(lambda *inner: primitive.bind(*inner, **params)).lower(*abstract).cost_analysis() or {}
        except Exception as error:
            raise ConfigError(
                f"cannot count the operation {primitive.name!r}: {type(error).__name__}: {error}"
            ) from error
        counted, transcendental = cost.get("flops", 0.0), cost.get("transcendentals", 0.0)
        kind = "matmul" if primitive.name in _MATMUL else "elementwise"
        self._asked[key] = Flops(**{kind: float(counted), "transcendental": float(transcendental)})
        return self._asked[key]


def _open(jaxpr: Any) -> Any:
    """The jaxpr inside a closed one; the newest JAX has only one kind."""
    inner = getattr(jaxpr, "jaxpr", None)
    return inner if hasattr(inner, "eqns") else jaxpr


def _body(params: dict[str, Any]) -> Any:
    """The one jaxpr a call-like equation runs (jit, remat, custom derivatives, shard_map, pmap), or None."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        candidate = _open(params.get(name))
        if hasattr(candidate, "eqns"):
            return candidate
    return None


def _copies(equation: Any) -> float:
    """On how many devices the body of a `shard_map` or `pmap` runs; 1 for any other call."""
    params = equation.params
    if equation.primitive.name == "shard_map":
        axes = params.get("newly_manual_axes", params.get("manual_axes", params["mesh"].axis_names))
        return math.prod(dict(params["mesh"].shape)[axis] for axis in axes)
    return params["axis_size"] if equation.primitive.name == "xla_pmap" else 1


def _rolled_loops(jaxpr: Any) -> int:
    """How many loops of more than one trip a jaxpr keeps when lowered."""
    loops = 0
    for equation in jaxpr.eqns:
        params = equation.params
        if equation.primitive.name == "while":
            loops += 1
        if equation.primitive.name == "scan" and int(params.get("unroll", 1)) < params["length"]:
            loops += 1
        inner = [_body(params), *(_open(branch) for branch in params.get("branches", ()))]
        loops += sum(_rolled_loops(body) for body in inner if body is not None)
    return loops
