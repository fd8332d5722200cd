"""Tables and patches."""

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.layers import (
    FLOAT32,
    embed_patches,
    embed_tokens,
    extract_patches,
    extract_tubelets,
    extract_windows,
    resize_positions,
    sine_positions,
)


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


def test_pixels_beyond_the_last_whole_patch_are_left_out():
    images = jnp.arange(2 * 7 * 5 * 3).reshape(2, 7, 5, 3).astype(jnp.float32)
    np.testing.assert_array_equal(extract_patches(images, 2), extract_patches(images[:, :6, :4], 2))


def test_tubelets_are_ordered_by_time_then_row_major():
    videos = jnp.arange(4 * 4 * 6 * 2).reshape(1, 4, 4, 6, 2).astype(jnp.float32)
    tubelets = extract_tubelets(videos, 2, 2)
    assert tubelets.shape == (1, 2 * 2 * 3, 16)
    np.testing.assert_array_equal(tubelets[0, 6 + 3 + 2], np.asarray(videos[0, 2:4, 2:4, 4:6]).reshape(-1))


def test_windows_may_overlap_and_leave_a_rest():
    x = jnp.arange(7 * 6).reshape(1, 7, 6, 1).astype(jnp.float32)
    windows = extract_windows(x, (3, 2), (2, 3))
    assert windows.shape == (1, 3 * 2, 6)
    np.testing.assert_array_equal(windows[0, 3], np.asarray(x[0, 2:5, 3:5, 0]).reshape(-1))


def test_resized_positions_are_cubic_interpolation():
    line = np.arange(5.0)
    table = jnp.asarray(np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(25, 2), jnp.float32)
    assert resize_positions(table, (5, 5)) is table
    resized = np.asarray(resize_positions(table, (10, 3))).reshape(10, 3, 2)
    # The kernel with a = -0.75 at distances 1.25, 0.25, 0.75, 1.75, by hand; the border repeats its cell.
    weights = [-0.10546875, 0.87890625, 0.26171875, -0.03515625]
    np.testing.assert_allclose(resized[4, 1, 0], np.dot([3, 2, 1, 0], weights), atol=1e-6)
    np.testing.assert_allclose(resized[0, 1, 0], np.dot([1, 0, 0, 0], weights), atol=1e-6)
    np.testing.assert_allclose(resized[:, :, 0].sum(), 10 * 3 * 2.0, atol=1e-4)


def test_sine_positions_by_hand():
    expected = [[0, 1, 0, 1], [np.sin(1), np.cos(1), np.sin(0.01), np.cos(0.01)]]
    np.testing.assert_allclose(sine_positions(2, 4), expected, atol=1e-7)
