"""Words around texts, and texts of decoders whose tokenizers have no padding token."""

import json

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from erel_jax.encoders import LlamaConfig, VitConfig, decoder, vit
from erel_jax.errors import CheckpointError, ConfigError
from erel_jax.interop.export import save_encoder
from erel_jax.interop.huggingface import load_encoder
from erel_jax.interop.prompts import Prompts
from erel_jax.interop.tokenizer import TextTokenizer
from tests.unit.interop.conftest import drawn

# Tokens of one character and of pairs, so that a text cut in the middle falls into other tokens.
CHARACTERS = ["</s>", *'abcdefgh ":SIinwtx{}', "ab", "cd", "abcd"]
MERGES = [("a", "b"), ("c", "d"), ("ab", "cd")]
SUMMED = 'S: "{text}" in a w:"'


def tokenizer(ending=False, **options):
    backend = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(CHARACTERS)}, merges=MERGES))
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    backend.add_special_tokens(["</s>"])
    if ending:
        backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])
    return TextTokenizer(backend, **{"max_length": 24, "pad_id": 0, **options})


def words(out):
    return ["".join(CHARACTERS[i] for i in ids[mask]) for ids, mask in zip(out["ids"], out["mask"], strict=True)]


def test_a_prompt_stands_around_every_text():
    made = tokenizer(prompts=Prompts(templates={"sum": SUMMED, "query": "I: {text}"}, default="sum"))
    texts = ["abcd", "", "e f"]
    assert words(made.encode(texts)) == [SUMMED.format(text=text) for text in texts]
    assert words(made.encode(texts, prompt="query")) == ["I: abcd", "I: ", "I: e f"]
    assert words(made.encode(texts, prompt="")) == texts
    assert words(made.encode(texts, prompt="a {text} b")) == ["a abcd b", "a  b", "a e f b"]
    assert words(made.encode(["{text}"])) == ['S: "{text}" in a w:"']
    with pytest.raises(ConfigError, match="Did you mean 'query'"):
        made.encode(texts, prompt="qery")


@pytest.mark.parametrize("ending", [False, True])
@pytest.mark.parametrize("limit", range(18, 24))
def test_only_the_text_is_cut_and_the_prompt_after_it_stays(limit, ending):
    made = tokenizer(ending, prompts=Prompts(templates={"sum": SUMMED}, default="sum"))
    text = "abcd abcab hgabcdcd" * 5
    [found] = words(made.encode([text], max_length=limit))
    before, after = SUMMED.split("{text}")
    assert found.startswith(before) and found.endswith(after + ("</s>" if ending else ""))
    kept = found.removesuffix("</s>")[len(before) : -len(after)]
    assert text.startswith(kept)
    longer = SUMMED.format(text=text[: len(kept) + 1]) + ("</s>" if ending else "")
    assert made.encode([text], max_length=limit)["mask"].sum() <= limit
    assert made.truncated == 2
    # A merge may leave one token free, never two.
    assert len(made.backend.encode(longer).ids) >= limit - ending


def test_a_prompt_that_leaves_no_room_is_refused():
    made = tokenizer(prompts=Prompts(templates={"sum": SUMMED}, default="sum"))
    alone = len(made.backend.encode(SUMMED.format(text="")).ids)
    with pytest.raises(ConfigError, match=f"'sum' takes {alone} tokens.*max_length is {alone}"):
        made.encode(["a"], max_length=alone)
    assert words(made.encode(["ef"], max_length=alone + 1)) == [SUMMED.format(text="e")]
    with pytest.raises(ConfigError, match="max_length is 3"):
        made.encode(["a"], max_length=3, prompt="I: {text}")


@pytest.mark.parametrize("template", ["no place", "{text} {text}", ""])
def test_a_template_has_one_place_for_the_text(template):
    with pytest.raises(ConfigError, match="once"):
        Prompts(templates={"x": template})


def folder(tmp_path, settings, pooling="last", **options):
    """A LLaMA folder without padding token in config.json, with the given tokenizer_config.json."""
    encoder = decoder(LlamaConfig.tiny(pooling))
    made = tokenizer(ending=True)
    params = drawn(encoder.module.spec)
    saved = save_encoder(tmp_path / "model", encoder, params, tokenizer_json=made.to_json(), **options)
    (saved / "manifest.json").unlink()
    (saved / "tokenizer_config.json").write_text(json.dumps(settings))
    return saved


def test_a_decoder_needs_no_padding_token(tmp_path):
    """The padding id is here that of the end token, which texts hold as well: the mask alone says what is padding."""
    saved = folder(tmp_path, {})
    encoder = load_encoder(saved).encoder
    run = jax.jit(encoder.module.apply)
    texts = ["abcd", "e</s>f", "g h abcd"]
    for settings in ({}, {"pad_token": "</s>"}, {"pad_token": "<pad>"}, {"pad_token": None}):
        (saved / "tokenizer_config.json").write_text(json.dumps(settings))
        loaded = load_encoder(saved)
        assert loaded.tokenizer is not None and loaded.tokenizer.pad_id == 0
        together = loaded.text_inputs(texts, max_length=12)
        np.testing.assert_array_equal(together["mask"].sum(1), [2, 4, 6])
        assert (together["ids"][1][:4] == [5, 0, 6, 0]).all()
    found = run(loaded.params, together).embedding
    for i, text in enumerate(texts):
        alone = loaded.text_inputs([text], buckets=range(1, 12))
        assert alone["mask"].all()
        np.testing.assert_allclose(found[i], run(loaded.params, alone).embedding[0], rtol=1e-5, atol=1e-5)


def test_a_padding_token_beyond_the_table_is_refused(tmp_path):
    saved = folder(tmp_path, {"pad_token": "[PAD]"})
    made = tokenizer(ending=True)
    for i in range(64):
        made.backend.add_special_tokens([f"[PAD{i or ''}]"])
    (saved / "tokenizer.json").write_text(made.to_json())
    with pytest.raises(CheckpointError, match=r"ids up to \d+, the embedding table has 64"):
        load_encoder(saved)


def test_prompts_travel_with_the_folder(tmp_path):
    prompts = Prompts(templates={"query": "I: {text}", "sum": SUMMED}, default="query")
    saved = folder(tmp_path, {}, prompts=prompts)
    assert (saved / "modules.json").is_file()
    loaded, plain = load_encoder(saved), load_encoder(saved, prompt="")
    assert loaded.tokenizer is not None and loaded.tokenizer.prompts == prompts
    assert loaded.encoder.config.pooling == "last"
    assert words(loaded.text_inputs(["ab"])) == ["I: ab</s>"]
    assert words(loaded.text_inputs(["ab"], prompt="sum")) == [SUMMED.format(text="ab") + "</s>"]
    assert words(plain.text_inputs(["ab"])) == ["ab</s>"]
    own = load_encoder(saved, prompt="a {text}")
    assert words(own.text_inputs(["ab"])) == ["a ab</s>"]
    assert len({loaded.fingerprint, plain.fingerprint, own.fingerprint}) == 3


def test_a_prompt_after_the_text_makes_no_folder_of_another_library(tmp_path):
    saved = folder(tmp_path, {}, prompts=Prompts(templates={"sum": SUMMED}, default="sum"))
    assert not (saved / "modules.json").exists()
    assert words(load_encoder(saved).text_inputs(["ab"])) == [SUMMED.format(text="ab") + "</s>"]


def test_a_prompt_needs_a_tokenizer(tmp_path):
    encoder = vit(VitConfig.tiny())
    saved = save_encoder(tmp_path / "image", encoder, drawn(encoder.module.spec))
    with pytest.raises(ConfigError, match="no tokenizer to put prompt"):
        load_encoder(saved, prompt="a photo of {text}")
