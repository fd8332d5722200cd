"""Random rotations: they spread what a vector says evenly over its dimensions, which few-bit codes rely on."""

import numpy as np

from erel_jax.retrieval.checks import check_count


def random_rotation(width: int, seed: int = 0) -> np.ndarray:
    """A random orthogonal matrix, float32[E, E], uniform over all of them.

    Args:
        width: E.
        seed: equal seeds give equal matrices.

    Raises:
        ConfigError: the width is no whole number or below 1.

    Reference: QR of a normal matrix with the signs of R's diagonal (Mezzadri 2007).
    """
    check_count(width, "width")
    drawn = np.random.default_rng(seed).standard_normal((width, width))
    q, r = np.linalg.qr(drawn)
    return (q * np.where(np.diagonal(r) < 0, -1.0, 1.0)).astype(np.float32)
