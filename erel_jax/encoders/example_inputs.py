"""Random inputs of any encoder, for tests, warm-up and measurements where the values do not matter."""

from typing import Any

import numpy as np

from erel_jax.encoders.encoded import Encoder
from erel_jax.errors import ConfigError


def example_inputs(encoder: Encoder, rows: int = 4, length: int = 11, seed: int = 0) -> dict[str, np.ndarray]:
    """A batch that an encoder accepts.

    Args:
        encoder: the tower.
        rows: batch size B.
        length: tokens L of the longest text, at least `rows`; every further text is one token shorter, and each ends
            in the largest id of the vocabulary (where CLIP reads). Other modalities have one size.
        seed: of the random values.

    Returns:
        What `encoder.module.apply` takes, on the host.

    Raises:
        ConfigError: texts would be empty.
    """
    draw = np.random.default_rng(seed)
    config: Any = encoder.config
    if encoder.modality != "text":
        name, shape = _signal(encoder)
        return {name: draw.normal(size=(rows, *shape)).astype(np.float32)}
    if rows > length:
        raise ConfigError(
            f"got {rows} rows of up to {length} tokens, each one shorter; expected at most {length} rows."
        )
    lengths = np.arange(length, length - rows, -1)
    ids = draw.integers(1, config.vocabulary - 1, (rows, length)).astype(np.int32)
    ids[np.arange(rows), lengths - 1] = config.vocabulary - 1
    mask = np.arange(length)[None] < lengths[:, None]
    return {"ids": np.where(mask, ids, 0).astype(np.int32), "mask": mask}


def _signal(encoder: Encoder) -> tuple[str, tuple[int, ...]]:
    """The input of an encoder that is no text: its name and the shape of one example."""
    config: Any = encoder.config
    if encoder.modality == "image":
        return "pixels", (config.image_size, config.image_size, config.channels)
    if encoder.modality == "video":
        return "video", (config.frames, config.image_size, config.image_size, config.channels)
    return config.input_name, (config.frames, config.bins)
