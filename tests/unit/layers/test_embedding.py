"""Tables and patches."""

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.layers import FLOAT32, embed_patches, embed_tokens, extract_patches


def test_embed_tokens_takes_rows():
    table = jnp.arange(8.0).reshape(4, 2)
    np.testing.assert_array_equal(embed_tokens(table, jnp.array([[3, 0]])), [[[6, 7], [0, 1]]])


def test_patches_are_row_major_with_channels_last():
    images = jnp.arange(1 * 4 * 6 * 2).reshape(1, 4, 6, 2).astype(jnp.float32)
    patches = extract_patches(images, 2)
    assert patches.shape == (1, 6, 8)
    np.testing.assert_array_equal(patches[0, 1], np.asarray(images[0, 0:2, 2:4]).reshape(-1))
    np.testing.assert_array_equal(patches[0, 3], np.asarray(images[0, 2:4, 0:2]).reshape(-1))


def test_patch_embedding_is_a_strided_convolution():
    images = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    kernel = jax.random.normal(jax.random.key(1), (4, 4, 3, 5))
    bias = jax.random.normal(jax.random.key(2), (5,))
    convolved = jax.lax.conv_general_dilated(
        images, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    ours = embed_patches({"kernel": kernel.reshape(-1, 5), "bias": bias}, images, 4, FLOAT32)
    np.testing.assert_allclose(ours, np.asarray(convolved).reshape(2, 6, 5) + np.asarray(bias), atol=1e-4)
