"""InfoNCE whose memory grows with the batch and not with its square."""

import jax

from erel_jax.errors import ConfigError
from erel_jax.losses.across_devices import Exchange
from erel_jax.losses.chunked_contrast import chunked
from erel_jax.losses.contrast import contrastive, gathered
from erel_jax.losses.pair_ids import SameGroup
from erel_jax.losses.row_tiles import KEPT_BYTES


def chunked_info_nce(
    queries: jax.Array,
    items: jax.Array,
    log_scale: jax.typing.ArrayLike,
    *,
    group: jax.typing.ArrayLike | None = None,
    same_group: SameGroup = "left_out",
    symmetric: bool = True,
    tile_rows: int | None = None,
    kept_bytes: int = KEPT_BYTES,
    axis_name: str | None = None,
    exchange: Exchange = "ring",
) -> jax.Array:
    """The contrastive losses in tiles: same value, same gradient, memory linear in the batch.

    Args:
        queries, items, log_scale, group, axis_name: as in `symmetric_info_nce`.
        same_group: what other pairs of the own group are: "left_out" as in `symmetric_info_nce`, or "positive" as in
            `multi_positive_info_nce`, which needs group ids.
        symmetric: both directions, or queries to items alone.
        tile_rows: queries whose logits exist at once; None takes about 8 MB of logits.
        kept_bytes: most bytes of logits that are kept for the backward pass instead of being formed again; none around
            a ring.
        exchange: with `axis_name`, "ring" passes items from device to device, so that memory per device does not grow
            with the number of devices; "gather" brings all items to each device in one collective.

    Returns:
        float32 scalar; with `axis_name` to be averaged over the axis.

    Raises:
        ConfigError: shapes, dtypes or options that do not fit.

    Negatives, duplicates, requirements: as in `symmetric_info_nce` and `multi_positive_info_nce`.

    Crosses devices: with "ring", items, their ids and the sums of their softmax, and on the way back their gradients,
    one device's worth at a time; with "gather", all items and ids at once.

    Numerics: float32; a running maximum per row and column, so no scale overflows. The backward pass forms logits
    again: four products of the size of the batch's square instead of three. Those kept save their part of it,
    by default all up to B = 4,096. It has no second derivative.

    Reference: tiles with recomputation as in Rabe and Staats 2021 and FlashAttention (Dao et al. 2022), for this loss
    Inf-CL (Cheng et al. 2024). Relation: the value of `symmetric_info_nce`, `info_nce` and the multi-positive forms.
    """
    if exchange not in ("ring", "gather"):
        raise ConfigError(f"exchange is {exchange!r}, expected 'ring' or 'gather'.")
    ring = exchange == "ring"
    measure = chunked(tile_rows, kept_bytes, axis_name if ring else None)
    if not ring:
        measure = gathered(measure, axis_name)
    return contrastive(
        queries,
        items,
        log_scale,
        measure,
        group=group,
        same_group=same_group,
        both=symmetric,
        axis_name=axis_name,
    )
