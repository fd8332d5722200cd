"""Live comparison with the PyTorch originals, in both directions; skipped where torch is missing."""

import jax
import numpy as np
import pytest

from erel_jax.interop.huggingface import load_encoder

torch = pytest.importorskip("torch", reason="live parity needs torch: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def quiet():
    transformers.logging.disable_progress_bar()
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


def theirs(model, inputs):
    with torch.no_grad():
        if "pixels" in inputs:
            return model(pixel_values=torch.tensor(inputs["pixels"]).permute(0, 3, 1, 2), output_hidden_states=True)
        ids, mask = torch.tensor(inputs["ids"]).long(), torch.tensor(inputs["mask"]).long()
        return model(input_ids=ids, attention_mask=mask, output_hidden_states=True)


def texts(vocabulary, lengths, end=None):
    draw = np.random.default_rng(3)
    ids = draw.integers(1, vocabulary - 2, (len(lengths), max(lengths))).astype(np.int32)
    mask = np.arange(max(lengths))[None] < np.array(lengths)[:, None]
    if end is not None:
        ids[~mask] = end
        ids[np.arange(len(lengths)), np.array(lengths) - 1] = end
    return {"ids": ids, "mask": mask}


def pixels(size):
    return {"pixels": np.random.default_rng(4).normal(size=(2, size, size, 3)).astype(np.float32)}


def expect_states(out, reference):
    states = np.stack([state.numpy() for state in reference.hidden_states])
    np.testing.assert_allclose(out.hidden_states, states, rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(out.tokens, reference.last_hidden_state.numpy(), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_bert(tmp_path, activation):
    config = transformers.BertConfig(
        vocab_size=101, hidden_size=36, num_hidden_layers=2, num_attention_heads=3, intermediate_size=50,
        max_position_embeddings=40, hidden_act=activation, attn_implementation="eager",
    )  # fmt: skip
    model = shaken(transformers.BertModel(config))
    model.save_pretrained(tmp_path)
    inputs = texts(101, [33, 1, 12])
    reference = theirs(model, inputs)
    out = ours(tmp_path, inputs, pooling="pooler")
    expect_states(out, reference)
    np.testing.assert_allclose(out.embedding, reference.pooler_output.numpy(), atol=TOLERANCE)


def test_task_model_in_shards(tmp_path):
    config = transformers.ViTConfig(
        hidden_size=30, num_hidden_layers=2, num_attention_heads=5, intermediate_size=44, image_size=21, patch_size=7,
        layer_norm_eps=1e-6, attn_implementation="eager",
    )  # fmt: skip
    model = shaken(transformers.ViTForImageClassification(config))
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    inputs = pixels(21)
    out, reference = ours(tmp_path, inputs), theirs(model.vit, inputs)
    expect_states(out, reference)
    np.testing.assert_allclose(out.embedding, reference.last_hidden_state[:, 0].numpy(), atol=TOLERANCE)


@pytest.mark.parametrize("end", [2, 57])
def test_clip(tmp_path, end):
    """`eos_token_id` 2 is that of the first configurations: the largest id ends a text."""
    config = transformers.CLIPConfig(
        text_config=dict(
            vocab_size=60, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40,
            max_position_embeddings=20, eos_token_id=end, bos_token_id=56, hidden_act="quick_gelu",
        ),
        vision_config=dict(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40, image_size=16,
            patch_size=8, hidden_act="gelu",
        ),
        projection_dim=18, attn_implementation="eager",
    )  # fmt: skip
    model = shaken(transformers.CLIPModel(config))
    model.save_pretrained(tmp_path)
    inputs = texts(57, [17, 2, 9], end=59 if end == 2 else end)
    out, reference = ours(tmp_path, inputs, modality="text"), theirs(model.text_model, inputs)
    expect_states(out, reference)
    projected = model.text_projection(reference.pooler_output).detach().numpy()
    np.testing.assert_allclose(out.embedding, projected, rtol=TOLERANCE, atol=TOLERANCE)
    out, reference = ours(tmp_path, pixels(16), modality="image"), theirs(model.vision_model, pixels(16))
    expect_states(out, reference)
    projected = model.visual_projection(reference.pooler_output).detach().numpy()
    np.testing.assert_allclose(out.embedding, projected, rtol=TOLERANCE, atol=TOLERANCE)


def test_minilm_sentences(minilm_folder):
    sentences = ["A red shoe.", "Un café très chaud", "", "LATIN SMALL LETTER A WITH ACUTE", "laptop stand " * 30]
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm_folder)
    model = transformers.AutoModel.from_pretrained(minilm_folder).eval()
    batch = tokenizer(sentences, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    weights = batch["attention_mask"][..., None].float()
    expected = ((states * weights).sum(1) / weights.sum(1)).numpy()
    loaded = load_encoder(minilm_folder)
    got = np.asarray(
        jax.jit(loaded.encoder.module.apply)(loaded.params, loaded.text_inputs(sentences, max_length=128)).embedding
    )
    cosine = (got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() >= 0.9999
