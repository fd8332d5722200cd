"""Small folders in the Hugging Face layout, made without torch."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from erel_jax import tree
from erel_jax.encoders import ENCODERS
from erel_jax.interop.configurations import document_of
from erel_jax.interop.families import FAMILIES
from erel_jax.interop.weights import write_tensors

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "shoe", "Red", "blue", "sock", "##s"]


def drawn(spec, seed=0):
    """Random parameters with every leaf different from its initial value."""
    draw = np.random.default_rng(seed)
    return tree.map_with_path(lambda path, s: draw.normal(size=s.shape).astype(np.float32) * 0.3, spec)


def word_piece(words=WORDS, lowercase=True):
    """A BERT-style tokenizer over a list of words, with the truncation and padding that stored files may carry."""
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", words.index("[CLS]")), ("[SEP]", words.index("[SEP]"))]
    )
    backend.enable_truncation(5)
    backend.enable_padding(length=9, pad_id=7)
    return backend


@pytest.fixture
def bert_folder(tmp_path):
    """(folder of a tiny BERT with a tokenizer, its encoder, its parameters)."""
    encoder = ENCODERS["bert"].build(ENCODERS["bert"].config.tiny())
    params = drawn(encoder.module.spec)
    folder = tmp_path / "bert"
    folder.mkdir()
    document = {**document_of(encoder.config)}
    document.pop("erel_jax_pooling")
    (folder / "config.json").write_text(json.dumps(document))
    save_file(write_tensors(params, FAMILIES["bert"].weights(encoder.config)), folder / "model.safetensors")
    word_piece().save(str(folder / "tokenizer.json"))
    return folder, encoder, params


@pytest.fixture
def clip_folder(tmp_path):
    """(folder of a tiny CLIP model, {modality: (encoder, parameters)})."""
    folder = tmp_path / "clip"
    folder.mkdir()
    towers, tensors, sections = {}, {"logit_scale": np.array(2.6, np.float32)}, {}
    for seed, (kind, section) in enumerate(
        [("clip_text_model", "text_config"), ("clip_vision_model", "vision_config")]
    ):
        encoder = ENCODERS[kind].build(ENCODERS[kind].config.tiny())
        params = drawn(encoder.module.spec, seed)
        tensors |= write_tensors(params, FAMILIES[kind].weights(encoder.config))
        sections[section] = document_of(encoder.config)
        towers[encoder.modality] = encoder, params
    document = {"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": 12, **sections}
    (folder / "config.json").write_text(json.dumps(document))
    save_file(tensors, folder / "model.safetensors")
    return folder, towers
