"""Cached IISAN training step (forward, backward, Adam) beside a plain PyTorch statement of the published step.

Two towers of width 768, 7 taps, windows of Amazon Scientific where `--data` is given (synthetic ones of the same
lengths otherwise), features already in memory, on this machine's CPU:

    pip install -e '.[peers]'
    python experiments/speed_cached_side_training.py --data ../shared/data/amazon_scientific_users.tsv

Rows `b64` and `b512`: milliseconds per step. `peer` is the step as published; `peer_at_once` is the same step with the
one repair that its loss mask is applied in one operation instead of user by user (see `peers/iisan_torch.py`),
measured in turns with ours in the same run, so that nobody takes the gain over a defect for a gain over PyTorch:
`ratio_at_once` is the ratio to it. `loss_difference_float32` and `loss_difference_bfloat16` hold our loss against the
definition (the PyTorch step with the same parameters and features, dropout off). Both sides run in one process that
keeps freed memory (`erel_jax.host_memory`).
"""

import argparse
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from erel_jax import module, tree
from erel_jax.adapters.iisan import iisan
from erel_jax.data.sequence_batches import SequenceBatches
from erel_jax.host_memory import keep_freed_memory
from erel_jax.layers import BFLOAT16, FLOAT32, Precision
from erel_jax.losses import debiased_cross_entropy
from erel_jax.module import Module
from erel_jax.recommendation.compact_sasrec import compact_sasrec
from erel_jax.recommendation.sasrec import SasrecConfig, sasrec
from erel_jax.training import adam, new_state, train_step
from experiments.side_by_side import alternate, row

TAPS = (0, 2, 4, 6, 8, 10, 12)


def main(data: str | None = None, preset: str = "full", batches: tuple[int, ...] = (64, 512)) -> dict:
    """Measures every row and returns them by name."""
    width, items, pairs = (768, 20_314, 15) if preset == "full" else (32, 200, 1)
    windows = windows_of(data, items)
    generator = np.random.default_rng(0)
    features = {
        name: generator.standard_normal((windows.max() + 1, len(TAPS), width), np.float32).astype(ml_dtypes.bfloat16)
        for name in ("image", "text")
    }
    return {f"b{size}": _measure(size, windows, features, width, pairs) for size in batches}


def windows_of(data: str | None, items: int) -> np.ndarray:
    """int32[U, 11]: left-padded windows of a file's users, or synthetic ones of the same lengths."""
    if data is not None:
        from erel_jax.data.sequence_splits import split_sequences
        from erel_jax.data.sequences import read_sequences

        return split_sequences(read_sequences(data)).windows
    generator = np.random.default_rng(1)
    windows = np.zeros((2048, 11), np.int32)
    popularity = 1.0 / np.arange(1, items + 1) ** 0.6
    for line in windows:
        count = min(11, 2 + generator.geometric(0.36))
        line[-count:] = generator.choice(items, count, p=popularity / popularity.sum()) + 1
    return windows


def side_training(width: int, precision: Precision, dropout: float, network: Module | None = None):
    """`(spec, loss_fn)` of side network (IISAN of two modalities where none is given), user encoder and loss.

    `params` hold the states of the batch's unique items as `states`, or those of the whole catalog as `features`.
    """
    items = network or iisan({name: (len(TAPS), width) for name in ("image", "text")}, precision=precision)
    users = compact_sasrec(SasrecConfig(dropout=dropout), precision)
    shared = sasrec(SasrecConfig(), precision)
    spec = {"items": items.spec, "users": shared.spec}

    def loss_fn(params, batch, key):
        sequence = batch["sequence"]
        states = params.get("states")
        if states is None:
            states = {name: array[sequence.unique_items] for name, array in params["features"].items()}
        vectors = items.apply(params["items"], states)
        inputs = vectors[sequence.row_input]
        user = users.apply(params["users"], inputs, sequence.rows, sequence.slot_row, key=key, train=dropout > 0)
        loss = debiased_cross_entropy(
            user,
            vectors,
            row_user=sequence.row_user,
            row_positive=sequence.row_positive,
            windows=sequence.windows,
            log_popularity=batch["log_popularity"],
            multiplicity=sequence.multiplicity,
            compute_dtype=precision.compute,
        )
        return loss, {}

    return spec, loss_fn


def log_popularity_of(windows: np.ndarray) -> np.ndarray:
    """float32[N + 1]: log of each item's share of the windows' slots, 0 for padding."""
    counts = np.maximum(np.bincount(windows.ravel()), 1).astype(np.float64)
    logs = np.log(counts / counts[1:].sum()).astype(np.float32)
    logs[0] = 0.0
    return logs


def _measure(size: int, windows: np.ndarray, features: dict, width: int, pairs: int) -> dict:
    import torch

    from experiments.peers.iisan_torch import CachedIisan

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    size = min(size, len(windows))
    stream = SequenceBatches(windows=windows, batch_size=size, epochs=1)
    log_popularity = log_popularity_of(windows)
    sequence = stream[0]
    batch = jax.device_put({"sequence": sequence, "log_popularity": log_popularity[sequence.unique_items]})
    resident = {name: jnp.asarray(array) for name, array in features.items()}
    peer = CachedIisan(width=width)
    rows = windows[stream.order(0)[0]]
    given = (
        torch.from_numpy(rows.astype(np.int64)),
        *(_slots(array, rows) for array in features.values()),
        torch.from_numpy(log_popularity),
    )
    differences = _differences(peer, given, batch, resident, width)
    ours_step, peer_step = our_step(width, batch, resident), _peer_step(peer, given)
    small = size <= 64
    at_once = CachedIisan(width=width, masking="at_once")
    more = {"pairs": pairs if small else -(-pairs // 3), "warmup": 2 if small else 1, "quick": 3}
    beside, repaired = alternate(ours_step, _peer_step(at_once, given), **more)
    ours, theirs = alternate(ours_step, peer_step, **more)
    return row(
        f"b{size}",
        ours,
        theirs,
        peer_is="plain PyTorch float32 statement of the published step",
        peer_at_once=1e3 * float(np.median(repaired)),
        ratio_at_once=float(np.median(np.divide(repaired, beside))),
        precision="bfloat16 operands, float32 accumulation",
        unique_items=int((np.asarray(sequence.multiplicity) > 0).sum()),
        slots=int(rows.size),
        **differences,
    )


def _differences(peer, given: tuple, batch: dict, resident: dict, width: int) -> dict[str, float]:
    """Our loss against the definition with the peer's parameters, relative, without dropout."""
    import torch

    from experiments.peers.iisan_parameters import from_torch

    peer.eval()
    with torch.no_grad():
        wanted = float(peer(*given))
    peer.train()
    found = {}
    for name, precision in (("float32", FLOAT32), ("bfloat16", BFLOAT16)):
        spec, loss_fn = side_training(width, precision, dropout=0.0)
        params = {**from_torch(peer, spec), "features": resident}
        loss = float(jax.jit(loss_fn)(params, batch, jax.random.key(0))[0])
        found[f"loss_difference_{name}"] = abs(loss - wanted) / abs(wanted)
    return found


def our_step(width: int, batch: dict, resident: dict, network: Module | None = None):
    """A call that takes one training step in bfloat16 with the catalog's features resident, and waits for it."""
    spec, loss_fn = side_training(width, BFLOAT16, 0.1, network)
    params = {**module.init(jax.random.key(0), spec), "features": resident}
    trainable, frozen = tree.partition(params, ["items/.*", "users/.*"])
    optimizer = adam(1e-4)
    step = train_step(loss_fn, optimizer)
    holder = {"state": new_state(trainable, optimizer, jax.random.key(0))}

    def run() -> None:
        holder["state"], metrics = step(holder["state"], frozen, batch)
        jax.block_until_ready(metrics["loss"])

    return run


def _peer_step(peer, given: tuple):
    import torch

    optimizer = torch.optim.Adam(peer.parameters(), lr=1e-4)

    def run() -> None:
        optimizer.zero_grad()
        peer(*given).backward()
        optimizer.step()

    return run


def _slots(features: np.ndarray, windows: np.ndarray):
    """All thirteen states of every slot, as the published loader delivers them; the six unread ones are zero."""
    import torch

    states = np.zeros((*windows.shape, 13, features.shape[-1]), np.float32)
    states[:, :, TAPS, :] = features[windows]
    return torch.from_numpy(states)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="TSV of user sequences; synthetic windows of the same lengths without it")
    parser.add_argument("--preset", choices=("full", "tiny"), default="full")
    options = parser.parse_args()
    keep_freed_memory()
    main(options.data, options.preset)
