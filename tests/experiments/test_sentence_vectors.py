"""Frozen vectors of captions, and the small model of the noise experiment that reads them."""

import jax
import numpy as np

from erel_jax import module
from erel_jax.encoders import BertConfig, bert
from erel_jax.interop.export import save_encoder
from erel_jax.interop.wordpiece import train_wordpiece
from experiments.selection_fashion import drawn, embed, initial, rows_of
from experiments.sentence_vectors import sentence_vectors

TEXTS = ["red shoe", "blue bag", "red shoe", "green watch"]


def test_equal_texts_have_one_vector_and_a_batch_that_is_not_full_is_filled(tmp_path) -> None:
    tokenizer = train_wordpiece(TEXTS, vocabulary=100)
    text = bert(
        BertConfig(
            vocabulary=tokenizer.vocabulary, width=16, layers=1, heads=2, mlp_width=32, max_positions=32, pooling="mean"
        )
    )
    save_encoder(
        tmp_path / "text", text, module.init(jax.random.key(0), text.module.spec), tokenizer_json=tokenizer.to_json()
    )
    found = sentence_vectors(str(tmp_path / "text"), TEXTS)
    assert found.shape == (4, 16) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(found[0], found[2])
    assert np.abs(found[0] - found[1]).max() > 1e-3
    # On its own a text has the same vector: what fills a batch does not leak in.
    np.testing.assert_allclose(sentence_vectors(str(tmp_path / "text"), TEXTS[1:2]), found[1:2], atol=1e-6)


def test_vectors_of_captions_move_captions_alone() -> None:
    pairs = rows_of(drawn(0)[0], slice(0, 8))
    params = initial(pairs, 0)
    assert params["sentences"].shape[0] == 0
    plain = embed(params, pairs)
    known = pairs._replace(sentences=np.eye(8, 5, dtype=np.float32))
    with_vectors = initial(known, 0)
    for name in ("captions", "pictures"):
        np.testing.assert_array_equal(with_vectors[name]["first"], params[name]["first"])
    captions, pictures = embed(with_vectors, known)
    np.testing.assert_array_equal(pictures, plain[1])
    moved = np.abs(np.asarray(captions - plain[0])).max(axis=1)
    assert (moved[:5] > 1e-3).all() and (moved[5:] < 1e-6).all()
