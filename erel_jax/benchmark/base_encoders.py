"""The small text and image encoders that a run without `--text-encoder` and `--image-encoder` adapts.

They are trained once, on the base half of `glyphs` (Latin, Greek and Cyrillic letters, digits, in the base fonts), with
the symmetric contrastive loss, and kept in the cache as two ordinary Hugging Face folders. The benchmark loads them
through the same door as any other model and adapts them to scripts, symbols and fonts they have not seen.
"""

import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax import module
from erel_jax.artifacts import ArtifactDir, verify_manifest
from erel_jax.benchmark.messages import Messenger
from erel_jax.data.pipeline import BatchStream, GatheredBatches
from erel_jax.data.retrieval import RetrievalData, RetrievalSplit
from erel_jax.encoders import BertConfig, VitConfig, bert, vit
from erel_jax.errors import CheckpointError
from erel_jax.interop.export import save_encoder
from erel_jax.interop.image_processor import vit_settings
from erel_jax.interop.wordpiece import train_wordpiece
from erel_jax.layers import BFLOAT16
from erel_jax.losses import INITIAL_LOG_SCALE, symmetric_info_nce
from erel_jax.training import adam, fit, new_state, train_step

KIND = "base-encoders"
RECIPE = "2"
WIDTH, IMAGE_LAYERS, TEXT_LAYERS, HEADS, PATCH = 128, 3, 2, 4, 8
STEPS, BATCH, TOKENS, VOCABULARY = 150, 256, 16, 2500


def base_encoders(cache: Path, data: RetrievalData, messenger: Messenger) -> Path:
    """The folder with `text/` and `image/`, trained now if the cache has none.

    Args:
        cache: cache folder.
        data: `glyphs`; its base half is trained on. The word list of the tokenizer is that of all its names.
        messenger: told of progress.
    """
    recipe = f"{RECIPE}|{WIDTH}|{IMAGE_LAYERS}|{TEXT_LAYERS}|{HEADS}|{PATCH}|{STEPS}|{BATCH}|{data.fingerprint}"
    folder = cache / "base_encoders" / hashlib.sha256(recipe.encode()).hexdigest()[:16]
    try:
        verify_manifest(folder, kind=KIND)
    except CheckpointError:
        _pretrain(folder, data, messenger)
    return folder


def _pretrain(folder: Path, data: RetrievalData, messenger: Messenger) -> None:
    split = data.splits["pretrain"]
    tokenizer = train_wordpiece([text for part in data.splits.values() for text in part.texts], vocabulary=VOCABULARY)
    size = split.images.shape[1]
    image = vit(
        VitConfig(image_size=size, patch=PATCH, width=WIDTH, layers=IMAGE_LAYERS, heads=HEADS, mlp_width=4 * WIDTH),
        BFLOAT16,
    )
    text = bert(
        BertConfig(
            vocabulary=tokenizer.vocabulary,
            width=WIDTH,
            layers=TEXT_LAYERS,
            heads=HEADS,
            mlp_width=4 * WIDTH,
            max_positions=64,
            pooling="mean",
        ),
        BFLOAT16,
    )
    encoded = tokenizer.encode(split.texts, max_length=TOKENS)
    spec = {"text": text.module.spec, "image": image.module.spec, "scale": module.ParamSpec((), (), _initial_scale)}
    params = module.init(jax.random.key(0), spec)

    def loss_fn(params: Any, batch: Any, key: jax.Array):
        pixels = batch["pixels"].astype(jnp.float32) / 127.5 - 1.0
        images = image.module.apply(params["image"], {"pixels": pixels}, key=key, train=True).embedding
        texts = text.module.apply(
            params["text"], {"ids": batch["ids"], "mask": batch["mask"]}, key=key, train=True
        ).embedding
        return symmetric_info_nce(texts, images, params["scale"], group=batch["text"]), {}

    optimizer = adam(1e-3, schedule="cosine", total_steps=STEPS, warmup_steps=STEPS // 10, clip_norm=1.0)
    batches = _pair_batches(split, encoded, data.fingerprint)
    result = fit(
        train_step(loss_fn, optimizer),
        new_state(params, optimizer, jax.random.key(0)),
        None,
        batches,
        steps=STEPS,
        on_progress=lambda p: messenger.progress("pretraining base encoders", p.step, p.steps),
    )
    trained = result.state.trainable
    with ArtifactDir(folder, kind=KIND, overwrite=True) as artifact:
        save_encoder(artifact.path / "text", text, trained["text"], tokenizer_json=tokenizer.to_json())
        save_encoder(artifact.path / "image", image, trained["image"], preprocessor=vit_settings(size))


def _initial_scale(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    return jnp.full(shape, INITIAL_LOG_SCALE, dtype)


def _pair_batches(split: RetrievalSplit, encoded: dict[str, np.ndarray], fingerprint: str) -> GatheredBatches:
    """Pairs with each text at most once per batch: uint8 pixels, token ids and the text's row."""

    def gather(rows: np.ndarray) -> dict[str, np.ndarray]:
        texts = split.text_of_image[rows]
        tokens = {name: values[texts] for name, values in encoded.items()}
        return {"pixels": np.ascontiguousarray(split.images[rows]), **tokens, "text": texts.astype(np.int32)}

    stream = BatchStream(len(split), batch=BATCH, seed=0, data_fingerprint=fingerprint, groups=split.text_of_image)
    return GatheredBatches(stream, gather, split.image_ids)
