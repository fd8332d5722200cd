"""What frozen towers said about every item: stored once, and where training finds it.

A cached method trains on an encoder's pooled embeddings or hidden states (*taps*) instead of running the encoder.
`stored_states` keeps them in a `data.state_store` folder whose name follows from everything that shaped them: the
encoder's weights and tokenizer, the items, the taps and the precision. `choose_placement` says where they live while
training: *resident* on the device, *sharded* over the devices, or *streamed* from disk (see `state_feed`).
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from erel_jax.data.state_store import Layout, StateStore, open_store
from erel_jax.errors import ConfigError, suggest

Placement = Literal["resident", "sharded", "streamed"]
PLACEMENTS = ("resident", "sharded", "streamed")
# What states may take of a device's memory: parameters, optimizer and activations want the rest.
SHARE = 0.5


def tower_identity(tower: Any, items: str, taps: tuple[int, ...] | None, precision: str) -> dict[str, str]:
    """Everything that shapes a tower's stored states.

    Args:
        tower: `interop.huggingface.Loaded`.
        items: fingerprint of what it encodes.
        taps: states read, None for the pooled embedding.
        precision: name of the policy it runs in.
    """
    identity = {"weights": tower.fingerprint, "items": items, "taps": str(taps), "precision": precision}
    if tower.tokenizer is not None:
        identity["tokenizer"] = hashlib.sha256(tower.tokenizer.to_json().encode()).hexdigest()
    return identity


def stored_states(
    cache: Path,
    name: str,
    identity: Mapping[str, str],
    layout: Layout,
    encode: Callable[[int, int], np.ndarray],
    progress: Callable[[str, int, int], None],
) -> StateStore:
    """Opens stored states, or computes what is missing of them.

    Args:
        cache: cache folder.
        name: a word for folder names and progress, for example `text-taps`.
        identity: everything that shapes the values, see `tower_identity`; another identity is another store.
        layout: rows, shape and storage.
        encode: `encode(start, stop) -> float[stop - start, …]`, finite.
        progress: called with (stage, done, total).

    Raises:
        CheckpointError: the folder holds states of something else.
        NonFiniteError: the encoder gave NaN or infinity; names the first row.
    """
    parts = (f"{key}={value}" for key, value in sorted(identity.items()))
    digest = hashlib.sha256("|".join((*parts, f"{layout.rows}{layout.shape}{layout.storage}")).encode()).hexdigest()
    folder = cache / "states" / f"{name}-{digest[:16]}"
    return open_store(folder, name=name, identity=identity, layout=layout, encode=encode, progress=progress)


def device_budget() -> int:
    """Bytes that stored states may take on one device; host memory where the device does not tell."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        free = int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // jax.local_device_count()
    return int(SHARE * free)


def choose_placement(total: int, budget: int, devices: int = 1, wanted: str = "auto") -> Placement:
    """Where `total` bytes of states go.

    Args:
        total: bytes of all modalities together.
        budget: bytes they may take on each device, see `device_budget`.
        devices: number of devices.
        wanted: a placement to take in any case, or "auto" for the first that fits: resident, sharded, streamed.

    Raises:
        ConfigError: `wanted` is unknown.

    >>> choose_placement(10, 4, devices=8)
    'sharded'
    """
    if wanted != "auto":
        for placement in PLACEMENTS:
            if placement == wanted:
                return placement
        raise ConfigError(f"unknown placement {wanted!r}. {suggest(wanted, ('auto', *PLACEMENTS))}")
    if total <= budget:
        return "resident"
    return "sharded" if devices > 1 and -(-total // devices) <= budget else "streamed"


def described(layouts: Mapping[str, Layout], placement: str, budget: int) -> str:
    """One line about size and placement, to be read before work starts."""
    sizes = ", ".join(
        f"{name} {layout.rows:,} × {'×'.join(map(str, layout.shape))} {layout.storage} {layout.bytes / 1e6:,.1f} MB"
        for name, layout in layouts.items()
    )
    total = sum(layout.bytes for layout in layouts.values())
    return (
        f"hidden states: {sizes}; {total / 1e6:,.1f} MB in all, {placement} "
        f"({budget / 1e6:,.0f} MB of a device may be taken)"
    )
