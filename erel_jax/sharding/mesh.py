"""The device mesh every program runs on: axes `("data", "model")`, size 1 allowed."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from erel_jax.errors import ConfigError

AXES = ("data", "model")


def make_mesh(data: int | None = None, model: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over `data × model` devices with automatic axis types.

    Args:
        data: devices along the batch; None takes all that `model` leaves.
        model: devices along the model's own dimensions.
        devices: the devices to use, all local and remote ones by default.

    Raises:
        ConfigError: the devices do not fill the mesh.
    """
    devices = list(jax.devices() if devices is None else devices)
    if data is None:
        data = len(devices) // model
    if data < 1 or model < 1 or data * model > len(devices):
        raise ConfigError(f"a mesh of data={data} × model={model} needs {data * model} devices, found {len(devices)}.")
    grid = np.asarray(devices[: data * model]).reshape(data, model)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto, AxisType.Auto))
