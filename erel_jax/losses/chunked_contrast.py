"""The statistics of `contrast` with memory linear in the batch, on one device or around a ring of devices.

Going forward, logits are formed tile by tile; a running maximum and sum per row and per column give every logsumexp.
Going back, the tiles are formed again and turned into slopes with those logsumexps, as in memory-efficient attention
(Rabe and Staats 2021; Dao et al. 2022); nothing of the size of the matrix of logits is ever stored. Around a ring the
columns travel together with their running sums, and in the backward pass with their gradients.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from erel_jax.losses.across_devices import filled_like, ring
from erel_jax.losses.contrast import Measure, Rule, Statistics, left_out
from erel_jax.losses.pair_ids import PairIds, is_same_group
from erel_jax.losses.row_tiles import Gradients, Tiles, cut, over_tiles, put, take
from erel_jax.losses.similarity import products

_BELOW_ALL = -1e30


class _Plan(NamedTuple):
    rule: Rule
    both: bool
    tiles: Tiles
    axis_name: str | None


class _Part(NamedTuple):
    """Running sums of one side."""

    largest: jax.Array
    weight: jax.Array
    positive: jax.Array | None
    count: jax.Array | None

    @classmethod
    def none(cls, side: jax.Array, rule: Rule) -> "_Part":
        def filled(value: float) -> jax.Array:
            return filled_like(side, (side.shape[0],), value)

        grouped = rule == "positive"
        return cls(filled(_BELOW_ALL), filled(0.0), *((filled(0.0), filled(0.0)) if grouped else (None, None)))

    def add(self, logits: jax.Array, positive: jax.Array | None, axis: int) -> "_Part":
        largest = jnp.maximum(self.largest, jnp.max(logits, axis=axis))
        weight = self.weight * jnp.exp(self.largest - largest)
        weight = weight + jnp.sum(jnp.exp(logits - jnp.expand_dims(largest, axis)), axis=axis)
        if positive is None or self.positive is None or self.count is None:
            return _Part(largest, weight, None, None)
        matched = jnp.sum(jnp.where(positive, logits, 0.0), axis=axis)
        counted = jnp.sum(positive.astype(jnp.float32), axis=axis)
        return _Part(largest, weight, self.positive + matched, self.count + counted)

    def lse(self) -> jax.Array:
        return self.largest + jnp.log(self.weight)


class _Slopes(NamedTuple):
    """Of one side: its logsumexps, and the derivatives of the loss by them and by the sums over positives."""

    lse: jax.Array
    to_lse: jax.Array
    to_positive: jax.Array | None

    def of(self, logits: jax.Array, axis: int) -> jax.Array:
        wide = partial(jnp.expand_dims, axis=axis)
        return wide(self.to_lse) * jnp.exp(logits - wide(self.lse))


def chunked(tile_rows: int | None, kept_bytes: int, ring_axis: str | None = None) -> Measure:
    """Measures statistics tile by tile.

    Args:
        tile_rows: rows of a tile; None chooses.
        kept_bytes: most bytes of logits kept for the backward pass; around a ring none are.
        ring_axis: mesh axis around which the columns of all devices travel; None looks at the given columns alone.
    """

    def measure(
        rows: jax.Array, columns: jax.Array, row_ids: PairIds, column_ids: PairIds, rule: Rule, both: bool
    ) -> Statistics:
        tiles = cut(rows.shape[0], columns.shape[0], tile_rows, 0 if ring_axis else kept_bytes)
        return _statistics(rows, columns, row_ids, column_ids, _Plan(rule, both, tiles, ring_axis))

    return measure


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _statistics(rows: jax.Array, columns: jax.Array, row_ids: PairIds, column_ids: PairIds, plan: _Plan) -> Statistics:
    return _forward(rows, columns, row_ids, column_ids, plan)[0]


def _forward(rows: jax.Array, columns: jax.Array, row_ids: PairIds, column_ids: PairIds, plan: _Plan):
    def visit(resident: tuple[_Part, Any], traveling: Any) -> tuple[tuple[_Part, Any], Any]:
        (of_rows, _), (columns, column_ids, of_columns) = resident, traveling

        def tile(carry: tuple[_Part, _Part | None], start: Any, size: int, _: Any):
            of_rows, of_columns = carry
            ids = take(row_ids, start, size)
            logits = left_out(products(take(rows, start, size), columns), ids, column_ids, plan.rule)
            positive = is_same_group(ids, column_ids) if plan.rule == "positive" else None
            part = take(of_rows, start, size).add(logits, positive, 1)
            of_rows = jax.tree.map(lambda whole, rows: put(whole, rows, start), of_rows, part)
            return (of_rows, None if of_columns is None else of_columns.add(logits, positive, 0)), logits

        (of_rows, of_columns), kept = over_tiles(tile, (of_rows, of_columns), rows.shape[0], plan.tiles)
        return (of_rows, kept), (columns, column_ids, of_columns)

    begun = _Part.none(columns, plan.rule) if plan.both else None
    resident = (_Part.none(rows, plan.rule), None)
    (of_rows, kept), (_, _, of_columns) = ring(visit, resident, (columns, column_ids, begun), plan.axis_name)
    sides = (None, None) if of_columns is None else (of_columns.lse(), of_columns.positive)
    return Statistics(of_rows.lse(), of_rows.positive, of_rows.count, *sides), kept


def _forward_for_gradient(rows: jax.Array, columns: jax.Array, row_ids: PairIds, column_ids: PairIds, plan: _Plan):
    found, kept = _forward(rows, columns, row_ids, column_ids, plan)
    return found, (rows, columns, row_ids, column_ids, found, kept if plan.tiles.kept else None)


def _backward(plan: _Plan, residuals: Any, cotangent: Statistics):
    rows, columns, row_ids, column_ids, found, kept = residuals
    of_rows = _Slopes(found.row_lse, cotangent.row_lse, cotangent.row_positive)
    of_columns = None
    if found.column_lse is not None and cotangent.column_lse is not None:
        of_columns = _Slopes(found.column_lse, cotangent.column_lse, cotangent.column_positive)

    def visit(to_rows: jax.Array, traveling: Any) -> tuple[jax.Array, Any]:
        columns, column_ids, of_columns, to_columns = traveling

        def tile(gradients: Gradients, start: Any, size: int, logits: jax.Array | None):
            ids, own = take((row_ids, rows), start, size)
            if logits is None:
                logits = left_out(products(own, columns), ids, column_ids, plan.rule)
            here = take(of_rows, start, size)
            slope = here.of(logits, 1)
            if of_columns is not None:
                slope = slope + of_columns.of(logits, 0)
            if plan.rule == "positive":
                slope = slope + _to_positives(here, of_columns, is_same_group(ids, column_ids))
            return gradients.add(slope, own, columns, start), logits

        begun = Gradients(to_rows, to_columns)
        gradients, _ = over_tiles(tile, begun, rows.shape[0], plan.tiles, kept)
        return gradients.rows, (columns, column_ids, of_columns, gradients.columns)

    begun = Gradients.none(rows, columns)
    traveling = (columns, column_ids, of_columns, begun.columns)
    to_rows, (_, _, _, to_columns) = ring(visit, begun.rows, traveling, plan.axis_name)
    return to_rows, to_columns, None, None


def _to_positives(rows: _Slopes, columns: _Slopes | None, positive: jax.Array) -> jax.Array:
    """Derivative by the logits that goes through the sums over positives."""
    slope = jnp.zeros(positive.shape, jnp.float32)
    if rows.to_positive is not None:
        slope = slope + rows.to_positive[:, None]
    if columns is not None and columns.to_positive is not None:
        slope = slope + columns.to_positive[None, :]
    return jnp.where(positive, slope, 0.0)


_statistics.defvjp(_forward_for_gradient, _backward)
