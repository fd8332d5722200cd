"""Adaptation methods as data: what each one rewrites, trains and reads.

A method says nothing about a task. `adapters.adapted` turns it into a trainable model for a pair of towers (retrieval)
or for items of several modalities (recommendation). A new method is one `Method` in a file of its own and one line in
`METHODS`.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from erel_jax.adapters import trainable
from erel_jax.adapters.compacter import compacter
from erel_jax.adapters.dora import dora
from erel_jax.adapters.houlsby import houlsby
from erel_jax.adapters.ia3 import ia3
from erel_jax.adapters.k_adapter import k_adapter
from erel_jax.adapters.lora import lora
from erel_jax.adapters.parallel import parallel
from erel_jax.adapters.partial import cut_layers, partial_layers, stacked_layers, top_sixth
from erel_jax.adapters.pfeiffer import pfeiffer
from erel_jax.adapters.prefix_tuning import prefix_tuning
from erel_jax.adapters.prompt_tuning import prompt_tuning
from erel_jax.adapters.qlora import qlora, quantized_base
from erel_jax.adapters.vera import vera
from erel_jax.encoders.encoded import Encoder
from erel_jax.errors import ConfigError, suggest
from erel_jax.layers.precision import Precision


def _unchanged(whatever: Any) -> Any:
    return whatever


def _same_encoder(encoder: Encoder, precision: Precision) -> Encoder:
    del precision
    return encoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """One way to adapt frozen encoders.

    Attributes:
        name: what `--methods` calls it.
        summary: one line for help texts and reports.
        reads: what the trained part is fed with at each step: "inputs" runs the towers live, "pooled" reads each
            item's stored final embedding, "taps" reads its stored hidden states.
        rewrite: spec → spec of one tower (adapters wrap kernels here).
        rebuild: (encoder, precision) → another encoder around the same weights (a cut stack, a network behind it);
            its spec is what `rewrite` gets.
        convert: pretrained parameters of a tower → what its spec holds of them (cut, quantized).
        trains: patterns over one tower's parameters that train; empty for a frozen tower.
        head: what sits on top: "none" (the tower's own embedding), "linear", or "side" (a side network over taps).
        side: which side network fuses an item's modalities: "iisan" for one or two modalities, "versa" and "crossan"
            for any number. A tower by itself, as in retrieval, gets the same side tower from each.
        learning_rate: default for heads, side networks and user encoders.
        tower_learning_rate: default for what trains inside a tower.
        rate_source: where the rate of what trains in or, if nothing does, behind the tower comes from.

    Learning rates differ by an order of magnitude between methods; sharing one would invalidate a comparison.
    """

    name: str
    summary: str
    reads: Literal["inputs", "pooled", "taps"]
    rewrite: Callable[[Any], Any] = _unchanged
    rebuild: Callable[[Encoder, Precision], Encoder] = _same_encoder
    convert: Callable[[Any], Any] = _unchanged
    trains: tuple[str, ...] = ()
    head: Literal["none", "linear", "side"] = "linear"
    side: Literal["iisan", "versa", "crossan"] = "iisan"
    learning_rate: float = 1e-3
    tower_learning_rate: float = 0.0
    rate_source: str = ""

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


def _partial(encoder: Encoder, precision: Precision) -> Encoder:
    del precision
    return partial_layers(encoder, top_sixth(encoder.layers))


def _cut(params: Any) -> Any:
    return cut_layers(params, top_sixth(stacked_layers(params)))


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
            rate_source="a start to sweep, with Adam",
        ),
        Method(
            name="full",
            summary="every encoder weight trains",
            reads="inputs",
            trains=trainable.FULL,
            tower_learning_rate=1e-4,
            rate_source="image towers of IISAN and Adapter4Rec",
        ),
        Method(
            name="bitfit",
            summary="biases train",
            reads="inputs",
            trains=trainable.BITFIT,
            tower_learning_rate=1e-3,
            rate_source="a start to sweep; IISAN has 5e-5 for text and 1e-4 for images",
        ),
        Method(
            name="lora",
            summary="rank-8 updates of query and value kernels",
            reads="inputs",
            rewrite=_lora,
            trains=trainable.LORA,
            tower_learning_rate=1e-3,
            rate_source="Adapter4Rec, text; ten times that of full fine-tuning",
        ),
        Method(
            name="rslora",
            summary="rank-16 updates with rank-stabilized scale",
            reads="inputs",
            rewrite=_rslora,
            trains=trainable.LORA,
            tower_learning_rate=1e-3,
            rate_source="as LoRA; its scale keeps updates of other ranks as large",
        ),
        Method(
            name="houlsby",
            summary="bottleneck adapters after attention and MLP",
            reads="inputs",
            rewrite=houlsby,
            trains=trainable.HOULSBY,
            tower_learning_rate=1e-3,
            rate_source="VIP5; Adapter4Rec and IISAN have 1.5e-4 to 4e-4",
        ),
        Method(
            name="iisan",
            summary="side network over hidden states, towers run at every step",
            reads="inputs",
            head="side",
            rate_source="a start to sweep for narrow heads; IISAN has 1e-4 and 2e-4",
        ),
        Method(
            name="iisan_cached",
            summary="side network over stored hidden states",
            reads="taps",
            head="side",
            rate_source="as iisan",
        ),
        Method(
            name="versa_cached",
            summary="side networks over stored states of encoders of any width and number",
            reads="taps",
            head="side",
            side="versa",
            rate_source="as iisan",
        ),
        Method(
            name="crossan_cached",
            summary="experimental: side towers that read each other, fused by experts",
            reads="taps",
            head="side",
            side="crossan",
            rate_source="as iisan",
        ),
        Method(
            name="dora",
            summary="rank-8 updates of directions and trained magnitudes",
            reads="inputs",
            rewrite=_dora,
            trains=trainable.DORA,
            tower_learning_rate=1e-3,
            rate_source="as LoRA",
        ),
        Method(
            name="ia3",
            summary="trained scales of keys, values and MLP activations",
            reads="inputs",
            rewrite=ia3,
            trains=trainable.IA3,
            tower_learning_rate=5e-3,
            rate_source="peft's method comparison: best of three",
        ),
        Method(
            name="vera",
            summary="trained scales of shared random low-rank factors",
            reads="inputs",
            rewrite=_vera,
            trains=trainable.VERA,
            tower_learning_rate=4e-3,
            rate_source="its paper, RoBERTa-base on SST-2",
        ),
        Method(
            name="pfeiffer",
            summary="one bottleneck adapter per layer, after attention",
            reads="inputs",
            rewrite=pfeiffer,
            trains=trainable.HOULSBY,
            tower_learning_rate=4e-4,
            rate_source="Adapter4Rec, image",
        ),
        Method(
            name="parallel",
            summary="bottleneck adapters beside the MLPs",
            reads="inputs",
            rewrite=parallel,
            trains=trainable.PARALLEL,
            tower_learning_rate=1e-3,
            rate_source="as houlsby",
        ),
        Method(
            name="compacter",
            summary="bottleneck adapters of Kronecker products",
            reads="inputs",
            rewrite=compacter,
            trains=trainable.COMPACTER,
            tower_learning_rate=4e-3,
            rate_source="Adapter4Rec, text",
        ),
        Method(
            name="prompt_tuning",
            summary="trained vectors beside the tokens of text and image",
            reads="inputs",
            rewrite=prompt_tuning,
            trains=trainable.PROMPT,
            tower_learning_rate=1e-3,
            rate_source="peft's method comparison: four times as good there as at its default",
        ),
        Method(
            name="prefix_tuning",
            summary="trained keys and values before those of every layer",
            reads="inputs",
            rewrite=prefix_tuning,
            trains=trainable.PREFIX,
            tower_learning_rate=5e-3,
            rate_source="P-tuning v2's run of BERT-large on BoolQ",
        ),
        Method(
            name="k_adapter",
            summary="a network of its own behind the tower, over tokens of two states",
            reads="inputs",
            rebuild=k_adapter,
            trains=trainable.K_ADAPTER,
            tower_learning_rate=1.5e-5,
            rate_source="Adapter4Rec, image",
        ),
        Method(
            name="qlora_int8",
            summary="rank-8 updates over a base of 8 bits",
            reads="inputs",
            rewrite=partial(qlora, base="int8"),
            convert=partial(quantized_base, base="int8"),
            trains=trainable.LORA,
            tower_learning_rate=1e-3,
            rate_source="as LoRA",
        ),
        Method(
            name="qlora_nf4",
            summary="rank-8 updates over a base of 4 bits",
            reads="inputs",
            rewrite=partial(qlora, base="nf4"),
            convert=partial(quantized_base, base="nf4"),
            trains=trainable.LORA,
            tower_learning_rate=1e-3,
            rate_source="as LoRA",
        ),
        Method(
            name="partial_layers",
            summary="the top sixth of the layers trains",
            reads="inputs",
            rebuild=_partial,
            convert=_cut,
            trains=trainable.TOP_LAYERS,
            tower_learning_rate=1e-4,
            rate_source="as full fine-tuning",
        ),
        Method(
            name="layer_norm",
            summary="scales and shifts of norms train",
            reads="inputs",
            trains=trainable.LAYER_NORM,
            tower_learning_rate=1e-3,
            rate_source="a start to sweep",
        ),
        Method(
            name="lit",
            summary="the text tower trains, all others are locked",
            reads="inputs",
            trains=trainable.LIT,
            tower_learning_rate=1e-3,
            rate_source="big_vision's SigLiT on COCO",
        ),
    )
}


def named_method(name: str) -> Method:
    """The registered method called `name`.

    Raises:
        ConfigError: unknown name, with the nearest known one.
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}. {suggest(str(name), METHODS)}")
    return METHODS[name]
