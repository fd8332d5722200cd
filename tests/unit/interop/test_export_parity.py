"""Exported folders of every family open in transformers with equal states and embeddings; skipped without torch.

Equal to 1e-5 of the largest value of a state: the sums of both sides run in different orders. Padded places may differ.
"""

import jax
import numpy as np
import pytest

from erel_jax import tree
from erel_jax.encoders import ENCODERS
from erel_jax.interop.export import save_encoder
from erel_jax.interop.families import FAMILIES
from erel_jax.interop.huggingface import load_encoder

torch = pytest.importorskip("torch", reason="live parity needs torch: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
TOLERANCE = 1e-5
NO_POOLER = {"add_pooling_layer": False}


def first(out, mask):
    return out.last_hidden_state[:, 0]


def mean(out, mask):
    if mask is None:
        return out.last_hidden_state.mean(1)
    weights = torch.tensor(mask)[..., None].float()
    return (out.last_hidden_state * weights).sum(1) / weights.sum(1)


def last(out, mask):
    return out.last_hidden_state[torch.arange(len(mask)), torch.tensor(mask.sum(1) - 1)]


def pooler(out, mask):
    return out.pooler_output


# Family: (class there, pooling of the tiny preset here, the embedding read from its outputs, options for opening it).
ORIGINALS = {
    "bert": ("BertModel", "pooler", pooler, {}),
    "roberta": ("RobertaModel", "pooler", pooler, {}),
    "xlm-roberta": ("XLMRobertaModel", "cls", first, NO_POOLER),
    "distilbert": ("DistilBertModel", "mean", mean, {}),
    "modernbert": ("ModernBertModel", "mean", mean, {}),
    "llama": ("LlamaModel", "last", last, {}),
    "mistral": ("MistralModel", "mean", mean, {}),
    "qwen2": ("Qwen2Model", "cls", first, {}),
    "qwen3": ("Qwen3Model", "last", last, {}),
    "gemma2": ("Gemma2Model", "mean", mean, {}),
    "gemma3_text": ("Gemma3TextModel", "mean", mean, {}),
    "gpt2": ("GPT2Model", "last", last, {}),
    "vit": ("ViTModel", None, first, NO_POOLER),
    "clip_text_model": ("CLIPTextModelWithProjection", None, lambda out, mask: out.text_embeds, {}),
    "clip_vision_model": ("CLIPVisionModelWithProjection", None, lambda out, mask: out.image_embeds, {}),
    "siglip_text_model": ("SiglipTextModel", None, pooler, {}),
    "siglip_vision_model": ("SiglipVisionModel", None, pooler, {}),
    "dinov2": ("Dinov2Model", None, pooler, {}),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", None, pooler, {}),
    "deit": ("DeiTModel", None, first, NO_POOLER),
    "videomae": ("VideoMAEModel", None, mean, {}),
    "audio-spectrogram-transformer": ("ASTModel", None, pooler, {}),
    "whisper": ("WhisperForAudioClassification", None, mean, {}),
    "beit": ("BeitModel", None, pooler, {}),
}
# Each of another kind than the others; the rest differs from one of them in settings and names alone.
QUICK = (
    "beit", "bert", "clip_text_model", "clip_vision_model", "gemma3_text", "gpt2", "llama", "modernbert",
    "siglip_vision_model", "vit", "whisper",
)  # fmt: skip
# Heads of task models and of pre-training, which a folder of an encoder does not have.
HEADS = ("projector.", "classifier.", "embeddings.mask_token")
# How each original wants what we call by the name on the left, and the order of its axes.
NAMES = {
    "pixels": ("pixel_values", (0, 3, 1, 2)),
    "video": ("pixel_values", (0, 1, 4, 2, 3)),
    "spectrogram": ("input_values", (0, 1, 2)),
    "features": ("input_features", (0, 2, 1)),
}


@pytest.fixture(autouse=True)
def quiet():
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()


def made(kind, pooling):
    config = ENCODERS[kind].config
    encoder, draw = ENCODERS[kind].build(config.tiny(*([pooling] if pooling else []))), np.random.default_rng(0)

    def value(path, leaf):
        return (path.endswith("scale") + 0.2 * draw.normal(size=leaf.shape)).astype(leaf.dtype)

    return encoder, tree.map_with_path(value, encoder.module.spec)


def inputs_of(encoder, kind):
    """Two examples; texts of different lengths that end in the largest id, except where all have one length."""
    config, draw = encoder.config, np.random.default_rng(4)
    if encoder.modality == "text":
        whole = kind == "siglip_text_model"
        lengths = np.array([config.max_positions] * 2 if whole else [11, 4])
        ids = draw.integers(3, config.vocabulary - 1, (2, lengths.max())).astype(np.int32)
        mask = np.arange(lengths.max())[None] < lengths[:, None]
        ids[~mask] = getattr(config, "pad_id", 0) or 0
        ids[np.arange(2), lengths - 1] = config.vocabulary - 1
        return {"ids": ids, "mask": mask}
    side = getattr(config, "image_size", 0)
    name, shape = {
        "image": lambda: ("pixels", (side, side, config.channels)),
        "video": lambda: ("video", (config.frames, side, side, config.channels)),
        "audio": lambda: (config.input_name, (config.frames, config.bins)),
    }[encoder.modality]()
    return {name: draw.normal(size=(2, *shape)).astype(np.float32)}


def theirs(model, inputs, kind):
    if "ids" in inputs:
        batch = {"input_ids": torch.tensor(inputs["ids"]).long()}
        if kind != "siglip_text_model":
            batch["attention_mask"] = torch.tensor(inputs["mask"]).long()
    else:
        [(name, value)] = inputs.items()
        there, axes = NAMES[name]
        batch = {there: torch.tensor(value.transpose(axes).copy())}
    with torch.no_grad():
        return model(**batch, output_hidden_states=True)


def expect_equal(found, expected, real, what):
    found, expected = np.asarray(found)[real], np.asarray(expected)[real]
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE * scale, err_msg=what)


def test_every_family_is_compared():
    assert set(ORIGINALS) == set(FAMILIES)


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in sorted(ORIGINALS)]
)
def test_an_exported_folder_gives_equal_outputs_there_and_loads_here(tmp_path, kind):
    original, pooling, embedding, options = ORIGINALS[kind]
    encoder, params = made(kind, pooling)
    folder = save_encoder(tmp_path / "model", encoder, params)
    model, info = getattr(transformers, original).from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager", **options
    )
    missing = [key for key in info["missing_keys"] if not key.startswith(HEADS)]
    assert not missing and not info["unexpected_keys"] and not info["mismatched_keys"]
    loaded = load_encoder(folder)
    assert loaded.encoder.config == encoder.config
    for path, value in tree.paths(params).items():
        np.testing.assert_array_equal(tree.paths(loaded.params)[path], value, err_msg=path)
    inputs = inputs_of(encoder, kind)
    with jax.default_matmul_precision("highest"):
        out = jax.jit(lambda p, i: encoder.module.apply(p, i, tokens=True, hidden_states=True))(loaded.params, inputs)
    reference = theirs((model.encoder if kind == "whisper" else model).eval(), inputs, kind)
    real = inputs.get("mask", np.ones(np.shape(out.tokens)[:2], bool))
    states = [state.numpy() for state in reference.hidden_states]
    assert len(states) == encoder.layers + 1
    # Whisper lists its last state after the final norm, which is `tokens` here.
    for number, state in enumerate(states[: -1 if kind == "whisper" else None]):
        expect_equal(out.hidden_states[number], state, real, f"state {number}")
    expect_equal(out.tokens, reference.last_hidden_state.numpy(), real, "tokens")
    pooled = embedding(reference, inputs.get("mask")).numpy()
    scale = max(1.0, float(np.abs(pooled).max()))
    np.testing.assert_allclose(out.embedding, pooled, rtol=TOLERANCE, atol=TOLERANCE * scale)
