"""The serving path gives the vectors of the plain encoder, of length 1, in every number format."""

import numpy as np
import pytest

from erel_jax.catalogs.models import load_embedder, modalities_of
from erel_jax.errors import ConfigError
from erel_jax.interop.export import save_encoder
from erel_jax.interop.huggingface import load_encoder
from erel_jax.interop.new_towers import new_image_tower, new_text_tower


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of a ViT and of a BERT of width 64."""
    root = tmp_path_factory.mktemp("models")
    image = new_image_tower(16, width=64, layers=1)
    assert image.image_processor is not None
    save_encoder(root / "image", image.encoder, image.params, preprocessor=image.image_processor.document)
    text = new_text_tower(["red shoe", "blue lamp"], width=64, layers=1, tokens=40)
    assert text.tokenizer is not None
    save_encoder(root / "text", text.encoder, text.params, tokenizer_json=text.tokenizer.to_json())
    return root


@pytest.mark.parametrize(
    ("precision", "least"),
    [("float32", 0.999999), ("bfloat16", 0.9995), ("int4", 0.97)],
)
def test_vectors_are_those_of_the_encoder(folders, precision, least):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    loaded = load_encoder(folders / "image")
    own = np.asarray(loaded.encoder.module.apply(loaded.params, loaded.image_inputs(pixels)).embedding)
    embedder = load_embedder(str(folders / "image"), "image", precision=precision)
    vectors, lengths = (np.asarray(part) for part in embedder.encode({"pixels": pixels}))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(lengths, np.linalg.norm(own, axis=1), rtol=0.1)
    cosines = np.einsum("ne,ne->n", vectors, own) / np.linalg.norm(own, axis=1)
    assert cosines.min() > least


def test_fewer_dimensions_are_another_space_of_length_1(folders):
    whole, cut = (load_embedder(str(folders / "image"), "image", precision="float32", dims=dims) for dims in (None, 8))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    full, short = (np.asarray(one.encode({"pixels": pixels})[0]) for one in (whole, cut))
    np.testing.assert_allclose(short, full[:, :8] / np.linalg.norm(full[:, :8], axis=1, keepdims=True), atol=1e-5)
    assert whole.space != cut.space and cut.width == 8
    assert whole.space == load_embedder(str(folders / "image"), "image", precision="int8").space


def test_two_folders_side_by_side_share_one_space(folders):
    assert modalities_of(str(folders)) == ["image", "text"]
    image, text = (load_embedder(str(folders), modality) for modality in ("image", "text"))
    assert image.space == text.space != load_embedder(str(folders / "image"), "image").space
    assert image.width == text.width == 64


def test_lengths_of_texts_are_a_few(folders):
    assert load_embedder(str(folders / "text"), "text").buckets == (16, 32, 40)
    assert load_embedder(str(folders / "text"), "text", max_length=10).buckets == (10,)


def test_refusals(folders):
    assert modalities_of(str(folders / "text")) == ["text"]
    with pytest.raises(ConfigError, match="1 to 64"):
        load_embedder(str(folders / "image"), "image", dims=65)
    with pytest.raises(ConfigError, match="1 to 40"):
        load_embedder(str(folders / "text"), "text", max_length=41)
    with pytest.raises(ConfigError, match="--max-length is 1, expected at least 3"):
        load_embedder(str(folders / "text"), "text", max_length=1)
    (folders / "text" / "tokenizer.json").rename(folders / "text" / "moved.json")
    (folders / "text" / "manifest.json").unlink()
    with pytest.raises(ConfigError, match=r"without tokenizer\.json"):
        load_embedder(str(folders / "text"), "text")
    with pytest.raises(ConfigError, match=r"no config\.json"):
        modalities_of(str(folders.parent))
