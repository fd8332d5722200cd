"""MovieLens-1M with hidden items: what plots and posters add to titles.

    python experiments/recommendation_ml1m.py --data DIR --text-encoder DIR

`--data` is a folder with `ml1m_sequences.npz`, `ml1m_movies.tsv`, `ml1m_omdb.json.gz` and `ml1m_posters_96x144.zip`
(MovieLens-1M, OMDb plots, studio posters: research use), `--text-encoder` a folder of all-MiniLM-L6-v2. A tenth of the
movies is hidden from training and ranked for each user (`--split cold`). The same method, IISAN-Versa over stored
states, runs on titles, on titles and plots, and on titles, plots and posters, three seeds each.

Posters are read by a small ViT that is trained here first, from nothing: symmetric contrastive pairs of a poster and
the frozen MiniLM vector of its movie's genres and plot, over the movies that are not hidden. It takes the place of a
pretrained image encoder, so that nothing is downloaded; `--image-encoder` names another one. Expected numbers are in
`experiments/README.md`.
"""

import argparse
import dataclasses
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from erel_jax import module
from erel_jax.artifacts import verify_manifest
from erel_jax.benchmark.config import BenchConfig
from erel_jax.benchmark.messages import Messenger
from erel_jax.benchmark.recommendation_problem import Problem, load_problem
from erel_jax.benchmark.runner import run
from erel_jax.data.item_pictures import load_item_pictures
from erel_jax.data.item_sources import read_item_sources
from erel_jax.encoders import Encoder, VitConfig, vit
from erel_jax.errors import CheckpointError
from erel_jax.interop.export import save_encoder
from erel_jax.interop.image_processor import vit_settings
from erel_jax.layers import BFLOAT16, dense
from erel_jax.losses import INITIAL_LOG_SCALE, symmetric_info_nce
from erel_jax.module import ParamSpec, normal
from erel_jax.training import adam, new_state, train_step

SIZE, WIDTH, LAYERS, BATCH = 64, 128, 4, 256
COMBINATIONS = ("text", "text,plot", "text,plot,image")


def main(
    data: str,
    text_encoder: str,
    image_encoder: str | None = None,
    *,
    seeds: int = 3,
    epochs: int | None = None,
    steps: int = 400,
    out: str = "erel-bench/ml1m",
    cache: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Runs every combination of modalities; HR@10 of each method and seed, and the floors', by combination."""
    config = BenchConfig(
        task="recommendation",
        data=data,
        split="cold",
        text_encoder=text_encoder,
        methods="versa_cached",
        seeds=seeds,
        epochs=epochs,
        cache=None if cache is None else Path(cache),
    )
    image_encoder = image_encoder or str(train_poster_encoder(config, Path(out) / "poster-encoder", steps))
    results: dict[str, dict[str, Any]] = {}
    for names in COMBINATIONS:
        chosen = dataclasses.replace(
            config,
            modalities=names,
            image_encoder=image_encoder if "image" in names else None,
            out=Path(out) / names.replace(",", "-"),
        )
        records = run(chosen, "python experiments/recommendation_ml1m.py", Console(file=sys.stderr))
        found = {f"{r.method}-seed{r.seed}": float(r.metrics["hr@10"] or 0.0) for r in records}
        learned = [value for name, value in found.items() if name.startswith("versa_cached")]
        spread = statistics.stdev(learned) if len(learned) > 1 else None
        results[names] = {"hr@10": found, "mean": statistics.mean(learned), "spread": spread}
        print(json.dumps({"modalities": names, **results[names]}), flush=True)
    return results


def train_poster_encoder(config: BenchConfig, folder: Path, steps: int) -> Path:
    """The folder of a small ViT trained on posters of movies that are not hidden; kept from an earlier run."""
    try:
        verify_manifest(folder, kind="encoder")
        return folder
    except CheckpointError:
        pass
    problem = load_problem(dataclasses.replace(config, modalities="genre,plot"), Quiet())
    pictures = load_item_pictures(
        read_item_sources(str(config.data)).images, problem.sequences.item_ids, size=SIZE, cache_dir=config.cache
    )
    seen = pictures.present & problem.presence.all(axis=1)
    seen[problem.sequences.test.candidates] = False
    rows = np.flatnonzero(seen)
    shape = VitConfig(image_size=SIZE, patch=8, width=WIDTH, layers=LAYERS, heads=4, mlp_width=4 * WIDTH)
    encoder = vit(shape, BFLOAT16)
    params = fit_posters(encoder, np.asarray(pictures.pictures[rows]), text_vectors(problem, rows), steps)
    return save_encoder(folder, encoder, params, preprocessor=vit_settings(SIZE), overwrite=True)


def text_vectors(problem: Problem, rows: np.ndarray) -> np.ndarray:
    """float32[len(rows), D]: sum of the unit vectors of all texts of each item."""
    total: Any = 0.0
    for name, tower in problem.towers.items():
        apply = jax.jit(lambda params, inputs, tower=tower: tower.encoder.module.apply(params, inputs).embedding)
        parts = np.array_split(rows, -(-len(rows) // BATCH))
        vectors = np.concatenate([np.asarray(apply(tower.params, problem.inputs(name, part))) for part in parts])
        total = total + vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return total.astype(np.float32)


def fit_posters(encoder: Encoder, pictures: np.ndarray, vectors: np.ndarray, steps: int) -> Any:
    """Parameters of the image encoder after contrastive steps on uint8[N, S, S, 3] and float32[N, D]."""
    spec = {
        "image": encoder.module.spec,
        "text": ParamSpec((vectors.shape[1], encoder.width), ("embed", None), normal(vectors.shape[1] ** -0.5)),
        "scale": ParamSpec((), (), lambda key, shape, dtype: jnp.full(shape, INITIAL_LOG_SCALE, dtype)),
    }

    def loss_fn(params: Any, batch: Any, key: jax.Array):
        pixels = batch["pixels"].astype(jnp.float32) / 127.5 - 1.0
        flipped = jax.random.bernoulli(key, 0.5, (pixels.shape[0], 1, 1, 1))
        pixels = jnp.where(flipped, pixels[:, :, ::-1], pixels)
        images = encoder.module.apply(params["image"], {"pixels": pixels}, key=key, train=True).embedding
        texts = dense(batch["texts"], params["text"], None, BFLOAT16)
        return symmetric_info_nce(texts, images, params["scale"]), {}

    optimizer = adam(5e-4, schedule="cosine", total_steps=steps, warmup_steps=steps // 10 + 1, clip_norm=1.0)
    step = train_step(loss_fn, optimizer)
    state = new_state(module.init(jax.random.key(0), spec), optimizer, jax.random.key(0))
    draw = np.random.default_rng(0)
    for _ in track(range(steps), "training the poster encoder", console=Console(file=sys.stderr)):
        rows = draw.choice(len(pictures), min(BATCH, len(pictures)), replace=False)
        state, _ = step(state, None, {"pixels": pictures[rows], "texts": vectors[rows]})
    return state.trainable["image"]


class Quiet(Messenger):
    """Keeps standard output for the results."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """Says nothing."""

    def note(self, text: str) -> None:
        """Says nothing."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of MovieLens-1M files")
    parser.add_argument("--text-encoder", required=True, help="folder or id of the text encoder")
    parser.add_argument("--image-encoder", help="folder or id of an image encoder, instead of the one trained here")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--steps", type=int, default=400, help="training steps of the poster encoder")
    parser.add_argument("--out", default="erel-bench/ml1m")
    parser.add_argument("--cache")
    options = vars(parser.parse_args())
    main(options.pop("data"), options.pop("text_encoder"), **options)
