"""Adaptation methods as data: what each one rewrites, trains and reads.

A method says nothing about a task. `adapters.adapted` turns it into a trainable model for a pair of towers (retrieval)
or for items of several modalities (recommendation). A new method is one `Method` in a file of its own and one line in
`METHODS`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from erel_jax.adapters import trainable
from erel_jax.adapters.compacter import compacter
from erel_jax.adapters.dora import dora
from erel_jax.adapters.houlsby import houlsby
from erel_jax.adapters.ia3 import ia3
from erel_jax.adapters.lora import lora
from erel_jax.adapters.parallel import parallel
from erel_jax.adapters.pfeiffer import pfeiffer
from erel_jax.adapters.prefix_tuning import prefix_tuning
from erel_jax.adapters.prompt_tuning import prompt_tuning
from erel_jax.adapters.vera import vera
from erel_jax.errors import ConfigError, suggest


def _unchanged(spec: Any) -> Any:
    return spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """One way to adapt frozen encoders.

    Attributes:
        name: what `--methods` calls it.
        summary: one line for help texts and reports.
        reads: what the trained part is fed with at each step: "inputs" runs the towers live, "pooled" reads each
            item's stored final embedding, "taps" reads its stored hidden states.
        rewrite: spec → spec of one tower (adapters wrap kernels here).
        trains: patterns over one tower's parameters that train; empty for a frozen tower.
        head: what sits on top: "none" (the tower's own embedding), "linear", or "side" (a side network over taps).
        side: which side network fuses an item's modalities: "iisan" for one or two modalities, "versa" and "crossan"
            for any number. A tower by itself, as in retrieval, gets the same side tower from each.
        learning_rate: default for heads, side networks and user encoders.
        tower_learning_rate: default for what trains inside a tower.

    Learning rates differ by an order of magnitude between methods; sharing one would invalidate a comparison.
    """

    name: str
    summary: str
    reads: Literal["inputs", "pooled", "taps"]
    rewrite: Callable[[Any], Any] = _unchanged
    trains: tuple[str, ...] = ()
    head: Literal["none", "linear", "side"] = "linear"
    side: Literal["iisan", "versa", "crossan"] = "iisan"
    learning_rate: float = 1e-3
    tower_learning_rate: float = 0.0

    @property
    def cached(self) -> bool:
        """True when no tower runs in the training step."""
        return self.reads != "inputs"


def _lora(spec: Any) -> Any:
    return lora(spec, trainable.LORA_TARGETS, rank=8, alpha=8.0)


def _rslora(spec: Any) -> Any:
    return lora(spec, trainable.LORA_TARGETS, rank=16, alpha=16.0, rank_stabilized=True)


def _dora(spec: Any) -> Any:
    return dora(spec, trainable.LORA_TARGETS, rank=8, alpha=8.0)


def _vera(spec: Any) -> Any:
    return vera(spec, trainable.LORA_TARGETS)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="frozen", summary="nothing inside or on top of the encoders is trained", reads="pooled", head="none"
        ),
        Method(
            name="linear_probe",
            summary="one linear map per tower over stored embeddings",
            reads="pooled",
            learning_rate=1e-3,
        ),
        Method(
            name="full",
            summary="every encoder weight trains",
            reads="inputs",
            trains=trainable.FULL,
            learning_rate=1e-3,
            tower_learning_rate=1e-4,
        ),
        Method(
            name="bitfit",
            summary="biases train",
            reads="inputs",
            trains=trainable.BITFIT,
            learning_rate=1e-3,
            tower_learning_rate=1e-3,
        ),
        Method(
            name="lora",
            summary="rank-8 updates of query and value kernels",
            reads="inputs",
            rewrite=_lora,
            trains=trainable.LORA,
            learning_rate=1e-3,
            tower_learning_rate=1e-3,
        ),
        Method(
            name="rslora",
            summary="rank-16 updates with rank-stabilized scale",
            reads="inputs",
            rewrite=_rslora,
            trains=trainable.LORA,
            learning_rate=1e-3,
            tower_learning_rate=1e-3,
        ),
        Method(
            name="houlsby",
            summary="bottleneck adapters after attention and MLP",
            reads="inputs",
            rewrite=houlsby,
            trains=trainable.HOULSBY,
            learning_rate=1e-3,
            tower_learning_rate=1e-3,
        ),
        Method(
            name="iisan",
            summary="side network over hidden states, towers run at every step",
            reads="inputs",
            head="side",
            learning_rate=1e-3,
        ),
        Method(
            name="iisan_cached",
            summary="side network over stored hidden states",
            reads="taps",
            head="side",
            learning_rate=1e-3,
        ),
        Method(
            name="versa_cached",
            summary="side networks over stored states of encoders of any width and number",
            reads="taps",
            head="side",
            side="versa",
            learning_rate=1e-3,
        ),
        Method(
            name="crossan_cached",
            summary="experimental: side towers that read each other, fused by experts",
            reads="taps",
            head="side",
            side="crossan",
            learning_rate=1e-3,
        ),
        Method(
            name="dora",
            summary="rank-8 updates of directions and trained magnitudes",
            reads="inputs",
            rewrite=_dora,
            trains=trainable.DORA,
            learning_rate=1e-3,
            tower_learning_rate=1e-3,
        ),
        Method(
            name="ia3",
            summary="trained scales of keys, values and MLP activations",
            reads="inputs",
            rewrite=ia3,
            trains=trainable.IA3,
            learning_rate=1e-3,
            tower_learning_rate=5e-3,
        ),
        Method(
            name="vera",
            summary="trained scales of shared random low-rank factors",
            reads="inputs",
            rewrite=_vera,
            trains=trainable.VERA,
            learning_rate=1e-3,
            tower_learning_rate=4e-3,
        ),
        Method(
            name="pfeiffer",
            summary="one bottleneck adapter per layer, after attention",
            reads="inputs",
            rewrite=pfeiffer,
            trains=trainable.HOULSBY,
            learning_rate=1e-3,
            tower_learning_rate=4e-4,
        ),
        Method(
            name="parallel",
            summary="bottleneck adapters beside the MLPs",
            reads="inputs",
            rewrite=parallel,
            trains=trainable.PARALLEL,
            learning_rate=1e-3,
            tower_learning_rate=1e-3,
        ),
        Method(
            name="compacter",
            summary="bottleneck adapters of Kronecker products",
            reads="inputs",
            rewrite=compacter,
            trains=trainable.COMPACTER,
            learning_rate=1e-3,
            tower_learning_rate=4e-3,
        ),
        Method(
            name="prompt_tuning",
            summary="trained vectors beside the tokens of text and image",
            reads="inputs",
            rewrite=prompt_tuning,
            trains=trainable.PROMPT,
            learning_rate=1e-3,
            tower_learning_rate=1e-3,
        ),
        Method(
            name="prefix_tuning",
            summary="trained keys and values before those of every layer",
            reads="inputs",
            rewrite=prefix_tuning,
            trains=trainable.PREFIX,
            learning_rate=1e-3,
            tower_learning_rate=5e-3,
        ),
        Method(
            name="layer_norm",
            summary="scales and shifts of norms train",
            reads="inputs",
            trains=trainable.LAYER_NORM,
            learning_rate=1e-3,
            tower_learning_rate=1e-3,
        ),
        Method(
            name="lit",
            summary="the text tower trains, all others are locked",
            reads="inputs",
            trains=trainable.LIT,
            learning_rate=1e-3,
            tower_learning_rate=1e-3,
        ),
    )
}


def named_method(name: str) -> Method:
    """The registered method called `name`.

    Raises:
        ConfigError: unknown name, with the nearest known one.
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}. {suggest(name, METHODS)}")
    return METHODS[name]
