"""What CROSSAN's step costs as modalities are added, and what its cross-modal terms add to it.

Cached training steps (side network, user encoder, loss, Adam, bfloat16 operands) over windows of Amazon Scientific
where `--data` is given, synthetic ones of the same lengths otherwise; each modality has 7 taps of width 768, in memory:

    python experiments/speed_crossan.py --data ../shared/data/amazon_scientific_users.tsv

Rows `four_modalities_b64`, `four_modalities_b512`: `ours` is the step of four modalities, `peer` that of two, `cost`
how often the one fits in the other. Rows `cross_terms_b64`, `cross_terms_b512`: `ours` is the step of four modalities,
`peer` the same without cross terms, `share` the part of the step that they take. Steps take turns in one run.
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from erel_jax.adapters.crossan import crossan
from erel_jax.data.sequence_batches import SequenceBatches
from erel_jax.host_memory import keep_freed_memory
from erel_jax.layers import BFLOAT16
from experiments.side_by_side import alternate, row
from experiments.speed_cached_side_training import TAPS, log_popularity_of, our_step, windows_of

MODALITIES = ("image", "text", "video", "audio")


def main(data: str | None = None, preset: str = "full", batches: tuple[int, ...] = (64, 512)) -> dict:
    """Measures every row and returns them by name."""
    width, items, pairs = (768, 20_314, 15) if preset == "full" else (32, 200, 1)
    windows = windows_of(data, items)
    generator = np.random.default_rng(0)
    shape = (windows.max() + 1, len(TAPS), width)
    drawn = {name: generator.standard_normal(shape, np.float32).astype(ml_dtypes.bfloat16) for name in MODALITIES}
    features = {name: jnp.asarray(array) for name, array in drawn.items()}
    rows = {}
    for size in batches:
        rows |= _measure(min(size, len(windows)), windows, features, width, pairs if size <= 64 else -(-pairs // 3))
    return rows


def _measure(size: int, windows: np.ndarray, features: dict, width: int, pairs: int) -> dict:
    sequence = SequenceBatches(windows=windows, batch_size=size, epochs=1)[0]
    log_popularity = log_popularity_of(windows)[sequence.unique_items]
    batch = jax.device_put({"sequence": sequence, "log_popularity": log_popularity})

    def step(names: tuple[str, ...], cross: bool):
        network = crossan({name: (len(TAPS), width) for name in names}, cross=cross, precision=BFLOAT16)
        return our_step(width, batch, {name: features[name] for name in names}, network)

    four = step(MODALITIES, cross=True)
    unique = int((np.asarray(sequence.multiplicity) > 0).sum())
    ours, theirs = alternate(four, step(MODALITIES[:2], cross=True), pairs=pairs, quick=3)
    more = {"cost": _median_ratio(ours, theirs), "cost_at_most": 2.2, "unique_items": unique}
    first = row(f"four_modalities_b{size}", ours, theirs, peer_is="the same step with two modalities", **more)
    ours, theirs = alternate(four, step(MODALITIES, cross=False), pairs=pairs, quick=3)
    more = {"share": 1 - 1 / _median_ratio(ours, theirs), "share_at_most": 0.15, "unique_items": unique}
    second = row(f"cross_terms_b{size}", ours, theirs, peer_is="the same step without cross terms", **more)
    return {first["name"]: first, second["name"]: second}


def _median_ratio(ours: list[float], theirs: list[float]) -> float:
    return float(np.median(np.divide(ours, theirs)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="TSV of user sequences; synthetic windows of the same lengths without it")
    parser.add_argument("--preset", choices=("full", "tiny"), default="full")
    options = parser.parse_args()
    keep_freed_memory()
    main(options.data, options.preset)
