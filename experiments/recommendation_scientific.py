"""Text recommendation on Amazon Scientific with MiniLM: cached methods and the learned blend beside the floors.

    python experiments/recommendation_scientific.py --data DIR --text-encoder DIR

`--data` is a folder with `amazon_scientific_users.tsv` and `amazon_scientific_items.tsv` (user sequences and titles of
GAIR-Lab/IISAN; Amazon review data, research use), `--text-encoder` a folder of all-MiniLM-L6-v2. Expected numbers are
in `experiments/README.md`.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from erel_jax.benchmark.config import BenchConfig
from erel_jax.benchmark.runner import run


def main(
    users: str,
    items: str,
    text_encoder: str,
    *,
    seeds: int = 1,
    epochs: int | None = None,
    methods: str = "frozen,linear_probe,iisan_cached,blend",
    out: str | None = None,
    cache: str | None = None,
) -> dict[str, float]:
    """Runs the bench and returns HR@10 by method and seed."""
    config = BenchConfig(
        task="recommendation",
        data=users,
        items=Path(items),
        text_encoder=text_encoder,
        methods=methods,
        seeds=seeds,
        epochs=epochs,
        out=None if out is None else Path(out),
        cache=None if cache is None else Path(cache),
    )
    records = run(config, "python experiments/recommendation_scientific.py", Console(file=sys.stderr))
    return {f"{r.method}-seed{r.seed}": float(r.metrics["hr@10"] or 0.0) for r in records}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the two TSV files")
    parser.add_argument("--text-encoder", required=True, help="folder or id of the text encoder")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out")
    options = parser.parse_args()
    files = [str(options.data / f"amazon_scientific_{name}.tsv") for name in ("users", "items")]
    for name, value in main(files[0], files[1], options.text_encoder, seeds=options.seeds, out=options.out).items():
        print(f"{name}\t{value:.4f}")
