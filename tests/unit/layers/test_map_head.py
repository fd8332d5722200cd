"""Attention pooling against an independent NumPy version."""

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.layers import FLOAT32, map_head, map_head_spec

D, F, H, P = 6, 5, 2, 4


def test_map_head():
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda s: jnp.asarray(draw.normal(size=s.shape), jnp.float32), map_head_spec(D, F))
    tokens = draw.normal(size=(3, P, D)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        got = map_head(params, jnp.asarray(tokens), heads=H, activation_name="relu", eps=1e-6, precision=FLOAT32)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    kernel, bias = p["attention"]["input"]["kernel"], p["attention"]["input"]["bias"]
    query = p["probe"]["vector"] @ kernel[:, :D] + bias[:D]
    key = tokens @ kernel[:, D : 2 * D] + bias[D : 2 * D]
    value = tokens @ kernel[:, 2 * D :] + bias[2 * D :]
    read = np.empty((3, D))
    for head in range(H):
        at = slice(head * D // H, (head + 1) * D // H)
        scores = key[:, :, at] @ query[at] / np.sqrt(D // H)
        weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        read[:, at] = (weights[:, :, None] * value[:, :, at]).sum(1)
    x = read @ p["attention"]["output"]["kernel"] + p["attention"]["output"]["bias"]
    normed = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
    normed = normed * p["norm"]["scale"] + p["norm"]["bias"]
    hidden = np.maximum(normed @ p["mlp"]["up"]["kernel"] + p["mlp"]["up"]["bias"], 0)
    expected = x + hidden @ p["mlp"]["down"]["kernel"] + p["mlp"]["down"]["bias"]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
