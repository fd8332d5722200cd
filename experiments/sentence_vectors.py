"""Vectors of texts by a frozen pretrained encoder, as features for a small model."""

from collections.abc import Sequence

import jax
import numpy as np

from erel_jax.data.pipeline import eval_batches
from erel_jax.interop.huggingface import load_encoder

ROWS, TOKENS = 256, 32


def sentence_vectors(encoder: str, texts: Sequence[str]) -> np.ndarray:
    """float32[N, E] of length 1.

    Args:
        encoder: folder or Hub id of a text encoder, as for `load_encoder`.
        texts: N; cut at 32 tokens. Equal ones are encoded once.
    """
    loaded = load_encoder(encoder, modality="text")
    encode = jax.jit(lambda params, inputs: loaded.encoder.module.apply(params, inputs).embedding)
    distinct, place = np.unique(np.asarray(texts, object), return_inverse=True)
    found = []
    for rows, real in eval_batches(len(distinct), ROWS):
        inputs = loaded.text_inputs(list(distinct[rows]), max_length=TOKENS, buckets=(TOKENS,))
        found.append(np.asarray(encode(loaded.params, inputs), np.float32)[real])
    vectors = np.concatenate(found)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True))[place]
