"""Train a dual encoder of pictures and texts with the loss of CLIP or SigLIP, or LiT with a cached image tower.

    python experiments/train_contrastive.py --data glyphs --loss clip --out runs/clip
    python experiments/train_contrastive.py --data pairs.parquet --loss siglip --batch 4096 --sub-batch 64 --out runs/b
    python experiments/train_contrastive.py --data glyphs --image-encoder DIR --lock image --compare-live --out runs/lit

`--data` is `glyphs`, `openmoji`, `fashion`, `tfds:NAME[/CONFIG]` (prepared before; `--images` names TFDS's folder), a
`.csv`, `.tsv`, `.jsonl` or `.parquet` table of pictures and texts, or a folder with one. Without encoders, small towers
are trained from nothing with a WordPiece vocabulary of the training texts. `--lock image` encodes every picture once
and trains the text tower on the stored embeddings: the step has no image tower. `--sub-batch` encodes that many pairs
at a time (GradCache). The batch is split over all devices. Run again with the same options, the script goes on from its
last checkpoint.

Progress goes to standard error; standard output gets one JSON line with quality (both directions, test split) and cost.
`OUT/text` and `OUT/image` become Hugging Face folders. Expected numbers are in `docs/recipes.md`.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from erel_jax import tree
from erel_jax.artifacts import RunLock, cache_folder, check_writable
from erel_jax.benchmark.retrieval_evaluation import evaluate_scores
from erel_jax.data.pipeline import eval_batches
from erel_jax.data.retrieval import RetrievalData, load_retrieval
from erel_jax.errors import ConfigError
from erel_jax.host_memory import keep_freed_memory
from erel_jax.interop.export import save_encoder
from erel_jax.interop.huggingface import Loaded, load_encoder
from erel_jax.interop.new_towers import new_image_tower, new_text_tower
from erel_jax.layers import dense
from erel_jax.layers import precision as precisions
from erel_jax.profiling import PeakMeter, count_flops
from erel_jax.sharding import compile_step, make_mesh
from erel_jax.training import Checkpoints, FitResult, Progress, StopFlag, adam, fit, new_state, place, train_step
from erel_jax.training.contrastive import contrastive_loss, contrastive_start
from erel_jax.training.pair_feed import PairFeed
from experiments.command import mistakes_in_one_line

ENCODE_BATCH = 256
BETA2 = {"clip": 0.98, "siglip": 0.95}


# Towers made from nothing.
PRESETS = {
    "full": {"image": {"width": 128, "layers": 3}, "text": {"layers": 2, "vocabulary": 8000}},
    "tiny": {"image": {"width": 32, "layers": 1}, "text": {"layers": 1, "vocabulary": 200}},
}


def arguments(given: list[str] | None) -> argparse.Namespace:
    """The options, checked as far as that needs no data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="data set, tfds:NAME, table or folder; the tiny preset draws its own")
    parser.add_argument(
        "--images", help="folder of source files (openmoji, fashion), of TFDS, or of a table's pictures"
    )
    parser.add_argument("--items", help="table of item ids and texts, where a table names items instead of texts")
    parser.add_argument("--image-key", help="image feature of a TFDS data set")
    parser.add_argument("--text-key", help="text or label feature of a TFDS data set")
    parser.add_argument("--loss", choices=("clip", "siglip"), default="clip")
    parser.add_argument("--image-encoder", help="Hugging Face folder or id; a small ViT from nothing without it")
    parser.add_argument("--text-encoder", help="Hugging Face folder or id; a small BERT from nothing without it")
    parser.add_argument("--lock", choices=("image",), help="LiT: this tower stays as it is and is read from a store")
    parser.add_argument(
        "--compare-live", action="store_true", help="with --lock: compare with the locked tower run live"
    )
    parser.add_argument("--batch", type=int, default=None, help="pairs per step over all devices (256; 32 if tiny)")
    parser.add_argument("--sub-batch", type=int, help="pairs encoded at a time on each device (GradCache)")
    parser.add_argument("--epochs", type=int, default=None, help="passes over the training pairs (7; 2 if tiny)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="peak rate of new parameters")
    parser.add_argument("--tuned-rate", type=float, default=1e-4, help="peak rate of encoders that came with weights")
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--tokens", type=int, default=32, help="longest text in tokens; the rest is cut and counted")
    parser.add_argument("--max-bad", type=float, default=0.01, help="largest tolerated share of damaged pictures")
    parser.add_argument("--checkpoint-every", type=int, default=200, help="steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="folder of prepared data and stored embeddings")
    parser.add_argument("--out", type=Path, required=True, help="folder of encoders and checkpoints")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="full")
    options = parser.parse_args(given)
    tiny = options.preset == "tiny"
    options.batch = options.batch if options.batch is not None else (32 if tiny else 256)
    options.epochs = options.epochs if options.epochs is not None else (2 if tiny else 7)
    options.cache = options.cache if options.cache is not None else cache_folder()
    for name in ("batch", "epochs", "tokens", "checkpoint_every"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(options, name)}, expected at least 1.")
    if options.compare_live and not options.lock:
        raise ConfigError("--compare-live compares a locked tower's store with the tower; add --lock image.")
    if options.lock and not options.image_encoder:
        raise ConfigError("--lock image needs a trained tower to lock; name it with --image-encoder.")
    if options.data is None and not tiny:
        raise ConfigError("--data is missing: a data set, tfds:NAME, a table or a folder. Try --data glyphs.")
    devices, part = jax.device_count(), options.sub_batch or 1
    if part < 1 or options.batch % (devices * part):
        raise ConfigError(
            f"--batch {options.batch} is not divided by {devices} devices times --sub-batch {options.sub_batch or 1}. "
            f"Choose a multiple of {devices * max(part, 1)}."
        )
    return options


# ---------------------------------------------------------------- data and towers
def drawn_pairs(folder: Path) -> Path:
    """A table of squares and bars in a few colors, enough to run everything in seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    colors = {"red": (220, 30, 30), "green": (20, 160, 60), "blue": (40, 60, 220), "black": (0, 0, 0)}
    lines = []
    for number in range(192):
        color, shape = list(colors)[number % 4], ("square", "bar")[number // 4 % 2]
        picture = Image.new("RGB", (16, 16), (255, 255, 255))
        extent = (6, 6) if shape == "square" else (12, 3)
        picture.paste(colors[color], (number % 3, number % 5, number % 3 + extent[0], number % 5 + extent[1]))
        picture.save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "text": f"{color} {shape} number {number // 8}"}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "pairs.jsonl"


def given_towers(options: argparse.Namespace) -> dict[str, Loaded]:
    """The encoders that the options name; a wrong folder shows before any work."""
    precision = precisions.named(options.precision)
    named = {"text": options.text_encoder, "image": options.image_encoder}
    return {name: load_encoder(source, modality=name, precision=precision) for name, source in named.items() if source}


def load_data(options: argparse.Namespace, towers: dict[str, Loaded]) -> RetrievalData:
    """The pairs, their pictures as large as the image encoder reads them."""
    size = towers["image"].encoder.config.image_size if "image" in towers else None
    tiny = options.preset == "tiny"
    source = drawn_pairs(options.out / "tiny-data") if options.data is None else options.data
    data = load_retrieval(
        source,
        cache_dir=options.cache,
        images=options.images,
        items=options.items,
        image_size=size if size is not None else 16 if tiny else None,
        max_bad_fraction=options.max_bad,
        bad_records=options.out / "bad_records.jsonl",
        image_key=options.image_key,
        text_key=options.text_key,
    )
    note(f"data {data.name}: " + ", ".join(f"{name} {len(s)} pairs" for name, s in data.splits.items()))
    if lost := dropped(data):
        note(f"left out: {lost}, pictures and empty texts listed in {options.out / 'bad_records.jsonl'}")
    return data


def dropped(data: RetrievalData) -> dict[str, int]:
    """Pairs left out by reason."""
    counts = dict(data.dropped)
    for split in data.splits.values():
        for reason, number in split.dropped.items():
            counts[reason] = counts.get(reason, 0) + number
    return {reason: number for reason, number in counts.items() if number}


def all_towers(options: argparse.Namespace, data: RetrievalData, towers: dict[str, Loaded]) -> dict[str, Loaded]:
    """The encoders named, and small ones from nothing for the others."""
    shapes, common = PRESETS[options.preset], {"seed": options.seed, "precision": precisions.named(options.precision)}
    train = data.splits["train"]
    image = towers.get("image") or new_image_tower(train.images.shape[1], **shapes["image"], **common)
    text = {"width": image.encoder.embedding_width, "tokens": options.tokens, **shapes["text"], **common}
    return {"text": towers.get("text") or new_text_tower(train.texts, **text), "image": image}


# ---------------------------------------------------------------- the model
def encode_pairs(towers: dict[str, Loaded], options: argparse.Namespace) -> Any:
    """`encode(params, inputs, key)` of both towers; a locked one is read, or run as it is where there are pixels."""
    precision = precisions.named(options.precision)
    text, image = towers["text"].encoder.module.apply, towers["image"].encoder.module.apply

    def encode(params: Any, inputs: Any, key: jax.Array | None) -> dict[str, jax.Array]:
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        texts = text(params["text"], inputs["text"], key=keys[0], train=True).embedding
        if "projection" in params["head"]:
            texts = dense(texts, params["head"]["projection"], None, precision)
        if "vectors" in inputs["image"]:
            return {"text": texts, "image": inputs["image"]["vectors"]}
        trains = {} if options.lock else {"key": keys[1], "train": True}
        return {"text": texts, "image": image(params["image"], inputs["image"], **trains).embedding}

    return encode


def parameters(options: argparse.Namespace, towers: dict[str, Loaded]) -> dict[str, Any]:
    """All parameters; texts get a projection where the towers' embeddings differ in width."""
    head: dict[str, Any] = dict(contrastive_start(options.loss))
    widths = [towers[name].encoder.embedding_width for name in ("text", "image")]
    if widths[0] != widths[1]:
        drawn = np.random.default_rng(options.seed).normal(0, widths[0] ** -0.5, widths)
        head["projection"] = drawn.astype(np.float32)
        note(f"texts are projected from {widths[0]} to {widths[1]} numbers; the projection is in head.safetensors")
    return {"text": towers["text"].params, "image": towers["image"].params, "head": head}


# ---------------------------------------------------------------- training and evaluation
def train(options: argparse.Namespace, pairs: PairFeed, towers: dict[str, Loaded], params: Any, stop: StopFlag) -> Any:
    """Trains, going on from a checkpoint if there is one; parameters, what `fit` measured, and FLOPs of a step."""
    mesh = make_mesh() if jax.device_count() > 1 else None
    encode = encode_pairs(towers, options)
    loss_fn = contrastive_loss(options.loss, encode, sub_batch=options.sub_batch, mesh=mesh)
    trained = {name: part for name, part in params.items() if not (options.lock and name == "image")}
    named = {"text": options.text_encoder, "image": options.image_encoder}
    rates = [(f"{name}/.*", options.tuned_rate if named.get(name) else options.learning_rate) for name in trained]
    batches = pairs.stream(options.batch, options.seed)
    steps = options.epochs * batches.stream.steps_per_epoch
    optimizer = adam(
        rates,
        weight_decay=options.weight_decay,
        clip_norm=1.0,
        schedule="cosine",
        total_steps=steps,
        warmup_steps=steps // 10,
        b2=BETA2[options.loss],
        eps=1e-6,
    )
    state = new_state(trained, optimizer, jax.random.key(options.seed))
    if mesh is not None:
        state, _ = place(state, None, mesh)
    settings = ("loss", "lock", "batch", "epochs", "learning_rate", "tuned_rate", "weight_decay", "precision", "tokens")
    fingerprint = {name: getattr(options, name) for name in (*settings, "seed")} | {
        "data": pairs.data.fingerprint,
        "towers": {name: tower.fingerprint for name, tower in towers.items()},
    }
    checkpoints = Checkpoints(options.out / "checkpoints", fingerprint, report=note)
    if restored := checkpoints.restore(state):
        state = restored.state
        batches.restore(restored.stream_state or {})
        note(f"going on from step {restored.step} of {steps}")
    step = train_step(loss_fn, optimizer, mesh=mesh)
    flops = count_flops(step.fn, state, None, pairs.batch(np.arange(options.batch))).total
    every = options.checkpoint_every
    shown = {"steps": steps, "checkpoint": checkpoints, "checkpoint_every": every, "stop": stop, "on_progress": show}
    result = fit(step, state, None, batches, **shown)
    return {**params, **jax.device_get(result.state.trainable)}, result, flops


def evaluate(
    options: argparse.Namespace, pairs: PairFeed, towers: dict[str, Loaded], params: Any, stop: StopFlag
) -> dict:
    """Recall@1, 5 and 10 on the test split in both directions; any of its right answers counts."""
    encode, image = encode_pairs(towers, options), towers["image"].encoder.module.apply
    read = {"vectors": np.zeros((ENCODE_BATCH, 1), np.float32)}
    steps = {
        "text": compile_step(lambda params, inputs: encode(params, {"text": inputs, "image": read}, None)["text"]),
        "image": compile_step(lambda params, inputs: image(params["image"], inputs).embedding),
    }
    split, vectors = pairs.data.splits["test"], {}
    for name, source, total in (("text", pairs.text, len(split.texts)), ("image", pairs.image, len(split))):
        parts = []
        for rows, mask in eval_batches(total, ENCODE_BATCH):
            stop.check("evaluation")
            parts.append(np.asarray(steps[name](params, source("test", rows)))[mask])
            tell(f"encoding test {name}s", min(len(parts) * ENCODE_BATCH, total), total)
        found = np.concatenate(parts)
        vectors[name] = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    figures = evaluate_scores(jnp.asarray(vectors["text"]), jnp.asarray(vectors["image"]), split)
    return {name: value for name, value in figures.items() if "recall@" in name}


def compared(options: argparse.Namespace, pairs: PairFeed, towers: dict[str, Loaded], params: Any) -> dict[str, float]:
    """The step on stored embeddings beside the one that runs the locked tower: same gradients, at which cost."""
    loss_fn = contrastive_loss(options.loss, encode_pairs(towers, options), sub_batch=options.sub_batch)
    rows, key = np.arange(options.batch), jax.random.key(0)
    trained = {name: params[name] for name in ("text", "head")}

    def gradient(trained: Any, image: Any, batch: Any) -> Any:
        return jax.grad(lambda some: loss_fn({**some, "image": image}, batch, key)[0])(trained)

    sides = {"stored": pairs.batch(rows), "live": pairs.batch(rows, live=True)}
    flops = {name: count_flops(gradient, trained, params["image"], batch).total for name, batch in sides.items()}
    stored, live = (tree.paths(jax.jit(gradient)(trained, params["image"], batch)) for batch in sides.values())
    largest = max(float(np.abs(leaf).max()) for leaf in live.values())
    apart = max(float(np.abs(np.asarray(stored[path]) - np.asarray(live[path])).max()) for path in live)
    return {
        "gradient_difference": apart / largest,
        "flops_stored": flops["stored"],
        "flops_live": flops["live"],
        "flops_ratio": flops["live"] / flops["stored"],
    }


def write(options: argparse.Namespace, towers: dict[str, Loaded], params: Any) -> None:
    """Both encoders as Hugging Face folders, and what the loss learned beside them."""
    tokenizer, processor = towers["text"].tokenizer, towers["image"].image_processor
    assert tokenizer is not None and processor is not None
    beside = {
        "text": {"tokenizer_json": tokenizer.to_json(), "prompts": tokenizer.prompts},
        "image": {"preprocessor": processor.document},
    }
    for name, files in beside.items():
        save_encoder(options.out / name, towers[name].encoder, params[name], **files, overwrite=True)
    head = {name: np.asarray(value) for name, value in params["head"].items()}
    save_file(head, options.out / "head.safetensors")


def summary(options: argparse.Namespace, pairs: PairFeed, result: FitResult, flops: float) -> dict[str, Any]:
    """What the run cost and left out."""
    seconds = result.median_step_seconds
    return {
        "name": ("lit_" if options.lock else "") + options.loss,
        "data": pairs.data.name,
        "batch": options.batch,
        "sub_batch": options.sub_batch,
        "devices": jax.device_count(),
        "steps": int(result.state.step),
        "skipped": result.skipped,
        "last_loss": result.losses[-1] if result.losses else None,
        "step_seconds": seconds,
        "items_per_second": options.batch / seconds if seconds else None,
        "train_seconds": result.train_seconds,
        "compile_seconds": result.compile_seconds,
        "store_seconds": pairs.store.build_seconds if pairs.store else None,
        "flops_per_step": flops,
        "dropped": dropped(pairs.data),
        "texts_cut": pairs.cut,
    }


# ---------------------------------------------------------------- the run
_told: dict[str, float] = {}


def note(text: str) -> None:
    """A line for the person who watches."""
    print(text, file=sys.stderr, flush=True)


def tell(stage: str, done: int, total: int, detail: str = "") -> None:
    """Progress of a stage, at most every five seconds."""
    now = time.monotonic()
    if done == total or now - _told.get(stage, now if not done else 0.0) >= 5:
        _told[stage] = now
        note(f"{stage} {done}/{total}{detail}")


def show(progress: Progress) -> None:
    """Progress of the training with the time left."""
    left = progress.seconds_left
    ahead = "" if left is None else f", about {left:.0f} s left" if left < 90 else f", about {left / 60:.1f} min left"
    tell("training step", progress.step, progress.steps, f", loss {progress.loss:.4f}{ahead}")


def main(given: list[str] | None = None) -> dict[str, Any]:
    """Runs everything and returns the result line."""
    options = arguments(given)
    with RunLock(check_writable(options.out)), StopFlag() as stop:
        named = given_towers(options)
        data = load_data(options, named)
        towers = all_towers(options, data, named)
        pairs = PairFeed(data, towers, tokens=options.tokens)
        if options.lock:
            pairs.store_images(options.cache, tell)
        params = parameters(options, towers)
        live = compared(options, pairs, towers, params) if options.compare_live else None
        peak = PeakMeter()
        params, result, flops = train(options, pairs, towers, params, stop)
        measured = peak.read()
        row = summary(options, pairs, result, flops) | evaluate(options, pairs, towers, params, stop)
        row |= {"peak_bytes": measured.bytes, "peak_bytes_source": measured.source, "compared": live}
        write(options, towers, params)
    print(json.dumps(row), flush=True)
    again = f" --data {options.data}" if options.data else ""
    note(f"Next: erel bench{again} --text-encoder {options.out}/text --image-encoder {options.out}/image")
    return row


if __name__ == "__main__":
    keep_freed_memory()
    with mistakes_in_one_line("train_contrastive", "run the same command again to go on from the last checkpoint."):
        main()
