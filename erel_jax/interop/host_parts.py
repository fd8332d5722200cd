"""One parameter on its way from the host to the devices: a buffer for each distinct slice, filled piece by piece."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

_ALIGNMENT = 64  # of XLA's own buffers: the CPU backend takes such memory over instead of copying it


class HostParts:
    """The slices of one parameter that this host's devices will hold, each once, in the dtype they will have.

    Args:
        shape: shape of the whole parameter.
        dtype: dtype of the parameter.
        place: its sharding, or None for the default device.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, place: Sharding | None = None) -> None:
        self._shape, self._place = tuple(shape), place
        whole = tuple(slice(0, size) for size in self._shape)
        homes = {None: whole} if place is None else place.addressable_devices_indices_map(self._shape)
        self._spans = {
            device: tuple(index.indices(size)[:2] for index, size in zip(indices or whole, self._shape, strict=True))
            for device, indices in homes.items()
        }
        self._buffers = {span: _aligned(span, np.dtype(dtype)) for span in set(self._spans.values())}

    def write(self, values: np.ndarray, layer: int | None = None) -> None:
        """Casts values into every buffer that needs some of them.

        Args:
            values: the whole parameter, or with `layer` one layer of a stacked one.
            layer: index on the leading axis.
        """
        for span, buffer in self._buffers.items():
            inner = span if layer is None else span[1:]
            part = values[tuple(slice(*s) for s in inner)]
            if layer is None:
                np.copyto(buffer, part, casting="unsafe")
            elif span[0][0] <= layer < span[0][1]:
                np.copyto(buffer[layer - span[0][0]], part, casting="unsafe")

    def to_devices(self) -> jax.Array:
        """The parameter in its place. The buffers belong to it from now on: nothing may be written any more."""
        buffers, self._buffers = self._buffers, {}
        if self._place is None:
            return jax.device_put(buffers[self._spans[None]])
        parts = [jax.device_put(buffers[span], device) for device, span in self._spans.items()]
        return jax.make_array_from_single_device_arrays(self._shape, self._place, parts)


def _aligned(span: tuple[tuple[int, int], ...], dtype: np.dtype) -> np.ndarray:
    shape = tuple(stop - start for start, stop in span)
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)
