"""Trees of parameters by path.

Parameters are nested dicts (with kernel pytrees inside); each leaf has a path such as `text/layers/query/kernel`.
Rules that choose parameters (what trains, what is quantized, where an adapter goes) are regular expressions matched
against whole paths. A rule that matches nothing is an error that lists what there is: a typo must never silently train
or quantize nothing.

>>> params = {"a": {"kernel": 1.0, "bias": 2.0}, "b": {"bias": 3.0}}
>>> biases, rest = partition(params, [".*/bias"])
>>> biases
{'a': {'bias': 2.0, 'kernel': None}, 'b': {'bias': 3.0}}
>>> merge(biases, rest) == params
True
"""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from erel_jax.errors import ConfigError

PyTree = Any


def path_name(key_path: Sequence[Any]) -> str:
    """A JAX key path as text: dict keys, dataclass fields and indices joined by `/`."""
    return jax.tree_util.keystr(tuple(key_path), simple=True, separator="/")


def paths(tree: PyTree, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """Every leaf of a tree by its path, in tree order."""
    return {path_name(p): leaf for p, leaf in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0]}


def map_with_path(
    fn: Callable[..., Any], tree: PyTree, *rest: PyTree, is_leaf: Callable[[Any], bool] | None = None
) -> PyTree:
    """`jax.tree.map` whose function also gets each leaf's path as text first."""
    return jax.tree_util.tree_map_with_path(lambda p, *xs: fn(path_name(p), *xs), tree, *rest, is_leaf=is_leaf)


def select(names: Iterable[str], patterns: Sequence[str]) -> set[str]:
    """The names that any of the patterns matches as a whole.

    Args:
        names: paths to choose from.
        patterns: regular expressions, each matched with `re.fullmatch`.

    Raises:
        ConfigError: a pattern is not a regular expression, or matches no name; the message lists the nearest names.
    """
    names = list(names)
    chosen: set[str] = set()
    for pattern in patterns:
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"{pattern!r} is not a regular expression: {error}.") from error
        matched = {name for name in names if compiled.fullmatch(name)}
        if not matched:
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3)
            listing = ", ".join(names[:20]) + (f", … ({len(names)} in all)" if len(names) > 20 else "")
            raise ConfigError(
                f"pattern {pattern!r} matches no parameter. Nearest: {near or 'none'}. Available: {listing}."
            )
        chosen |= matched
    return chosen


def partition(tree: PyTree, patterns: Sequence[str]) -> tuple[PyTree, PyTree]:
    """Splits a tree in two of the same structure, with None where a leaf went to the other one.

    Gradients, optimizer state and checkpoints made from the first tree exist for its leaves alone, because JAX sees
    None as no leaf.

    Args:
        tree: parameters, specs or abstract arrays.
        patterns: regular expressions over whole paths; an empty list selects nothing.

    Returns:
        (selected, rest).

    Raises:
        ConfigError: a pattern matches nothing.
    """
    chosen = select(paths(tree), patterns)
    selected = map_with_path(lambda path, leaf: leaf if path in chosen else None, tree)
    rest = map_with_path(lambda path, leaf: None if path in chosen else leaf, tree)
    return selected, rest


def merge(first: PyTree, second: PyTree) -> PyTree:
    """Joins two trees made by `partition`: each hole (None) of one is filled from the other."""
    return jax.tree.map(lambda a, b: b if a is None else a, first, second, is_leaf=lambda x: x is None)


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """Casts floating-point leaves to `dtype`; integers (for example int8 kernel values) stay as they are."""

    def convert(x):
        return x.astype(dtype) if jax.numpy.issubdtype(x.dtype, jax.numpy.floating) else x

    return jax.tree.map(convert, tree)


def nbytes(tree: PyTree) -> int:
    """Bytes of a tree of concrete or abstract arrays at their stored dtypes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
