"""Near-duplicate removal on embeddings with injected copies: seconds, share of copies found, share of false removals.

    python experiments/speed_selection.py

A tenth of the rows are noisy copies (cosine about .98) of other rows. Row `semdedup_1000000x256` draws its rows around
2,000 random directions, as embeddings of real data gather around topics; `semdedup_1000000x256_no_topics` draws
directions with no structure at all, the hardest case for clusters. `found` is the share of pairs of original and copy
of which one was removed, `false` the share of all other rows that was removed. No published implementation runs on a
processor alone, so there is no peer; `limit` is the time that the project allows itself.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from erel_jax.host_memory import keep_freed_memory
from erel_jax.selection import DedupSettings, duplicate_cosines, remove_duplicates

LIMIT_SECONDS = 180.0
COPY_NOISE = 0.2
EPSILON = 0.05


# ---------------------------------------------------------------- settings
def sizes(preset: str) -> tuple[int, int, int]:
    """Rows, width and topics of a preset: "full" or "tiny"."""
    return (1_000_000, 256, 2_000) if preset == "full" else (2_000, 32, 10)


def main(preset: str = "full", rows: tuple[str, ...] = ("", "_no_topics")) -> dict[str, dict]:
    """Measures and returns the rows by name; `rows` are the endings of their names."""
    count, width, topics = sizes(preset)
    results = [measured(count, width, 0 if ending else topics, ending) for ending in rows]
    return {result["name"]: result for result in results}


# ---------------------------------------------------------------- data
def embeddings(count: int, width: int, topics: int) -> np.ndarray:
    """float32[N, E]; the last tenth of the rows are noisy copies of the first tenth."""
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((count, width), dtype=np.float32)
    if topics:
        centers = draw.standard_normal((topics, width), dtype=np.float32)
        for start in range(0, count, 65_536):
            part = rows[start : start + 65_536]
            part += centers[draw.integers(0, topics, len(part))]
    copies = count // 10
    noise = draw.standard_normal((copies, width), dtype=np.float32)
    noise *= COPY_NOISE * np.linalg.norm(rows[:copies], axis=1, keepdims=True) / np.sqrt(width)
    rows[-copies:] = rows[:copies] + noise
    return rows


# ---------------------------------------------------------------- row
def measured(count: int, width: int, topics: int, ending: str) -> dict:
    """One complete run, reading and digest included."""
    rows = embeddings(count, width, topics)
    start = time.perf_counter()
    found = duplicate_cosines(rows, DedupSettings())
    outcome = remove_duplicates(found, EPSILON)
    seconds = time.perf_counter() - start
    copies = count // 10
    gone = np.zeros(count, bool)
    gone[outcome.removed] = True
    result = {
        "name": f"semdedup_{count}x{width}{ending}",
        "ours": seconds,
        "peer": None,
        "unit": "s",
        "ratio": None,
        "unavailable": {"peer": "no published implementation without a GPU"},
        "limit": LIMIT_SECONDS,
        "found": float(np.mean(gone[:copies] | gone[-copies:])),
        "false": float(np.mean(gone[copies:-copies])),
        "clusters": found.settings.clusters,
        "largest_cluster": found.largest_cluster,
    }
    print(json.dumps(result), flush=True)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("full", "tiny"), default="full")
    parser.add_argument("--row", choices=("topics", "no_topics"), help="one of the two rows")
    options = parser.parse_args()
    keep_freed_memory()
    endings = {"topics": ("",), "no_topics": ("_no_topics",), None: ("", "_no_topics")}
    main(options.preset, endings[options.row])
