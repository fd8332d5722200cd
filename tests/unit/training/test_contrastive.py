"""CLIP and SigLIP as training losses, and LiT: a step on stored embeddings is the step that runs the locked tower."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import losses, tree
from erel_jax.data.retrieval import RetrievalData, RetrievalSplit
from erel_jax.errors import ConfigError
from erel_jax.interop.new_towers import new_image_tower, new_text_tower
from erel_jax.profiling import count_flops
from erel_jax.training import contrastive_loss, contrastive_start
from erel_jax.training.pair_feed import PairFeed

BATCH = 16


def split_of(count, seed):
    draw = np.random.default_rng(seed)
    texts = [f"{('red', 'green', 'blue')[i % 3]} thing number {i // 2}" for i in range(count)]
    return RetrievalSplit(
        images=draw.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8),
        image_ids=[f"{seed}-{i // 4 if i < 8 else i}" for i in range(count)],
        texts=list(dict.fromkeys(texts)),
        text_of_image=np.asarray([list(dict.fromkeys(texts)).index(text) for text in texts], np.int32),
        dropped={},
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    splits = {"train": split_of(40, 0), "validation": split_of(8, 1), "test": split_of(8, 2)}
    listing = tmp_path_factory.mktemp("data") / "bad.jsonl"
    return RetrievalData(name="drawn", fingerprint="drawn-1", splits=splits, dropped={}, bad_records=listing)


@pytest.fixture(scope="module")
def towers(data):
    image = new_image_tower(16, width=16, layers=2, patch=4)
    return {"text": new_text_tower(data.splits["train"].texts, width=16, layers=1, tokens=12), "image": image}


def encoder_of(towers):
    def encode(params, inputs, key):
        text = towers["text"].encoder.module.apply(params["text"], inputs["text"]).embedding
        if "vectors" in inputs["image"]:
            return {"text": text, "image": inputs["image"]["vectors"]}
        return {"text": text, "image": towers["image"].encoder.module.apply(params["image"], inputs["image"]).embedding}

    return encode


def test_the_losses_start_where_they_were_published():
    assert contrastive_start("clip").keys() == {"log_scale"}
    assert math.isclose(np.exp(contrastive_start("clip")["log_scale"]), 1 / 0.07, rel_tol=1e-6)
    start = contrastive_start("siglip")
    assert math.isclose(np.exp(start["log_scale"]), 10, rel_tol=1e-6) and start["bias"] == -10
    with pytest.raises(ConfigError, match="Did you mean 'siglip'"):
        contrastive_start("sigclip")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_loss_is_that_of_the_library_with_groups_left_out(kind):
    draw = np.random.default_rng(0)
    vectors = {name: jnp.asarray(draw.normal(size=(8, 5)), jnp.float32) for name in ("text", "image")}
    group = np.array([0, 0, 1, 2, 3, 3, 3, 4], np.int32)
    head = contrastive_start(kind)
    found, _ = contrastive_loss(kind, lambda params, inputs, key: inputs)(
        {"head": head}, {"inputs": vectors, "group": group}, jax.random.key(0)
    )
    if kind == "clip":
        expected = losses.symmetric_info_nce(vectors["text"], vectors["image"], head["log_scale"], group=group)
    else:
        expected = losses.sigmoid_loss(vectors["text"], vectors["image"], *head.values(), group=group)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_step_on_stored_embeddings_has_the_gradients_of_the_live_one_and_no_image_tower(data, towers, tmp_path):
    feed = PairFeed(data, towers, tokens=12)
    rows = np.arange(BATCH)
    live = feed.batch(rows)
    feed.store_images(tmp_path, lambda stage, done, total: None)
    stored = feed.batch(rows)
    assert stored["inputs"]["image"].keys() == {"vectors"} and feed.batch(rows, live=True)["inputs"][
        "image"
    ].keys() == {"pixels"}
    loss = contrastive_loss("clip", encoder_of(towers))
    params = {"text": towers["text"].params, "head": contrastive_start("clip")}

    def gradient(trained, image, batch):
        return jax.grad(lambda some: loss({**some, "image": image}, batch, jax.random.key(0))[0])(trained)

    image = towers["image"].params
    ours, theirs = (tree.paths(jax.jit(gradient)(params, image, batch)) for batch in (stored, live))
    largest = max(float(jnp.abs(leaf).max()) for leaf in theirs.values())
    assert largest > 1e-4
    for path, leaf in theirs.items():
        np.testing.assert_allclose(ours[path], leaf, rtol=0, atol=1e-5 * largest, err_msg=path)
    costs = [count_flops(gradient, params, image, batch).total for batch in (stored, live)]
    tower = count_flops(
        lambda p, x: towers["image"].encoder.module.apply(p, x).embedding, image, live["inputs"]["image"]
    )
    assert math.isclose(costs[1] - costs[0], tower.total, rel_tol=0.02)


def test_pictures_are_stored_once(data, towers, tmp_path, monkeypatch):
    first, asked = PairFeed(data, towers, tokens=12), []
    first.store_images(tmp_path, lambda *step: asked.append(step))
    assert asked[-1][1:] == (40, 40)
    again = PairFeed(data, towers, tokens=12)
    monkeypatch.setattr(PairFeed, "image", None)
    again.store_images(tmp_path, lambda *step: None)
    assert first.store is not None and again.store is not None and again.store.encoded_rows == 0
    np.testing.assert_array_equal(first.store.widened(slice(None)), again.store.widened(slice(None)))


def test_pairs_that_share_a_text_or_a_picture_are_of_one_group(data, towers):
    group = PairFeed(data, towers, tokens=12).groups
    # Pairs 0-3 show one picture, 4-7 another; of the others each is alone, unless texts are equal.
    assert len(set(group[:4])) == 1 and len(set(group[4:8])) == 1 and group[0] != group[4]
    train = data.splits["train"]
    same = train.text_of_image[:, None] == train.text_of_image[None]
    assert (group[:, None] == group[None])[same].all()


def test_a_stream_goes_on_where_it_was(data, towers):
    feed = PairFeed(data, towers, tokens=12)
    stream = feed.stream(8, 0)
    next(stream)
    state = stream.state()
    expected, ids = next(stream)
    other = feed.stream(8, 0)
    other.restore(state)
    found, other_ids = next(other)
    assert ids == other_ids
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_long_texts_are_cut_and_counted(data, towers):
    feed = PairFeed(data, towers, tokens=3)
    assert feed.cut == len(data.splits["train"].texts) + len(data.splits["test"].texts)
    assert feed.text("train", np.arange(4))["ids"].shape == (4, 3)


def test_what_does_not_fit_is_refused(data, towers):
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        PairFeed(data, {"text": towers["image"], "image": towers["image"]}, tokens=12)
    with pytest.raises(ConfigError, match="no texts"):
        new_text_tower([])
    with pytest.raises(ConfigError):
        new_image_tower(17, patch=4)
