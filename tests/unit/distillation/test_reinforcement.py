"""Augmented copies are a function of seed, row and copy alone; stored embeddings go on where they stopped."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.distillation import Augmentation, augment, copy_seeds, reinforce
from erel_jax.errors import CheckpointError, ConfigError, NonFiniteError

DRAW = np.random.default_rng(0)
IMAGES = DRAW.integers(0, 256, (6, 9, 12, 3), np.uint8)
WILD = Augmentation(least_area=0.3, aspect=2.0, flip=True, brightness=0.4, contrast=0.4, saturation=0.4)
ROWS = np.arange(6)
PINNED = [[4165894930, 804218099], [949107840, 3711967855]]


def seeds_of(rows, copy=0, seed=7):
    return copy_seeds(seed, np.asarray(rows), np.full(len(rows), copy))


def test_copies_replay_bit_for_bit_in_any_batch_and_compilation():
    seeds = seeds_of(ROWS)
    whole = np.asarray(augment(IMAGES, seeds, WILD))
    assert whole.shape == IMAGES.shape and whole.dtype == np.uint8
    again = jax.jit(lambda x, s: augment(x, s, WILD) + jnp.uint8(0))(IMAGES, seeds)
    np.testing.assert_array_equal(again, whole)
    order = np.array([4, 1, 4])
    np.testing.assert_array_equal(augment(IMAGES[order], seeds_of(order), WILD), whole[order])
    np.testing.assert_array_equal(augment(IMAGES[5:], seeds_of([5]), WILD), whole[5:])


def test_seeds_differ_by_seed_row_and_copy_and_by_nothing_else():
    found = {tuple(s) for seed in (1, 2) for copy in (0, 1) for s in seeds_of(ROWS, copy, seed)}
    assert len(found) == 24
    np.testing.assert_array_equal(seeds_of([3, 1])[1:], seeds_of([1]))
    # Written down once: stored sets of earlier releases rest on these numbers.
    np.testing.assert_array_equal(copy_seeds(0, np.array([0, 5]), np.array([0, 2])), PINNED)


def test_copies_of_one_picture_differ():
    copies = [np.asarray(augment(IMAGES[:1], seeds_of([0], copy), WILD)) for copy in range(5)]
    assert len({copy.tobytes() for copy in copies}) == 5


def test_nothing_happens_where_nothing_may():
    np.testing.assert_array_equal(augment(IMAGES, seeds_of(ROWS), Augmentation.none()), IMAGES)
    mirrored = dataclasses.replace(Augmentation.none(), flip=True)
    for found, image in zip(np.asarray(augment(IMAGES, seeds_of(ROWS), mirrored)), IMAGES, strict=True):
        assert (found == image).all() or (found == image[:, ::-1]).all()


def test_crops_are_bilinear_and_of_the_size_asked():
    """A picture whose pixels say where they are: a copy's corners give the crop, and between them it is linear."""
    ramp = np.zeros((1, 64, 64, 3), np.uint8)
    ramp[0, :, :, 0], ramp[0, :, :, 1] = np.arange(64)[:, None] * 4, np.arange(64)[None] * 4
    crops = dataclasses.replace(Augmentation.none(), least_area=0.25, aspect=1.5)
    for copy in range(20):
        found = np.asarray(augment(ramp, seeds_of([0], copy), crops))[0].astype(float)
        down, across = found[:, 0, 0], found[0, :, 1]
        for line in (down, across):
            inner = line[2:-2]
            np.testing.assert_allclose(inner, np.linspace(inner[0], inner[-1], len(inner)), atol=1.1)
        height, width = ((line[-3] - line[2]) / 59 / 4 * 64 for line in (down, across))
        assert 0.2 < height * width / 64**2 <= 1.02
        assert 1 / 1.6 < height / width < 1.6


def test_colors_against_numpy():
    """With one strength at a time, every pixel is moved by one factor between 1 - s and 1 + s."""
    gray = IMAGES.astype(float) @ np.array([77, 150, 29]) / 256
    centers = {"brightness": 0 * gray, "contrast": gray.mean(axis=(1, 2), keepdims=True) + 0 * gray, "saturation": gray}
    seen = set()
    for name, center in centers.items():
        changed = dataclasses.replace(Augmentation.none(), **{name: 0.5})
        found = np.asarray(augment(IMAGES, seeds_of(ROWS), changed)).astype(float)
        for image, copy, middle in zip(IMAGES.astype(float), found, center[..., None], strict=True):
            inside = (copy > 0) & (copy < 255)
            away = (image - middle)[inside]
            factor = (away * (copy - middle)[inside]).sum() / (away**2).sum()
            assert 0.49 < factor < 1.51
            np.testing.assert_allclose(copy[inside], (middle + factor * (image - middle))[inside], atol=2.5)
            seen.add(round(factor, 2))
    assert len(seen) > 10


def test_gray_pictures_have_no_saturation():
    found = augment(IMAGES[..., :1], seeds_of(ROWS), dataclasses.replace(Augmentation.none(), saturation=0.9))
    np.testing.assert_array_equal(found, IMAGES[..., :1])


def look(pixels):
    """A teacher: a few fixed projections of the pixels."""
    flat = np.asarray(pixels, np.float32).reshape(len(pixels), -1)
    return flat[:, :5] / 256


IDENTITY = {"teacher": "abc", "data": "def"}


def build(folder, teacher=look, identity=IDENTITY, **options):
    given = {"width": 5, "copies": 3, "seed": 7, "augmentation": WILD, "batch": 4, **options}
    return reinforce(folder, IMAGES, teacher, identity=identity, **given)


def test_stored_embeddings_are_the_teachers_of_the_replayed_copies(tmp_path):
    stored = build(tmp_path / "set")
    rows, copies = np.array([5, 0, 2]), np.array([2, 0, 1])
    replayed = stored.images(IMAGES, rows, copies)
    np.testing.assert_array_equal(replayed[1:2], augment(IMAGES[:1], seeds_of([0]), WILD))
    np.testing.assert_allclose(stored.embeddings(rows, copies), look(replayed), rtol=1 / 128)
    assert stored.store.encoded_rows == 18
    again = build(tmp_path / "set", teacher=None)
    assert again.store.encoded_rows == 0
    np.testing.assert_array_equal(again.embeddings(rows, copies), stored.embeddings(rows, copies))


def test_a_stopped_build_goes_on_and_damage_is_repaired(tmp_path):
    calls = []

    def stops(pixels):
        calls.append(len(pixels))
        if len(calls) > 2:
            raise KeyboardInterrupt
        return look(pixels)

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "set", teacher=stops)
    assert calls == [4, 4, 4]
    stored = build(tmp_path / "set")
    assert stored.store.encoded_rows == 10
    whole = stored.embeddings(ROWS, np.ones(6, int))
    path = tmp_path / "set" / "states.bin"
    data = bytearray(path.read_bytes())
    data[70] ^= 255
    path.write_bytes(data)
    repaired = build(tmp_path / "set")
    assert repaired.store.encoded_rows == 4
    np.testing.assert_array_equal(repaired.embeddings(ROWS, np.ones(6, int)), whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"identity": {**IDENTITY, "teacher": "other"}}, "teacher: the store has abc, this run other"),
        ({"seed": 8}, "seed: the store has 7, this run 8"),
        ({"copies": 4}, "copies: the store has 3, this run 4"),
        ({"augmentation": Augmentation()}, "augmentation.flip: the store has True, this run False"),
    ],
)
def test_a_store_of_something_else_is_refused(tmp_path, options, message):
    build(tmp_path / "set")
    with pytest.raises(CheckpointError, match=message):
        build(tmp_path / "set", **options)


def test_a_broken_teacher_is_named(tmp_path):
    with pytest.raises(NonFiniteError, match="reinforced"):
        build(tmp_path / "set", teacher=lambda pixels: look(pixels) * np.nan)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda folder: Augmentation(least_area=0.0), "least_area 0.0"),
        (lambda folder: Augmentation(aspect=0.5), "aspect 0.5"),
        (lambda folder: Augmentation(contrast=1.0), "contrast is 1.0"),
        (lambda folder: copy_seeds(-1, ROWS, ROWS), "must not be negative"),
        (lambda folder: copy_seeds(0, ROWS - 1, ROWS), "must not be negative"),
        (lambda folder: copy_seeds(0, ROWS, ROWS[:2]), "expected both as int"),
        (lambda folder: copy_seeds(0, ROWS * 1.0, ROWS), "expected both as int"),
        (lambda folder: augment(IMAGES.astype(np.float32), seeds_of(ROWS), WILD), "images are float32"),
        (lambda folder: augment(IMAGES[..., :2], seeds_of(ROWS), WILD), "C 1 or 3"),
        (lambda folder: augment(np.zeros((1, 1, 1025, 3), np.uint8), seeds_of([0]), WILD), "at most 1024"),
        (lambda folder: augment(IMAGES, seeds_of(ROWS)[:, :1], WILD), r"expected uint32\[6, 2\]"),
        (lambda folder: build(folder, copies=0), "got 0 copies"),
        (lambda folder: build(folder, identity={}), "without fingerprints of"),
        (lambda folder: build(folder, width=4), r"rows of shape \(5,\), expected \(4,\)"),
        (lambda folder: reinforce(folder, IMAGES[0], look, width=5, identity=IDENTITY), "uint8.*expected uint8.N"),
        (lambda folder: build(folder).embeddings(np.array([-1]), np.array([0])), "rows -1 to -1"),
        (lambda folder: build(folder).images(IMAGES, np.array([0]), np.array([3])), "copies 3 to 3"),
        (
            lambda folder: build(folder, teacher=lambda x: look(x)[:3]),
            r"gave \[3, 5\] for 4 pictures, expected float\[4, E\]",
        ),
        (lambda folder: build(folder, teacher=lambda x: np.zeros((5, 5))), r"gave \[5, 5\] for 4 pictures"),
        (lambda folder: build(folder).embeddings(ROWS[:3], ROWS[:1]), r"rows int64\[3\] and copies int64\[1\]"),
        (lambda folder: build(folder).images(IMAGES[:, :8], ROWS[:1], ROWS[:1]), r"expected \[6, 9, 12, 3\]"),
        (lambda folder: build(folder).images(IMAGES[:5], ROWS[5:], ROWS[:1]), r"images have shape \[5, 9, 12, 3\]"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, call, message):
    with pytest.raises(ConfigError, match=message):
        call(tmp_path / "set")
