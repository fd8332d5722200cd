"""Numbers of a few bits in whole bytes: one plane per bit, eight dimensions per byte."""

import jax
import jax.numpy as jnp
import numpy as np


def packed_bytes(width: int, bits: int) -> int:
    """Bytes that `pack` gives for one row."""
    return bits * -(-width // 8)


def pack(values: np.ndarray, bits: int) -> np.ndarray:
    """uint8[N, E] below 2^bits → uint8[N, bits · ⌈E / 8⌉], the plane of the lowest bit first."""
    planes = [np.packbits((values >> bit) & 1, axis=1, bitorder="little") for bit in range(bits)]
    return np.concatenate(planes, axis=1)


def unpack(packed: jax.Array, bits: int, width: int) -> jax.Array:
    """The inverse of `pack`, int32[N, E]; jittable."""
    planes = jnp.asarray(packed).reshape(packed.shape[0], bits, -1)
    single = (planes[..., None] >> jnp.arange(8, dtype=jnp.uint8)[None, None, None]) & jnp.uint8(1)
    digits = single.reshape(packed.shape[0], bits, -1)[:, :, :width].astype(jnp.int32)
    return jnp.sum(digits << jnp.arange(bits, dtype=jnp.int32)[None, :, None], axis=1)
