"""The contrastive loss in tiles beside the same loss from one matrix of logits: memory and time of value and gradient.

    python experiments/speed_losses.py

Row `contrastive_temp_bytes_b32768`: temporary bytes of the compiled step at 32,768 pairs of width 512, compiled from
abstract inputs, so nothing of that size is ever run. Row `contrastive_step_b4096`: milliseconds of a step at 4,096
pairs, medians of calls taken in turns. The peer is `losses.symmetric_info_nce`, one product for the logits and two for
the gradients; `difference` is the largest deviation of our gradients from its, relative to their largest entry.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from erel_jax import losses
from erel_jax.host_memory import keep_freed_memory
from erel_jax.sharding import Step, compile_step
from experiments.side_by_side import alternate, row

LOG_SCALE = np.float32(losses.INITIAL_LOG_SCALE)


# ---------------------------------------------------------------- settings
def sizes(preset: str) -> dict[str, int]:
    """Pairs, width and measured pairs of calls of a preset: "full" or "tiny"."""
    if preset == "full":
        return {"memory_batch": 32_768, "time_batch": 4_096, "width": 512, "pairs": 9}
    return {"memory_batch": 2_048, "time_batch": 128, "width": 16, "pairs": 1}


def main(preset: str = "full", pairs: int | None = None) -> dict[str, dict]:
    """Measures both rows and returns them by name."""
    chosen = sizes(preset)
    results = [
        memory_row(chosen["memory_batch"], chosen["width"]),
        time_row(chosen["time_batch"], chosen["width"], pairs or chosen["pairs"]),
    ]
    return {result["name"]: result for result in results}


# ---------------------------------------------------------------- both sides
def step_of(loss: Any) -> Step:
    """Value and gradient of a loss by queries, items and scale."""
    return compile_step(jax.value_and_grad(loss, argnums=(0, 1, 2)))


# ---------------------------------------------------------------- rows
def memory_row(batch: int, width: int) -> dict:
    """Temporary bytes of both compiled steps."""
    side = jax.ShapeDtypeStruct((batch, width), jnp.float32)
    found = []
    for loss in (losses.chunked_info_nce, losses.symmetric_info_nce):
        step = step_of(loss)
        step.compile(side, side, jax.ShapeDtypeStruct((), jnp.float32))
        if step.memory is None:
            raise RuntimeError("this backend reports no memory of compiled programs; run on a CPU or a GPU.")
        found.append(step.memory["temporary"])
    ours, peer = found
    result = {
        "name": f"contrastive_temp_bytes_b{batch}",
        "ours": ours,
        "peer": peer,
        "unit": "bytes",
        "ratio": peer / ours,
        "share_of_peer": ours / peer,
    }
    print(json.dumps(result), flush=True)
    return result


def time_row(batch: int, width: int, pairs: int) -> dict:
    """Milliseconds of both steps on the same random pairs."""
    queries, items = jax.device_put(np.random.default_rng(0).standard_normal((2, batch, width), np.float32))
    ours, peer = step_of(losses.chunked_info_nce), step_of(losses.symmetric_info_nce)
    _, gradients = ours(queries, items, LOG_SCALE)
    _, expected = peer(queries, items, LOG_SCALE)
    difference = max(
        float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))) for a, b in zip(gradients, expected, strict=True)
    )
    mine, theirs = alternate(
        lambda: jax.block_until_ready(ours(queries, items, LOG_SCALE)),
        lambda: jax.block_until_ready(peer(queries, items, LOG_SCALE)),
        pairs=pairs,
    )
    return row(
        f"contrastive_step_b{batch}",
        mine,
        theirs,
        peer_is="the dense form of the same loss",
        difference=difference,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("full", "tiny"), default="full")
    parser.add_argument("--pairs", type=int, help="measured pairs of calls")
    options = parser.parse_args()
    keep_freed_memory()
    main(options.preset, options.pairs)
