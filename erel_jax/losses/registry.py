"""All losses in one table, for choosing one and for testing every one in the same way.

`LOSSES` names each loss, says what it reads, and what counts as a negative. The chooser in `docs/losses.md` lists the
same names, and the contract tests run over the table. `debiased_cross_entropy` is not in it: its batches are windows of
users with their index arrays, see `in_batch_debiased`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax

from erel_jax.losses.bpr import bpr_loss
from erel_jax.losses.chunked_info_nce import chunked_info_nce
from erel_jax.losses.chunked_sigmoid import chunked_sigmoid_loss
from erel_jax.losses.info_nce import info_nce, symmetric_info_nce
from erel_jax.losses.listwise import listnet_loss
from erel_jax.losses.margin import margin_loss
from erel_jax.losses.matryoshka import matryoshka
from erel_jax.losses.multi_positive import multi_positive_info_nce, symmetric_multi_positive_info_nce
from erel_jax.losses.sigmoid import multi_positive_sigmoid_loss, sigmoid_loss
from erel_jax.losses.softmax import full_softmax, sampled_softmax
from erel_jax.losses.triplet import semi_hard_triplet_loss, triplet_loss


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss and how to call it: every argument by name, `axis_name` for a batch split over devices.

    Attributes:
        fn: the function.
        rows: names of the arguments with one row per example, split over devices.
        shared: names of the others, the same on every device.
        negatives: what counts as a negative.
        memory: how the logits grow: "B²" with the square of the batch, "B" linearly, "B·N" with another size.
    """

    fn: Callable[..., jax.Array]
    rows: tuple[str, ...]
    shared: tuple[str, ...] = ()
    negatives: str
    memory: str = "B²"


_PAIRS = ("queries", "items", "group")
_BATCH, _GROUPS = "other pairs of the batch; the own group is left out", "pairs of other groups"


def _contrast(fn: Callable[..., jax.Array], negatives: str, memory: str = "B²") -> Loss:
    return Loss(fn=fn, rows=_PAIRS, shared=("log_scale",), negatives=negatives, memory=memory)


def _sigmoid(fn: Callable[..., jax.Array], negatives: str, memory: str = "B²") -> Loss:
    return Loss(fn=fn, rows=_PAIRS, shared=("log_scale", "bias"), negatives=negatives, memory=memory)


LOSSES: dict[str, Loss] = {
    "info_nce": Loss(
        fn=info_nce, rows=(*_PAIRS, "hard_negatives"), shared=("log_scale",), negatives=f"{_BATCH}; hard negatives"
    ),
    "symmetric_info_nce": _contrast(symmetric_info_nce, _BATCH),
    "multi_positive_info_nce": _contrast(multi_positive_info_nce, _GROUPS),
    "symmetric_multi_positive_info_nce": _contrast(symmetric_multi_positive_info_nce, _GROUPS),
    "chunked_info_nce": _contrast(partial(chunked_info_nce, tile_rows=3), _BATCH, "B"),
    "sigmoid_loss": _sigmoid(sigmoid_loss, _BATCH),
    "multi_positive_sigmoid_loss": _sigmoid(multi_positive_sigmoid_loss, _GROUPS),
    "chunked_sigmoid_loss": _sigmoid(partial(chunked_sigmoid_loss, tile_rows=3), _BATCH, "B"),
    "margin_loss": Loss(fn=margin_loss, rows=_PAIRS, negatives=_BATCH),
    "triplet_loss": Loss(
        fn=triplet_loss, rows=("anchors", "positives", "negatives"), negatives="the given one", memory="B"
    ),
    "semi_hard_triplet_loss": Loss(fn=semi_hard_triplet_loss, rows=_PAIRS, negatives="the semi-hard one of the batch"),
    "bpr_loss": Loss(
        fn=bpr_loss, rows=("positive_scores", "negative_scores"), negatives="the sampled ones of the row", memory="B·N"
    ),
    "full_softmax": Loss(
        fn=full_softmax,
        rows=("user_states", "targets"),
        shared=("item_embeddings", "log_popularity"),
        negatives="every other item of the catalog",
        memory="B·N",
    ),
    "sampled_softmax": Loss(
        fn=sampled_softmax,
        rows=("user_states", "positive_embeddings", "targets"),
        shared=("sampled_embeddings", "sampled_ids", "log_popularity"),
        negatives="the shared sample, without the own target",
        memory="B·N",
    ),
    "listnet_loss": Loss(
        fn=listnet_loss, rows=("scores", "relevance"), negatives="the less relevant of the list", memory="B·N"
    ),
    "matryoshka": _contrast(matryoshka(symmetric_info_nce, (4, 2)), "those of the wrapped loss"),
}
"""Every loss by name; the chunked ones with small tiles, `matryoshka` over `symmetric_info_nce` at widths 4 and 2."""
