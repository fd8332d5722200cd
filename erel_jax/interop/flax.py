"""Modules of ours as `flax.linen` modules, and linen modules as ours, with the same outputs and gradients.

`to_linen` puts a `Module` into a linen program: its variables are `{"params": tree}` with exactly our tree, so
parameters move between both worlds without renaming. `from_linen` brings a linen module under our contract, where
adapters, sharding and profiling work on it.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from erel_jax import tree
from erel_jax.errors import ConfigError
from erel_jax.module import Module, ParamSpec, init

WHOLE = "tree"


def to_linen(module: Module) -> nn.Module:
    """A linen module that computes what `module` computes.

    Args:
        module: a module of ours; its spec may hold kernels such as `LowRank`.

    Returns:
        A linen module. `init(rngs, *inputs)` declares our tree under `"params"`; `apply({"params": params}, *inputs,
        train=..., **options)` equals `module.apply(params, *inputs, train=..., **options)`, with the rng named
        "dropout", if given, as `key`. A spec that is not a dict is declared under the name "tree".

    Freshly initialized values differ from `erel_jax.module.init` with the same key: linen derives keys its own way.
    """
    spec = module.spec
    branches = dict(spec) if isinstance(spec, Mapping) else {WHOLE: spec}

    class Wrapped(nn.Module):
        """A module of erel_jax inside linen."""

        @nn.compact
        def __call__(self, *inputs: Any, train: bool = False, **options: Any) -> Any:
            params: Any = {name: self.param(name, init, branch) for name, branch in branches.items()}
            if not isinstance(spec, Mapping):
                params = params[WHOLE]
            key = self.make_rng("dropout") if self.has_rng("dropout") else None
            return module.apply(params, *inputs, key=key, train=train, **options)

    return Wrapped()


def from_linen(linen_module: nn.Module, *example_inputs: Any) -> Module:
    """A `Module` that computes what a linen module computes.

    Args:
        linen_module: a linen module whose only collection is "params".
        example_inputs: concrete or abstract inputs that fix the parameters' shapes.

    Returns:
        A module whose spec has linen's tree. Logical axis names come from `nn.with_partitioning` where it was used;
        other axes are None. `train` reaches a linen argument called `train`, or `deterministic` inverted; `key`
        becomes the rng "dropout". Each parameter's initializer runs linen's own and keeps that one leaf.

    Raises:
        ConfigError: the module has state besides its parameters (batch statistics, caches).
    """

    def variables(key: jax.Array) -> Any:
        return linen_module.init({"params": key, "dropout": key}, *example_inputs)

    shapes = jax.eval_shape(variables, jax.random.key(0))
    extra = sorted(set(shapes) - {"params"})
    if extra:
        raise ConfigError(f"the linen module has collections {extra}; only modules that are pure in 'params' fit.")
    boxed = jax.tree.leaves(shapes.get("params", {}), is_leaf=_is_boxed)
    unboxed = nn.meta.unbox(shapes.get("params", {}))
    names = iter([_axis_names(leaf) for leaf in boxed])

    def declare(path: str, leaf: Any) -> ParamSpec:
        axes = next(names) or (None,) * len(leaf.shape)

        def initialize(key: jax.Array, shape: tuple[int, ...], dtype: Any = leaf.dtype) -> jax.Array:
            return tree.paths(nn.meta.unbox(variables(key)["params"]))[path].astype(dtype)

        return ParamSpec(tuple(leaf.shape), axes, initialize, leaf.dtype)

    accepted = inspect.signature(type(linen_module).__call__).parameters

    def apply(params: Any, *inputs: Any, key: jax.Array | None = None, train: bool = False, **options: Any) -> Any:
        if "train" in accepted:
            options.setdefault("train", train)
        elif "deterministic" in accepted:
            options.setdefault("deterministic", not train)
        rngs = {} if key is None else {"dropout": key}
        return linen_module.apply({"params": params}, *inputs, rngs=rngs, **options)

    return Module(tree.map_with_path(declare, unboxed), apply)


def _is_boxed(leaf: Any) -> bool:
    return isinstance(leaf, nn.meta.AxisMetadata)


def _axis_names(leaf: Any) -> tuple[str | None, ...] | None:
    names = getattr(leaf, "names", None) if _is_boxed(leaf) else None
    return None if names is None else tuple(names)
