"""How much each of a user's last items counts: the newest fully, each older one less by a constant factor."""

import numpy as np
import scipy.sparse

from erel_jax.errors import ConfigError


def recency_weights(histories: np.ndarray, item_count: int, *, last: int, decay: float) -> scipy.sparse.csr_matrix:
    """Weights of the last items of each history as a sparse matrix of users by items.

    Args:
        histories: int32[B, L], item numbers 1..N, oldest first, left padded with 0.
        item_count: N.
        last: How many of the newest items count.
        decay: Weight of an item relative to the next newer one, in (0, 1].

    Returns:
        float32[B, N]; column j is item j + 1, the newest item has weight 1, an item that occurs twice gets the sum.
        A user without items has an empty row.

    Raises:
        ConfigError: `last` or `decay` is out of range.
    """
    if last < 1 or not 0 < decay <= 1:
        raise ConfigError(f"got last={last}, decay={decay}; expected last of at least 1 and decay in (0, 1].")
    recent = histories[:, -last:]
    weights = decay ** np.arange(recent.shape[1] - 1, -1, -1)
    user, slot = np.nonzero(recent)
    entries = weights[slot].astype(np.float32), (user, recent[user, slot] - 1)
    return scipy.sparse.csr_matrix(entries, shape=(len(histories), item_count))
