"""Live comparison of vision, video and audio families with the PyTorch originals, in both directions."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from erel_jax.encoders import ENCODERS, VideoMaeConfig, videomae
from erel_jax.interop.export import save_encoder
from erel_jax.interop.huggingface import load_encoder

torch = pytest.importorskip("torch", reason="live parity needs torch: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def quiet():
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)


def shaken(model):
    """Weights large enough that no path is near its linear range."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            scale = weight.ndim == 1 and name.endswith("weight")
            weight.copy_(torch.randn(weight.shape) * 0.2 + (1.0 if scale else 0.0))
    return model.eval()


def ours(folder, inputs, **options):
    loaded = load_encoder(folder, **options)

    def encode(params, batch):
        return loaded.encoder.module.apply(params, batch, tokens=True, hidden_states=True)

    with jax.default_matmul_precision("highest"):
        return jax.jit(encode)(loaded.params, inputs)


def theirs(model, inputs, **options):
    [(name, value)] = inputs.items()
    value = torch.tensor(value)
    with torch.no_grad():
        if name == "ids":
            return model(input_ids=value.long(), output_hidden_states=True)
        if name == "pixels":
            return model(pixel_values=value.permute(0, 3, 1, 2), output_hidden_states=True, **options)
        if name == "video":
            return model(pixel_values=value.permute(0, 1, 4, 2, 3), output_hidden_states=True)
        if name == "spectrogram":
            return model(input_values=value, output_hidden_states=True)
        return model(input_features=value.permute(0, 2, 1), output_hidden_states=True)


def full_text(vocabulary, length, rows=2):
    """Texts as long as the tower takes, so that nothing is padded."""
    ids = np.random.default_rng(3).integers(1, vocabulary, (rows, length)).astype(np.int32)
    return {"ids": ids, "mask": np.ones(ids.shape, bool)}


def expect_equal(out, reference, embedding):
    states, found = np.stack([state.numpy() for state in reference.hidden_states]), np.asarray(out.hidden_states)
    assert states.shape == found.shape
    if np.array_equal(states[-1], reference.last_hidden_state.numpy()):
        states, found = states[:-1], found[:-1]  # Whisper lists its last state after the final norm: `tokens` here.
    np.testing.assert_allclose(found, states, rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(out.tokens, reference.last_hidden_state.numpy(), rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(out.embedding, embedding(reference).numpy(), rtol=TOLERANCE, atol=TOLERANCE)


def inputs_of(encoder):
    """Random inputs of a tiny encoder."""
    config, draw = encoder.config, np.random.default_rng(4)
    if encoder.modality == "text":
        return full_text(config.vocabulary, config.max_positions)
    side = getattr(config, "image_size", 0)
    name, shape = {
        "image": lambda: ("pixels", (side, side, config.channels)),
        "video": lambda: ("video", (config.frames, side, side, config.channels)),
        "audio": lambda: (config.input_name, (config.frames, config.bins)),
    }[encoder.modality]()
    return {name: draw.normal(size=(2, *shape)).astype(np.float32)}


def test_siglip(tmp_path):
    config = transformers.SiglipConfig(
        text_config=dict(
            vocab_size=60, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40,
            max_position_embeddings=11, projection_size=32, pad_token_id=1, bos_token_id=2, eos_token_id=3,
        ),
        vision_config=dict(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=44, image_size=23,
            patch_size=7,
        ),
    )  # fmt: skip
    model = shaken(transformers.SiglipModel(config))
    model.save_pretrained(tmp_path)
    texts = full_text(60, 11)
    reference = theirs(model.text_model, {"ids": texts["ids"]})
    expect_equal(ours(tmp_path, texts, modality="text"), reference, lambda r: r.pooler_output)
    pixels = {"pixels": np.random.default_rng(5).normal(size=(3, 23, 23, 3)).astype(np.float32)}
    reference = theirs(model.vision_model, pixels)
    expect_equal(ours(tmp_path, pixels, modality="image"), reference, lambda r: r.pooler_output)


@pytest.mark.parametrize(
    ("presets", "original"),
    [
        (("siglip_text_model", "so400m"), 449_734_896),
        (("siglip_vision_model", "so400m_14_384"), 428_225_600),
        (("clip_text_model", "large_14"), 123_650_304),
        (("clip_vision_model", "large_14"), 303_966_208),
    ],
)
def test_counts_of_full_size_presets_are_those_of_the_originals(presets, original):
    name, preset = presets
    config = getattr(ENCODERS[name].config, preset)()
    sizes = dict(
        hidden_size=config.width, intermediate_size=config.mlp_width, num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
    )  # fmt: skip
    sizes |= {"image_size": config.image_size, "patch_size": config.patch} if "vision" in name else {}
    sizes |= {"projection_dim": config.projection} if "clip" in name else {}
    family = "Siglip" if "siglip" in name else "CLIP"
    tower = "Text" if "text" in name else "Vision"
    suffix = "WithProjection" if family == "CLIP" else ""
    with torch.device("meta"):
        model = getattr(transformers, f"{family}{tower}Model{suffix}")(
            getattr(transformers, f"{family}{tower}Config")(**sizes)
        )
    assert sum(weight.numel() for weight in model.parameters()) == original


@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters"])
def test_dinov2_always_interpolates(tmp_path, kind):
    registers = kind != "Dinov2"
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=20, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=3, image_size=24, patch_size=4,
        use_swiglu_ffn=registers, attn_implementation="eager",
    )  # fmt: skip
    model = shaken(getattr(transformers, f"{kind}ForImageClassification")(config))
    model.save_pretrained(tmp_path)
    body = getattr(model, model.base_model_prefix)
    for height, width in ((24, 24), (36, 8)) if registers else ((12, 20), (36, 8)):
        inputs = {"pixels": np.random.default_rng(5).normal(size=(2, height, width, 3)).astype(np.float32)}
        expect_equal(ours(tmp_path, inputs), theirs(body, inputs), lambda r: r.pooler_output)


@pytest.mark.parametrize(
    ("kind", "size"), [("ViT", 14), ("ViT", 63), ("DeiT", 28), ("CLIPVision", 63), ("SiglipVision", 17)]
)
def test_interpolated_positions(tmp_path, kind, size):
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=30, num_hidden_layers=2, num_attention_heads=5, intermediate_size=44, image_size=35, patch_size=7,
        attn_implementation="eager",
    )  # fmt: skip
    headless = {"add_pooling_layer": False} if kind in ("ViT", "DeiT") else {}
    model = shaken(getattr(transformers, f"{kind}Model")(config, **headless))
    model.save_pretrained(tmp_path)
    document = json.loads((tmp_path / "config.json").read_text()) | {"erel_jax_image_size": size}
    (tmp_path / "config.json").write_text(json.dumps(document))
    inputs = {"pixels": np.random.default_rng(6).normal(size=(2, size, size, 3)).astype(np.float32)}
    reference = theirs(model, inputs, interpolate_pos_encoding=True)
    expect_equal(
        ours(tmp_path, inputs), reference, lambda r: r.last_hidden_state[:, 0] if headless else r.pooler_output
    )


@pytest.mark.parametrize("mean_pooling", [True, False])
def test_videomae(tmp_path, mean_pooling):
    config = transformers.VideoMAEConfig(
        hidden_size=20, num_hidden_layers=2, num_attention_heads=2, intermediate_size=34, image_size=12, patch_size=4,
        num_frames=6, tubelet_size=2, use_mean_pooling=mean_pooling, attn_implementation="eager",
    )  # fmt: skip
    model = shaken(transformers.VideoMAEModel(config))
    model.save_pretrained(tmp_path)
    inputs = {"video": np.random.default_rng(7).normal(size=(2, 6, 12, 12, 3)).astype(np.float32)}
    expect_equal(ours(tmp_path, inputs), theirs(model, inputs), lambda r: r.last_hidden_state.mean(1))


def test_ast(tmp_path):
    config = transformers.ASTConfig(
        hidden_size=20, num_hidden_layers=2, num_attention_heads=2, intermediate_size=34, max_length=21,
        num_mel_bins=9, patch_size=4, frequency_stride=2, time_stride=3, attn_implementation="eager",
    )  # fmt: skip
    model = shaken(transformers.ASTForAudioClassification(config))
    model.save_pretrained(tmp_path)
    inputs = {"spectrogram": np.random.default_rng(8).normal(size=(3, 21, 9)).astype(np.float32)}
    reference = theirs(model.audio_spectrogram_transformer, inputs)
    expect_equal(ours(tmp_path, inputs), reference, lambda r: r.pooler_output)


def test_whisper_beside_its_decoder(tmp_path):
    config = transformers.WhisperConfig(
        vocab_size=60, d_model=20, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=34, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=12, max_source_positions=11, num_mel_bins=7, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, attn_implementation="eager",
    )  # fmt: skip
    model = shaken(transformers.WhisperForConditionalGeneration(config))
    model.save_pretrained(tmp_path)
    inputs = {"features": np.random.default_rng(9).normal(size=(2, 22, 7)).astype(np.float32)}
    expect_equal(ours(tmp_path, inputs), theirs(model.model.encoder, inputs), lambda r: r.last_hidden_state.mean(1))


@pytest.mark.parametrize(("shared", "size"), [(True, 16), (False, 16), (False, 28)])
def test_beit(tmp_path, shared, size):
    config = transformers.BeitConfig(
        hidden_size=20, num_hidden_layers=2, num_attention_heads=2, intermediate_size=34, image_size=16, patch_size=4,
        use_relative_position_bias=not shared, use_shared_relative_position_bias=shared, use_mean_pooling=shared,
        attn_implementation="eager",
    )  # fmt: skip
    model = shaken(transformers.BeitModel(config))
    model.save_pretrained(tmp_path)
    document = json.loads((tmp_path / "config.json").read_text()) | {"erel_jax_image_size": size}
    (tmp_path / "config.json").write_text(json.dumps(document))
    inputs = {"pixels": np.random.default_rng(10).normal(size=(2, size, size, 3)).astype(np.float32)}
    expect_equal(ours(tmp_path, inputs), theirs(model, inputs), lambda r: r.pooler_output)


def test_videomae_with_its_classifiers_norm_opens_in_transformers(tmp_path):
    encoder = videomae(dataclasses.replace(VideoMaeConfig.tiny(), final_norm="mean"))
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda s: jax.numpy.asarray(draw.normal(size=s.shape) * 0.3, s.dtype), encoder.module.spec)
    folder = save_encoder(tmp_path / "model", encoder, params)
    model, info = transformers.VideoMAEForVideoClassification.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"} and not info["unexpected_keys"]
    inputs = inputs_of(encoder)
    with torch.no_grad():
        expect_equal(
            ours(folder, inputs),
            theirs(model.eval().videomae, inputs),
            lambda r: model.fc_norm(r.last_hidden_state.mean(1)).detach(),
        )
