"""A student at a quarter of the FLOPs: how much of its teacher's Recall@10 does it keep, alone and distilled?

    python experiments/distill_retrieval.py --data glyphs
    python experiments/distill_retrieval.py --data fashion --images DIR

DIR holds `fashion15k_styles.csv` and `fashion15k_60x80.zip`. The teacher is the pair of small towers of `erel bench`,
trained on the data. It looks once at several augmented copies of every training picture (`distillation.reinforce`).
Students of one shape are trained for the same number of steps on the same copies in the same order. `alone` knows no
teacher: it is cut out of the towers that the teacher started from (`quarter_student`) and has the contrastive loss.
`inherited` is cut out of the trained teacher and has that loss. `distilled` is cut out of it too, and has besides the
affinity and interactive contrastive losses of CLIP-KD against the stored embeddings (weights 1 and 2; its feature loss
changed nothing here). One JSON line per run and one for the whole: Recall@10 (mean of both directions, test split),
the share kept of the teacher's, the gains and whether they are above the largest spread over seeds (largest minus
smallest), and the ratio of FLOPs per pair.
`--preset tiny` needs no data.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from erel_jax import distillation, losses, module
from erel_jax.data.pipeline import BatchStream, eval_batches
from erel_jax.distillation import Augmentation
from erel_jax.encoders import BertConfig, Encoder, VitConfig, bert, vit
from erel_jax.host_memory import keep_freed_memory
from erel_jax.layers import BFLOAT16
from erel_jax.metrics import two_way_retrieval
from erel_jax.profiling import count_flops
from erel_jax.sharding import Step
from erel_jax.training import adam, fit, new_state, train_step
from experiments.command import mistakes_in_one_line

SIDE = 32
TOKENS = 32
COPY_SEED = 1
ACROSS_WEIGHT = 2.0
"""Of the interactive contrastive loss, by validation recall on glyphs."""
LIGHT = Augmentation(least_area=0.75, aspect=1.2, brightness=0.1, contrast=0.1, saturation=0.1)


class Split(NamedTuple):
    """uint8[N, 32, 32, 3] pictures; int32[T, L] and bool[T, L] of the texts; int32[N] the text of each picture."""

    pictures: np.ndarray
    ids: np.ndarray
    mask: np.ndarray
    text_of_picture: np.ndarray


class Towers(NamedTuple):
    """Two encoders, the width of the space that linear heads map them to, and both as compiled functions."""

    image: Encoder
    text: Encoder
    width: int
    encode: dict[str, Callable[..., jax.Array]]


class Recipe(NamedTuple):
    """One compiled training step, its optimizer, and how many steps it is for."""

    step: Step
    optimizer: Any
    steps: int


# ---------------------------------------------------------------- settings
def sizes(preset: str, data: str) -> dict[str, Any]:
    """Steps of teacher and student, batch, copies per picture and peak learning rates."""
    if preset == "tiny":
        return {"teacher": 4, "student": 4, "batch": 16, "copies": 2, "rates": (1e-3, 1e-3)}
    steps = {"glyphs": (900, 400), "fashion": (1200, 400)}[data]
    return {"teacher": steps[0], "student": steps[1], "batch": 256, "copies": 4, "rates": (2e-3, 2e-3)}


def main(
    data: str = "glyphs", images: str | None = None, seeds: int = 3, preset: str = "full", report: str = "test"
) -> dict[str, Any]:
    """Trains teacher and students, prints and returns the summary."""
    begun, chosen = time.perf_counter(), sizes(preset, data)
    splits, towers, params = drawn() if preset == "tiny" else loaded(data, images)
    train, held_out = splits["train"], splits[report]
    batch, copies = chosen["batch"], chosen["copies"]
    plan = recipe(towers, chosen["teacher"], chosen["rates"][0])
    untaught = student_of(towers, params)[1]
    params = fitted(plan, params, Copies(train, batch, 0, copies), 0)
    teacher = recall(towers, params, held_out)
    shown(data, "teacher", 0, teacher)
    small, start = student_of(towers, params)
    starts = {"alone": untaught, "inherited": start, "distilled": start}
    runs: dict[str, list[float]] = {name: [] for name in starts}
    with tempfile.TemporaryDirectory() as folder:
        stored = looked_at(Path(folder), towers, params, train, chosen)
        size = (small, chosen["student"], chosen["rates"][1])
        plain = recipe(*size)
        plans = {"alone": plain, "inherited": plain, "distilled": recipe(*size, teacher_scale=stored.log_scale)}
        for seed in range(seeds):
            for name, found in runs.items():
                batches = Copies(train, batch, seed, copies, stored if name == "distilled" else None)
                found.append(recall(small, fitted(plans[name], starts[name], batches, seed), held_out))
                shown(data, name, seed, found[-1])
    result = summary(teacher, runs) | {
        "name": f"distill_{data}",
        "split": report,
        "cut": recall(small, start, held_out),
        "flops_ratio": pair_flops(small, train) / pair_flops(towers, train),
        "parameter_ratio": module.count(start) / module.count(params),
        "steps": {"teacher": chosen["teacher"], "student": chosen["student"]},
        "seconds": time.perf_counter() - begun,
    }
    print(json.dumps(result), flush=True)
    return result


def summary(teacher: float, runs: dict[str, list[float]]) -> dict[str, Any]:
    """What the runs say together."""
    means = {name: float(np.mean(found)) for name, found in runs.items()}
    spreads = {name: max(found) - min(found) for name, found in runs.items()}
    return {
        "teacher": teacher,
        **{name: {"mean": means[name], "spread": spreads[name], "values": found} for name, found in runs.items()},
        "kept": means["distilled"] / teacher if teacher else None,
        "kept_alone": means["alone"] / teacher if teacher else None,
        "gain": means["distilled"] - means["alone"],
        "gain_above_spread": means["distilled"] - means["alone"] > max(spreads.values()),
        "gain_of_losses": means["distilled"] - means["inherited"],
    }


def shown(data: str, name: str, seed: int, value: float) -> None:
    """One line for one run."""
    print(json.dumps({"name": f"distill_{data}", "run": name, "seed": seed, "recall@10": value}), flush=True)


# ---------------------------------------------------------------- data
def loaded(data: str, images: str | None) -> tuple[dict[str, Split], Towers, dict[str, Any]]:
    """Splits, the base towers of the bench, and their parameters."""
    from erel_jax.artifacts import cache_folder
    from erel_jax.benchmark.base_encoders import base_encoders
    from erel_jax.benchmark.messages import Messenger
    from erel_jax.data.retrieval import load_retrieval
    from erel_jax.interop.huggingface import load_encoder

    glyphs = load_retrieval("glyphs")
    found = glyphs if data == "glyphs" else load_retrieval(data, images=images, image_size=SIDE)
    with contextlib.redirect_stdout(sys.stderr):  # progress; standard output is for results
        folder = base_encoders(cache_folder(), glyphs, Messenger())
    image, text = (load_encoder(folder / name, modality=name, precision=BFLOAT16) for name in ("image", "text"))
    splits = {}
    for name in ("train", "validation", "test"):
        part = found.splits[name]
        tokens = text.text_inputs(part.texts, max_length=TOKENS, buckets=(TOKENS,))
        splits[name] = Split(np.asarray(part.images), tokens["ids"], tokens["mask"], np.asarray(part.text_of_image))
    towers = joined(image.encoder, text.encoder, image.encoder.embedding_width)
    return splits, towers, with_heads(towers, {"image": image.params, "text": text.params})


def drawn() -> tuple[dict[str, Split], Towers, dict[str, Any]]:
    """Colored squares with made-up names, and towers small enough for a test."""
    draw = np.random.default_rng(0)
    image = vit(VitConfig(image_size=SIDE, patch=8, width=32, layers=2, heads=4, mlp_width=128))
    text = bert(BertConfig(vocabulary=64, width=32, layers=2, heads=4, mlp_width=128, max_positions=8, pooling="mean"))
    splits = {}
    for name, count in (("train", 32), ("validation", 16), ("test", 16)):
        ids = draw.integers(1, 64, (count, 8)).astype(np.int32)
        plain = np.repeat(ids[:, :3] * 4, 2, axis=0).astype(np.uint8)
        pictures = np.broadcast_to(plain[:, None, None], (2 * count, SIDE, SIDE, 3))
        splits[name] = Split(pictures, ids, np.ones((count, 8), bool), np.repeat(np.arange(count), 2))
    towers = joined(image, text, 32)
    params = {name: module.init(jax.random.key(0), getattr(towers, name).module.spec) for name in ("image", "text")}
    return splits, towers, with_heads(towers, params)


def with_heads(towers: Towers, params: dict[str, Any]) -> dict[str, Any]:
    """The towers' parameters with heads that change nothing yet, and both temperatures."""
    heads = {name: np.eye(getattr(towers, name).embedding_width, towers.width, dtype=np.float32) for name in params}
    scales = {name: np.float32(losses.INITIAL_LOG_SCALE) for name in ("task", "cross")}
    return {**params, "head": {name: {"kernel": head} for name, head in heads.items()}, "log_scale": scales}


# ---------------------------------------------------------------- models
def joined(image: Encoder, text: Encoder, width: int) -> Towers:
    """Two encoders as one model."""
    towers = Towers(image, text, width, {})

    def compiled(name: str) -> Callable[..., jax.Array]:
        return jax.jit(lambda params, inputs: embedded(towers, params, name, inputs))

    return towers._replace(encode={name: compiled(name) for name in ("image", "text")})


def student_of(towers: Towers, params: dict[str, Any]) -> tuple[Towers, dict[str, Any]]:
    """Towers of a quarter of the FLOPs in the teacher's space, cut out of it."""
    small, start = {}, {"head": {}, "log_scale": params["log_scale"]}
    for name in ("image", "text"):
        # A little less than a quarter, since the heads into the shared space shrink by half alone.
        small[name], start[name] = distillation.quarter_student(
            getattr(towers, name), params[name], BFLOAT16, flops_fraction=0.24
        )
        start["head"][name] = {"kernel": params["head"][name]["kernel"][: small[name].embedding_width]}
    return joined(small["image"], small["text"], towers.width), start


def embedded(towers: Towers, params: dict[str, Any], name: str, inputs: dict[str, jax.Array]) -> jax.Array:
    """float32[B, E] of one side."""
    if name == "image":
        inputs = {"pixels": inputs["pixels"].astype(jnp.float32) / 127.5 - 1.0}
    encoder: Encoder = getattr(towers, name)
    return encoder.module.apply(params[name], inputs).embedding @ params["head"][name]["kernel"]


def pair_flops(towers: Towers, split: Split) -> float:
    """FLOPs of embedding one picture and one text."""

    def both(params, pixels, ids, mask):
        sides = {"image": {"pixels": pixels}, "text": {"ids": ids, "mask": mask}}
        return [embedded(towers, params, name, inputs) for name, inputs in sides.items()]

    spec = with_heads(towers, {name: module.abstract(getattr(towers, name).module.spec) for name in ("image", "text")})
    return count_flops(both, spec, split.pictures[:1], split.ids[:1], split.mask[:1]).total


class Looked(NamedTuple):
    """What a teacher said: of copies of the pictures, of the texts float32[T, E], and the log of its scale."""

    pictures: distillation.ReinforcedSet
    texts: np.ndarray
    log_scale: float


def looked_at(folder: Path, towers: Towers, params: dict[str, Any], split: Split, chosen: dict[str, Any]) -> Looked:
    """Stores what the teacher says of augmented copies."""
    stored = distillation.reinforce(
        folder / "copies",
        split.pictures,
        lambda pixels: towers.encode["image"](params, {"pixels": pixels}),
        width=towers.width,
        identity={"teacher": "trained by this run", "data": "its train split"},
        copies=chosen["copies"],
        seed=COPY_SEED,
        augmentation=LIGHT,
    )
    return Looked(stored, all_texts(towers, params, split), float(params["log_scale"]["task"]))


# ---------------------------------------------------------------- training
class Copies:
    """Batches of augmented copies, each text at most once; with what the teacher says of them where it is stored."""

    def __init__(self, split: Split, batch: int, seed: int, copies: int, stored: Looked | None = None):
        self.split, self.copies, self.stored = split, copies, stored
        count, fingerprint = len(split.pictures), f"{len(split.pictures)} pictures"
        groups = split.text_of_picture
        self.stream = BatchStream(count, batch=batch, seed=seed, data_fingerprint=fingerprint, groups=groups)
        self.step = 0

    def __next__(self):
        rows = next(self.stream)
        copy = self.step // self.stream.steps_per_epoch % self.copies
        self.step += 1
        texts, copies = self.split.text_of_picture[rows], np.full(len(rows), copy)
        batch = {
            "pixels": np.ascontiguousarray(self.split.pictures[rows]),
            "seeds": distillation.copy_seeds(COPY_SEED, rows, copies),
            "ids": self.split.ids[texts],
            "mask": self.split.mask[texts],
            "group": texts.astype(np.int32),
        }
        if self.stored is not None:
            said = {"image": self.stored.pictures.embeddings(rows, copies), "text": self.stored.texts[texts]}
            batch |= {f"teacher_{name}": values for name, values in said.items()}
        return batch, rows.tolist()

    def state(self) -> dict[str, Any]:
        """See `training.Batches`."""
        return self.stream.state() | {"step": self.step}

    def restore(self, state: dict[str, Any]) -> None:
        """See `training.Batches`."""
        self.step = state["step"]
        self.stream.restore({name: value for name, value in state.items() if name != "step"})


def recipe(towers: Towers, steps: int, rate: float, *, teacher_scale: float | None = None) -> Recipe:
    """How towers learn: from pairs alone, or, given the scale of a teacher, also from what it said of them."""

    def loss_fn(params: Any, batch: Any, key: jax.Array):
        pixels = distillation.augment(batch["pixels"], batch["seeds"], LIGHT)
        image = embedded(towers, params, "image", {"pixels": pixels})
        text = embedded(towers, params, "text", {"ids": batch["ids"], "mask": batch["mask"]})
        scale, group = params["log_scale"], batch["group"]
        loss = losses.symmetric_info_nce(text, image, scale["task"], group=group)
        if teacher_scale is not None:
            theirs = batch["teacher_text"], batch["teacher_image"]
            loss += distillation.affinity_loss(text, image, *theirs, scale["task"], teacher_scale)
            across = distillation.interactive_contrastive_loss(text, image, *theirs, scale["cross"], group=group)
            loss += ACROSS_WEIGHT * across
        return loss, {}

    warmup = max(1, steps // 10)
    decayed = {"schedule": "cosine", "total_steps": steps, "warmup_steps": warmup, "weight_decay": 0.05}
    optimizer = adam(rate, clip_norm=1.0, **decayed)
    return Recipe(train_step(loss_fn, optimizer), optimizer, steps)


def fitted(plan: Recipe, params: dict[str, Any], batches: Copies, seed: int) -> dict[str, Any]:
    """Parameters after the recipe's steps."""
    state = new_state(jax.tree.map(jnp.asarray, params), plan.optimizer, jax.random.key(seed))
    return fit(plan.step, state, None, batches, steps=plan.steps).state.trainable


# ---------------------------------------------------------------- measuring
def all_texts(towers: Towers, params: dict[str, Any], split: Split) -> np.ndarray:
    """float32[T, E]."""
    return encoded(towers, params, "text", {"ids": split.ids, "mask": split.mask})


def encoded(towers: Towers, params: dict[str, Any], name: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """float32[N, E] of one side, in batches of one size."""
    count = len(next(iter(inputs.values())))
    parts = []
    for rows, mask in eval_batches(count, 256):
        step = towers.encode[name]
        parts.append(np.asarray(step(params, {key: values[rows] for key, values in inputs.items()}))[mask])
    return np.concatenate(parts)


def recall(towers: Towers, params: dict[str, Any], split: Split) -> float:
    """Recall@10, the mean of both directions; all pictures of a text are right."""
    sides = all_texts(towers, params, split), encoded(towers, params, "image", {"pixels": split.pictures})
    texts, pictures = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    owner = split.text_of_picture.astype(np.int32)
    return two_way_retrieval(texts, pictures, np.arange(len(texts), dtype=np.int32), owner, ks=(10,))["recall@10"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("glyphs", "fashion"), default="glyphs")
    parser.add_argument("--images", help="folder with the fashion files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--preset", choices=("full", "tiny"), default="full")
    parser.add_argument("--report", choices=("validation", "test"), default="test", help="split that is scored")
    options = parser.parse_args()
    if options.preset == "full" and options.data == "fashion" and options.images is None:
        parser.error("--images is missing: the folder with fashion15k_styles.csv and fashion15k_60x80.zip")
    keep_freed_memory()
    with mistakes_in_one_line("distill_retrieval"):
        main(options.data, options.images, options.seeds, options.preset, options.report)
