"""What is special about VeRA in `peft` folders: one pair of random factors for all kernels.

The file holds `vera_A` [R, D] and `vera_B` [F, R], as large as the largest kernel needs, and every kernel reads their
leading part; here each kernel holds its own part. A folder without them (`save_projection` false) draws them from a
seed by PyTorch's generator, which nothing else can repeat, so it is refused.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from erel_jax.errors import CheckpointError, ConfigError

SHARED = ("base_model.vera_A", "base_model.vera_B")


def take_factors(tensors: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A [D, R] and B [R, F] of a folder, taken out of its tensors.

    Raises:
        CheckpointError: they are not there.
    """
    if not set(SHARED) <= set(tensors):
        raise CheckpointError(
            "the folder has no vera_A and vera_B: without them they are drawn by PyTorch's generator, which cannot be "
            "repeated here. Save it again with save_projection=True."
        )
    a, b = (tensors.pop(name).astype(np.float32).T for name in SHARED)
    return a, b


def leading_factors(
    factors: tuple[np.ndarray, np.ndarray], path: str, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The part of A and B that a kernel [D, F] or stack [layers, D, F] reads, in its shape.

    Raises:
        CheckpointError: the factors are too small for the kernel.
    """
    (a, b), (*stacked, width, out) = factors, shape
    if a.shape[0] < width or b.shape[1] < out:
        raise CheckpointError(f"{path}: vera_A {a.T.shape} and vera_B {b.T.shape} are too small for [{width}, {out}].")
    rank = a.shape[1]
    cut = np.broadcast_to(a[:width], (*stacked, width, rank)), np.broadcast_to(b[:, :out], (*stacked, rank, out))
    return cut


def shared_factors(kernels: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """`vera_A` and `vera_B` of which every kernel's factors are the leading part.

    Raises:
        ConfigError: kernels have factors of their own.
    """
    parts = {path: [np.asarray(jax.device_get(x)) for x in (kernel.a, kernel.b)] for path, kernel in kernels.items()}
    whole = [max((pair[i] for pair in parts.values()), key=lambda x, i=i: x.shape[i - 2]) for i in (0, 1)]
    a, b = (x.reshape(-1, *x.shape[-2:])[0] for x in whole)
    for path, (mine_a, mine_b) in parts.items():
        same = np.all(mine_a == a[: mine_a.shape[-2], :]) and np.all(mine_b == b[:, : mine_b.shape[-1]])
        if mine_a.shape[-1] != a.shape[-1] or not same:
            raise ConfigError(f"{path}: its VeRA factors are not those of the other kernels; peft shares one pair.")
    return dict(zip(SHARED, (np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)), strict=True))
