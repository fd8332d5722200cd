"""The sigmoid loss whose memory grows with the batch and not with its square."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError
from erel_jax.losses.across_devices import Exchange, filled_like, ring
from erel_jax.losses.contrast import Rule
from erel_jax.losses.pair_ids import PairIds, SameGroup
from erel_jax.losses.row_tiles import KEPT_BYTES, Gradients, Tiles, cut, over_tiles, put, take
from erel_jax.losses.sigmoid import pairwise_sigmoid, signs
from erel_jax.losses.similarity import products


def chunked_sigmoid_loss(
    queries: jax.Array,
    items: jax.Array,
    log_scale: jax.typing.ArrayLike,
    bias: jax.typing.ArrayLike,
    *,
    group: jax.typing.ArrayLike | None = None,
    same_group: SameGroup = "left_out",
    tile_rows: int | None = None,
    kept_bytes: int = KEPT_BYTES,
    axis_name: str | None = None,
    exchange: Exchange = "ring",
) -> jax.Array:
    """The sigmoid losses in tiles: same value, same gradient, memory linear in the batch.

    Args:
        queries, items, log_scale, bias, group, axis_name: as in `sigmoid_loss`.
        same_group: what other pairs of the own group are: "left_out" as in `sigmoid_loss`, or "positive" as in
            `multi_positive_sigmoid_loss`, which needs group ids.
        tile_rows: queries whose logits exist at once; None takes about 8 MB of logits.
        kept_bytes: most bytes of logits that are kept for the backward pass instead of being formed again; none around
            a ring.
        exchange: with `axis_name`, "ring" or "gather", as in `chunked_info_nce`.

    Returns:
        float32 scalar; with `axis_name` to be averaged over the axis. ConfigError where something does not fit.

    Negatives and duplicates: as in `sigmoid_loss` and `multi_positive_sigmoid_loss`.

    Crosses devices: with "ring", items and ids, and on the way back items' gradients, one device's worth at a time;
    with "gather", all items and ids at once.

    Numerics: float32. Logits are formed again in the backward pass, except for those kept. It has no second
    derivative.

    Reference: Zhai et al. 2023, whose chunked form passes negatives from device to device. Relation:
    `chunked_info_nce` is the same walk for the softmax losses.
    """
    if exchange not in ("ring", "gather"):
        raise ConfigError(f"exchange is {exchange!r}, expected 'ring' or 'gather'.")
    ring_axis = axis_name if exchange == "ring" else None

    def measure(rows, columns, biases, row_ids, column_ids, rule):
        tiles = cut(rows.shape[0], columns.shape[0], tile_rows, 0 if ring_axis else kept_bytes)
        return _row_losses(rows, columns, biases, row_ids, column_ids, _Plan(rule, tiles, ring_axis))

    return pairwise_sigmoid(
        queries,
        items,
        log_scale,
        bias,
        measure,
        group=group,
        same_group=same_group,
        axis_name=axis_name,
        gathers=exchange == "gather",
    )


class _Plan(NamedTuple):
    rule: Rule
    tiles: Tiles
    axis_name: str | None


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _row_losses(
    rows: jax.Array, columns: jax.Array, biases: jax.Array, row_ids: PairIds, column_ids: PairIds, plan: _Plan
) -> jax.Array:
    return _forward(rows, columns, biases, row_ids, column_ids, plan)[0]


def _forward(
    rows: jax.Array, columns: jax.Array, biases: jax.Array, row_ids: PairIds, column_ids: PairIds, plan: _Plan
):
    def visit(resident: tuple[jax.Array, Any], traveling: Any) -> tuple[tuple[jax.Array, Any], Any]:
        (losses, _), (columns, column_ids) = resident, traveling

        def tile(losses: jax.Array, start: Any, size: int, _: Any):
            own, bias, ids, before = take((rows, biases, row_ids, losses), start, size)
            logits = products(own, columns) + bias[:, None]
            sign, counted = signs(ids, column_ids, plan.rule)
            terms = jax.nn.softplus(-sign * logits)
            terms = terms if counted is None else jnp.where(counted, terms, 0.0)
            return put(losses, before + jnp.sum(terms, axis=1), start), logits

        return over_tiles(tile, losses, rows.shape[0], plan.tiles), traveling

    begun = (filled_like(rows, (rows.shape[0],), 0.0), None)
    return ring(visit, begun, (columns, column_ids), plan.axis_name)[0]


def _forward_for_gradient(
    rows: jax.Array, columns: jax.Array, biases: jax.Array, row_ids: PairIds, column_ids: PairIds, plan: _Plan
):
    losses, kept = _forward(rows, columns, biases, row_ids, column_ids, plan)
    return losses, (rows, columns, biases, row_ids, column_ids, kept if plan.tiles.kept else None)


def _backward(plan: _Plan, residuals: Any, cotangent: jax.Array):
    rows, columns, biases, row_ids, column_ids, kept = residuals

    def visit(resident: tuple[jax.Array, jax.Array], traveling: Any):
        (to_rows, to_biases), (columns, column_ids, to_columns) = resident, traveling

        def tile(carry: tuple[Gradients, jax.Array], start: Any, size: int, logits: Any):
            gradients, to_biases = carry
            own, bias, ids, weight, before = take((rows, biases, row_ids, cotangent, to_biases), start, size)
            if logits is None:
                logits = products(own, columns) + bias[:, None]
            sign, counted = signs(ids, column_ids, plan.rule)
            slope = -weight[:, None] * sign * jax.nn.sigmoid(-sign * logits)
            slope = slope if counted is None else jnp.where(counted, slope, 0.0)
            to_biases = put(to_biases, before + jnp.sum(slope, axis=1), start)
            return (gradients.add(slope, own, columns, start), to_biases), logits

        begun = (Gradients(to_rows, to_columns), to_biases)
        (gradients, to_biases), _ = over_tiles(tile, begun, rows.shape[0], plan.tiles, kept)
        return (gradients.rows, to_biases), (columns, column_ids, gradients.columns)

    begun = Gradients.none(rows, columns)
    resident = (begun.rows, filled_like(rows, biases.shape, 0.0))
    traveling = (columns, column_ids, begun.columns)
    (to_rows, to_biases), (_, _, to_columns) = ring(visit, resident, traveling, plan.axis_name)
    return to_rows, to_columns, to_biases, None, None


_row_losses.defvjp(_forward_for_gradient, _backward)
