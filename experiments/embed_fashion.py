"""`erel embed` of 15,000 product photos while one of its workers is killed, beside the encoder's own throughput.

    python experiments/embed_fashion.py --data ../shared/data

A ViT of width 192 (random weights, as nobody looks at the vectors) reads the photos at 160 pixels. One worker starts
and is killed with SIGKILL in the middle; the same command starts again and finishes. The row has the items per second
of the second worker, from reading the archive to the written shard (`items_per_second`), what the encoder does alone on
batches that lie ready (`encoder_items_per_second`, the mean of a measurement before and one after), their quotient
(`share`), and whether every id is there exactly once (`exactly_once`). `--preset tiny` makes its own pictures.
"""

import argparse
import csv
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from erel_jax import module
from erel_jax.catalogs.models import load_embedder
from erel_jax.catalogs.plan import read_plan
from erel_jax.catalogs.shards import done_shards, read_catalog
from erel_jax.data.images import encode_png
from erel_jax.encoders.vit import VitConfig, vit
from erel_jax.interop.export import save_encoder
from erel_jax.interop.image_processor import vit_settings

ROOT = Path(__file__).resolve().parents[1]


# ---------------------------------------------------------------- settings
def settings(preset: str) -> dict[str, Any]:
    """Sizes of a preset: "full" or "tiny"."""
    shape: dict[str, Any] = {}
    if preset == "full":
        shape |= {"width": 192, "layers": 12, "heads": 3, "mlp_width": 768}
        return {"vit": VitConfig(image_size=160, **shape), "batch": 64, "shard_rows": 1024, "calls": 20}
    shape |= {"width": 32, "layers": 2, "heads": 2, "mlp_width": 64}
    return {"vit": VitConfig(image_size=32, **shape), "batch": 4, "shard_rows": 8, "calls": 2}


# ---------------------------------------------------------------- data and model
def prepare(root: Path, data: Path | None, chosen: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Writes model and table below a folder; returns the ids that must come out, and options of `erel embed`."""
    encoder = vit(chosen["vit"])
    params = module.init(jax.random.key(0), encoder.module.spec)
    save_encoder(root / "model", encoder, params, preprocessor=vit_settings(chosen["vit"].image_size))
    if data is not None:
        with open(data / "fashion15k_styles.csv", encoding="utf-8", newline="") as stream:
            ids = [row["id"] for row in csv.DictReader(stream)]
        options = ["--data", str(data / "fashion15k_styles.csv"), "--images", str(data / "fashion15k_60x80.zip")]
        return ids, [*options, "--text-key", "productDisplayName"]
    ids = [f"p{number:03d}.png" for number in range(60)]
    with zipfile.ZipFile(root / "pictures.zip", "w") as archive:
        for number, name in enumerate(ids):
            pixels = np.random.default_rng(number).integers(0, 255, (80, 60, 3), dtype=np.uint8)
            archive.writestr(name, encode_png(pixels))
    return ids, ["--data", str(root / "pictures.zip")]


# ---------------------------------------------------------------- the measured runs
def killed_then_finished(root: Path, options: list[str], chosen: dict[str, Any], kill_at: float) -> tuple[str, int]:
    """Runs a worker, kills it when a share of the shards is there, runs it again; its output, and shards redone."""
    sizes = ["--batch", str(chosen["batch"]), "--shard-rows", str(chosen["shard_rows"])]
    command = [sys.executable, "-m", "erel_jax.cli", "embed", "--model", str(root / "model"), *options, *sizes]
    command += ["--out", str(root / "vectors")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while first.poll() is None:
        if (root / "vectors" / "plan.json").exists():
            plan = read_plan(root / "vectors")
            if len(done_shards(root / "vectors", plan)) >= kill_at * len(plan.places):
                break
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    plan = read_plan(root / "vectors")
    before = len(done_shards(root / "vectors", plan))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    print(done.stdout, file=sys.stderr)
    return done.stdout, before


def encoder_alone(root: Path, chosen: dict[str, Any]) -> float:
    """Items per second of the compiled step on a ready batch, the median of some calls."""
    embedder = load_embedder(str(root / "model"), "image")
    side, draw = chosen["vit"].image_size, np.random.default_rng(0)
    inputs = {"pixels": draw.integers(0, 255, (chosen["batch"], side, side, 3), dtype=np.uint8)}
    jax.block_until_ready(embedder.encode(inputs))
    times = []
    for _ in range(chosen["calls"]):
        begun = time.perf_counter()
        jax.block_until_ready(embedder.encode(inputs))
        times.append(time.perf_counter() - begun)
    return chosen["batch"] / statistics.median(times)


# ---------------------------------------------------------------- result
def main(preset: str = "full", data: Path | None = None) -> dict[str, dict[str, Any]]:
    """Runs everything and returns the row by its name."""
    chosen = settings(preset)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        ids, options = prepare(root, data, chosen)
        before = encoder_alone(root, chosen)
        output, kept = killed_then_finished(root, options, chosen, 0.5)
        alone = statistics.mean([before, encoder_alone(root, chosen)])
        found = read_catalog(root / "vectors")
        lines = (root / "vectors" / "left_out.jsonl").read_text("utf-8").splitlines()
        left_out = [json.loads(line)["id"] for line in lines]
        rate = float(re.findall(r"end to end\D*([\d,.]+) items/s", output)[0].replace(",", ""))
        row = {
            "items": len(found.ids),
            "left_out": len(left_out),
            "shards_before_the_kill": kept,
            "shards": len(found.plan.places),
            "exactly_once": sorted([*found.ids.tolist(), *left_out]) == sorted(ids),
            "items_per_second": rate,
            "encoder_items_per_second": round(alone, 1),
            "share": round(rate / alone, 3),
        }
    return {"embed_fashion": row}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", choices=("full", "tiny"), default="full")
    parser.add_argument("--data", type=Path, default=None, help="folder with fashion15k_styles.csv and its archive")
    given = parser.parse_args()
    if given.preset == "full" and given.data is None:
        parser.error("the full preset needs --data")
    for name, row in main(given.preset, given.data).items():
        print(json.dumps({"row": name, **row}))
