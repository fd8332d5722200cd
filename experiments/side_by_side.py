"""Timing two sides of a comparison in one run.

The sides take turns (A B A B …), so a drift of the machine's speed hits both; the figure is the median of the pairwise
ratios. One JSON line per row: `{"name", "ours", "peer", "unit", "ratio"}` and whatever the row wants to add; the ratio
is above 1 where ours is better.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable

SETTLE_SECONDS = 0.3


def alternate(
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    pairs: int,
    warmup: int = 2,
    quick: int = 1,
    calls: int = 1,
) -> tuple[list[float], list[float]]:
    """Wall seconds of each call, in turns.

    Args:
        ours, peer: run once and wait for the result.
        pairs: measured pairs.
        warmup: calls of each side before.
        quick: calls of `ours` per call of `peer`, averaged; more than 1 where ours is much faster.
        calls: calls of each side in its turn, averaged; more than 1 for calls of milliseconds, of which the first after
            a pause wakes threads and fills caches.

    Returns:
        (seconds of ours, seconds of peer), one value per pair.
    """
    for _ in range(warmup):
        ours()
        peer()
    left, right = [], []
    for pair in range(pairs):
        left.append(_seconds(ours, quick * calls))
        right.append(_seconds(peer, calls))
        print(f"  pair {pair + 1}/{pairs}: ours {left[-1]:.4f} s, peer {right[-1]:.4f} s", file=sys.stderr)
    return left, right


def _seconds(side: Callable[[], object], calls: int) -> float:
    # The threads of the side before wait for more work in a loop for a while, which would cost this side a core.
    time.sleep(SETTLE_SECONDS)
    begun = time.perf_counter()
    for _ in range(calls):
        side()
    return (time.perf_counter() - begun) / calls


def row(name: str, ours: list[float], peer: list[float], **more: object) -> dict:
    """Prints and returns the row of a lower-is-better time comparison, in milliseconds."""
    ratios = [b / a for a, b in zip(ours, peer, strict=True)]
    result = {
        "name": name,
        "ours": 1e3 * statistics.median(ours),
        "peer": 1e3 * statistics.median(peer),
        "unit": "ms",
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        **more,
    }
    print(json.dumps(result), flush=True)
    return result
