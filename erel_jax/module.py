"""The contract every part of erel_jax is built on: `Module(spec, apply)`.

A module is a pair: a *spec*, a nested dict whose leaves are `ParamSpec`s, and a pure function
`apply(params, *inputs, key=None, train=False)`. From the one spec come initialization (`init`), shapes without memory
(`abstract`), parameter counts (`count`) and, in `erel_jax.sharding`, the placement of every parameter on a mesh.
Adapters and quantization rewrite specs or parameters (tree to tree); `fill` brings existing parameters into a rewritten
spec and initializes only what is new.

>>> import jax
>>> spec = {"kernel": ParamSpec((3, 4), ("embed", "mlp")), "bias": ParamSpec((4,), ("mlp",), zeros)}
>>> params = init(jax.random.key(0), spec)
>>> params["kernel"].shape, count(spec)
((3, 4), 16)
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from erel_jax import tree
from erel_jax.errors import ConfigError

Initializer = Callable[..., jax.Array]
PyTree = Any

zeros = jax.nn.initializers.zeros
ones = jax.nn.initializers.ones


def normal(std: float) -> Initializer:
    """Initializer drawing N(0, std²)."""
    return jax.nn.initializers.normal(std)


def uniform(bound: float) -> Initializer:
    """Initializer drawing U(-bound, bound); `1/sqrt(fan_in)` is the PyTorch default of a linear layer."""

    def initialize(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialize


_DEFAULT_INIT = normal(0.02)


@dataclasses.dataclass(frozen=True)
class ParamSpec:
    """One parameter, declared once.

    Attributes:
        shape: the array's shape.
        axes: one logical name per dimension (`"embed"`, `"mlp"`, `"heads"`, `"vocab"`, `"layers"` …) or None;
            `erel_jax.sharding` maps these names to mesh axes.
        init: `init(key, shape, dtype)`; see `jax.nn.initializers`.
        dtype: the dtype the parameter is stored in.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: Initializer = _DEFAULT_INIT
    dtype: Any = jnp.float32

    def __post_init__(self):
        if len(self.shape) != len(self.axes):
            raise ConfigError(
                f"ParamSpec got shape {self.shape} with {len(self.axes)} axis names {self.axes}; "
                "give one logical axis name (or None) per dimension."
            )


class Module(NamedTuple):
    """A component: its parameters' spec and the pure function that uses them.

    `apply(params, *inputs, key=None, train=False)` is jittable and differentiable and works on abstract inputs.
    Build a module once and reuse it: a factory called again makes a new closure, and so a new compilation.
    """

    spec: PyTree
    apply: Callable[..., Any]


def stack(spec: PyTree, layers: int) -> PyTree:
    """Specs of `layers` copies stacked on a leading `"layers"` axis, as `layers.transformer` scans them.

    Each layer is drawn with its own key and its own fan-in, as if it were initialized alone.
    """

    def stacked(leaf: ParamSpec) -> ParamSpec:
        def initialize(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
            keys = jax.random.split(key, shape[0])
            return jnp.stack([leaf.init(k, shape[1:], dtype) for k in keys])

        return ParamSpec((layers, *leaf.shape), ("layers", *leaf.axes), initialize, leaf.dtype)

    return jax.tree.map(stacked, spec)


def parameter_key(key: jax.Array, path: str) -> jax.Array:
    """The key of the parameter at `path`: it depends on the path alone, so adding a layer reshuffles no other."""
    return jax.random.fold_in(key, zlib.crc32(path.encode()) & 0x7FFFFFFF)


def init(key: jax.Array, spec: PyTree) -> PyTree:
    """Draws every parameter of a spec.

    Args:
        key: typed key from `jax.random.key`.
        spec: nested dict (or kernel pytrees) of `ParamSpec`.

    Returns:
        The same tree with arrays of the declared shapes and dtypes.
    """
    return tree.map_with_path(lambda path, s: s.init(parameter_key(key, path), s.shape, s.dtype), spec)


def abstract(spec: PyTree) -> PyTree:
    """The spec as `jax.ShapeDtypeStruct`s: full-size models can be lowered and counted without their memory."""
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), spec)


def count(parameters: PyTree) -> int:
    """Number of parameters in a tree of specs, abstract or concrete arrays (holes left by `partition` count 0)."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameters))


def fill(key: jax.Array, spec: PyTree, params: PyTree) -> PyTree:
    """Parameters for `spec`: taken from `params` where the path exists there, freshly drawn elsewhere.

    A wrapped kernel keeps its origin: `attention/query/kernel/base` of a spec rewritten by an adapter is filled from
    `attention/query/kernel`.

    Args:
        key: key for what is new.
        spec: the wanted spec, for example after `adapters.lora`.
        params: existing parameters.

    Returns:
        Parameters of `spec`'s structure. Existing arrays are used as they are (their dtype is kept).

    Raises:
        ConfigError: an existing parameter has another shape than the spec wants, or `params` holds a path that the
            spec has no place for.
    """
    existing = {canonical(path): leaf for path, leaf in tree.paths(params).items()}
    used = set()

    def take(path: str, leaf: ParamSpec):
        name = canonical(path)
        if name not in existing:
            return leaf.init(parameter_key(key, path), leaf.shape, leaf.dtype)
        used.add(name)
        if tuple(existing[name].shape) != tuple(leaf.shape):
            raise ConfigError(f"{path}: got shape {tuple(existing[name].shape)}, expected {tuple(leaf.shape)}.")
        return existing[name]

    filled = tree.map_with_path(take, spec)
    unused = sorted(set(existing) - used)
    if unused:
        raise ConfigError(f"{len(unused)} parameters have no place in the spec, first: {unused[:5]}.")
    return filled


def canonical(path: str) -> str:
    """A parameter's path without the kernels wrapped around it: `q/kernel/base/values` becomes `q/kernel/values`."""
    return "/".join(part for part in path.split("/") if part != "base")


def subspec(spec: Mapping[str, PyTree], *names: str) -> dict[str, PyTree]:
    """The named branches of a spec, in the order given; an unknown name is an error that lists what there is."""
    missing = [name for name in names if name not in spec]
    if missing:
        raise ConfigError(f"spec has no branch {missing}; it has {sorted(spec)}.")
    return {name: spec[name] for name in names}
