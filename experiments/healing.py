"""Heals what pruning broke: for a short while the smaller tower is trained to embed as its source does."""

from typing import Any

import jax
import numpy as np

from erel_jax import distillation
from erel_jax.data.pipeline import BatchStream, GatheredBatches, eval_batches
from erel_jax.encoders import Encoder
from erel_jax.training import adam, fit, new_state, train_step
from erel_jax.training.pair_feed import PairFeed

BATCH, RATE, WARMUP = 128, 3e-4, 20


def heal(smaller: Encoder, cut: Any, targets: np.ndarray, pairs: PairFeed, *, steps: int, seed: int = 0) -> Any:
    """Parameters of a smaller image tower after a short distillation from its source; captions are not looked at.

    Args:
        smaller: encoder of `cut`, as wide as the source.
        cut: parameters, from `pruning.prune`.
        targets: float32[N, E], what the source says of the training pictures, from `train_vectors`.
        pairs: where the pictures are.
        steps: of `BATCH` pictures.
        seed: of their order.
    """
    train = pairs.data.splits["train"]

    def gather(rows: np.ndarray) -> dict[str, np.ndarray]:
        return {**pairs.image("train", rows), "targets": targets[rows]}

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        found = smaller.module.apply(params, {"pixels": batch["pixels"]}).embedding
        return distillation.feature_loss(found, batch["targets"]), {}

    rows = BatchStream(len(train), batch=min(BATCH, len(train)), seed=seed, data_fingerprint=pairs.data.fingerprint)
    optimizer = adam(RATE, warmup_steps=min(WARMUP, steps), schedule="cosine", total_steps=steps)
    state = new_state(cut, optimizer, jax.random.key(seed))
    batches = GatheredBatches(rows, gather, train.image_ids)
    return fit(train_step(loss, optimizer), state, None, batches, steps=steps).state.trainable


def train_vectors(source: Encoder, params: Any, pairs: PairFeed) -> np.ndarray:
    """float32[N, E] of the training pictures."""
    step = jax.jit(lambda p, inputs: source.module.apply(p, inputs).embedding)
    parts = [
        np.asarray(step(params, pairs.image("train", rows)), np.float32)[real]
        for rows, real in eval_batches(len(pairs.data.splits["train"]), BATCH)
    ]
    return np.concatenate(parts)
