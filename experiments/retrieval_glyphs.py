"""The default retrieval comparison: all methods on the embedded data set, three seeds.

    python experiments/retrieval_glyphs.py

Expected numbers are in `experiments/README.md`. `--preset tiny` runs two methods for one epoch, as the tests do.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from erel_jax.benchmark.config import BenchConfig
from erel_jax.benchmark.runner import run


def main(preset: str = "full", out: str | None = None, cache: str | None = None) -> dict[str, float]:
    """Runs the bench and returns recall@10 by method and seed."""
    tiny = preset == "tiny"
    config = BenchConfig(
        seeds=1 if tiny else 3,
        methods="frozen,linear_probe" if tiny else None,
        epochs=1 if tiny else None,
        out=None if out is None else Path(out),
        cache=None if cache is None else Path(cache),
    )
    records = run(config, "python experiments/retrieval_glyphs.py", Console(file=sys.stderr))
    return {f"{r.method}-seed{r.seed}": float(r.metrics["recall@10"] or 0.0) for r in records}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("full", "tiny"), default="full")
    parser.add_argument("--out")
    options = parser.parse_args()
    for name, value in main(options.preset, options.out).items():
        print(f"{name}\t{value:.4f}")
