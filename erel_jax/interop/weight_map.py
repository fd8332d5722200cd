"""Where each parameter of ours lies in a Hugging Face checkpoint: what a family's table is made of.

A table says, for every path of the encoder's parameters, the tensor's name there and how its layout differs. Loading
and exporting read the same tables, so they cannot disagree. A parameter with `{i}` in its name is stacked: `{i}` is
the layer. Tensors that this package has no use for are named in an explicit list per family; any other tensor without
a place is an error.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """How an array of theirs becomes one of ours, and back."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


class Source(NamedTuple):
    """The tensor that holds a parameter, or the tensors of a stacked one.

    Attributes:
        name: its name, with `{i}` for the layer of a stacked parameter.
        layout: how its array differs.
        first: the layer of a stacked parameter's first row; layers below it have no such tensor.
    """

    name: str
    layout: Layout
    first: int = 0

    @property
    def stacked(self) -> bool:
        """Whether the parameter has a leading axis of layers, each of which is a tensor of its own."""
        return "{i}" in self.name

    def tensor(self, row: int) -> str:
        """The name of the tensor with that row of a stacked parameter, or of the only one."""
        return self.name.format(i=row + self.first)


@dataclass(frozen=True)
class WeightMap:
    """One family's names.

    Attributes:
        sources: path of ours to its source.
        prefixes: prefixes that a whole model puts before an encoder's names; removed on reading.
        ignored: regular expressions over whole names (after removal of a prefix) of tensors without use here.
        export_prefix: prefix of the names when a folder is written; names in `bare` get none.
        bare: names outside the prefix.
        modules: (regular expression, replacement) pairs that turn a name that is written into the name in memory under
            transformers 5, which adapter folders use; in turn, each wherever it matches. A name that becomes empty
            belongs to no single module.
    """

    sources: Mapping[str, Source]
    prefixes: tuple[str, ...]
    ignored: tuple[str, ...]
    export_prefix: str = ""
    bare: tuple[str, ...] = ()
    modules: tuple[tuple[str, str], ...] = ()

    def canonical(self, name: str) -> str:
        """The name as the table spells it: without a model's prefix, norms as weight and bias."""
        for prefix in self.prefixes:
            name = name.removeprefix(prefix)
        return re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))

    def exported(self, name: str) -> str:
        """The name under which a tensor is written."""
        return name if name in self.bare else self.export_prefix + name

    def module(self, name: str) -> str:
        """The name in memory of the linear layer whose kernel is called `name`, or "" where it is no such layer's."""
        if not name.endswith(".weight"):
            return ""
        name = name.removesuffix(".weight")
        for pattern, replacement in self.modules:
            name = re.sub(pattern, replacement, name)
        return name

    def is_ignored(self, name: str) -> bool:
        """Whether a canonical name is on the list of tensors without use."""
        return any(re.fullmatch(pattern, name) for pattern in self.ignored)


def _same(x: np.ndarray) -> np.ndarray:
    return x


SAME = Layout(_same, _same)
LINEAR = Layout(np.transpose, np.transpose)


def leading(axes: int) -> Layout:
    """Theirs has `axes` extra leading axes of size 1."""
    return Layout(lambda x: x.reshape(x.shape[axes:]), lambda x: x.reshape((1,) * axes + x.shape))


def patches(patch: int, channels: int) -> Layout:
    """A convolution kernel [D, C, patch, patch] against our matrix [patch·patch·C, D]."""
    return Layout(
        lambda x: x.transpose(2, 3, 1, 0).reshape(patch * patch * channels, -1),
        lambda x: x.reshape(patch, patch, channels, -1).transpose(3, 2, 0, 1),
    )


def linear(path: str, name: str, bias: bool = True) -> dict[str, Source]:
    """A torch `Linear` called `name` as `path/kernel` and, where it has one, `path/bias`."""
    found = {f"{path}/kernel": Source(f"{name}.weight", LINEAR)}
    return {**found, f"{path}/bias": Source(f"{name}.bias", SAME)} if bias else found


def norm(path: str, name: str) -> dict[str, Source]:
    """A layer norm called `name` as `path/scale` and `path/bias`."""
    return {f"{path}/scale": Source(f"{name}.weight", SAME), f"{path}/bias": Source(f"{name}.bias", SAME)}


def table(path: str, name: str) -> dict[str, Source]:
    """An embedding called `name` as `path/table`."""
    return {f"{path}/table": Source(f"{name}.weight", SAME)}
