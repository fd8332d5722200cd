"""Live comparison of the text families with PyTorch, in both directions; skipped where torch is missing."""

import jax
import numpy as np
import pytest

from erel_jax.interop.configurations import family_of
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


def texts(vocabulary, lengths, padding):
    """Random ids, none of them the padding id except in padded places."""
    draw = np.random.default_rng(3)
    ids = draw.integers(padding + 1, vocabulary, (len(lengths), max(lengths))).astype(np.int32)
    mask = np.arange(max(lengths))[None] < np.array(lengths)[:, None]
    ids[~mask] = padding
    return {"ids": ids, "mask": mask}


def expect_equal_states(folder, model, inputs, **options):
    """Every state and the last tokens, at real tokens; a padded place may hold anything."""
    loaded = load_encoder(folder, **options)

    def encode(params, batch):
        return loaded.encoder.module.apply(params, batch, tokens=True, hidden_states=True)

    with jax.default_matmul_precision("highest"):
        out = jax.jit(encode)(loaded.params, inputs)
    ids, mask = torch.tensor(inputs["ids"]).long(), torch.tensor(inputs["mask"]).long()
    with torch.no_grad():
        reference = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    real = inputs["mask"]
    expected = np.stack([state.numpy() for state in reference.hidden_states])
    np.testing.assert_allclose(
        np.asarray(out.hidden_states)[:, real], expected[:, real], rtol=TOLERANCE, atol=TOLERANCE
    )
    last = reference.last_hidden_state.numpy()
    np.testing.assert_allclose(np.asarray(out.tokens)[real], last[real], rtol=TOLERANCE, atol=TOLERANCE)
    return out, reference


DECODER = dict(
    hidden_size=30, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, head_dim=14,
    intermediate_size=38, max_position_embeddings=40,
)  # fmt: skip
ORIGINALS = {
    "roberta": ("Roberta", dict(
        hidden_size=36, num_hidden_layers=2, num_attention_heads=3, intermediate_size=50, max_position_embeddings=40,
        pad_token_id=1, hidden_act="relu",
    )),
    "distilbert": ("DistilBert", dict(dim=36, n_layers=2, n_heads=3, hidden_dim=50, max_position_embeddings=40)),
    "llama": ("Llama", DECODER | dict(
        rms_norm_eps=1e-5, rope_parameters=dict(rope_type="linear", rope_theta=300.0, factor=3.0),
    )),
    "tied llama": ("Llama", DECODER | dict(tie_word_embeddings=True)),
    "mistral": ("Mistral", DECODER | dict(sliding_window=5)),
    "qwen2": ("Qwen2", DECODER | dict(use_sliding_window=True, sliding_window=7, max_window_layers=1)),
    "gemma2": ("Gemma2", DECODER | dict(sliding_window=5, query_pre_attn_scalar=20)),
    "gemma3": ("Gemma3Text", DECODER | dict(sliding_window=9, use_bidirectional_attention=True, layer_types=[
        "full_attention", "sliding_attention", "sliding_attention",
    ])),
    "gpt2": ("GPT2", dict(n_embd=30, n_layer=2, n_head=5, n_positions=40, bos_token_id=1, eos_token_id=1)),
    "modernbert": ("ModernBert", dict(
        hidden_size=36, num_hidden_layers=5, num_attention_heads=3, intermediate_size=50, max_position_embeddings=40,
        local_attention=10, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
    )),
    "qwen3": ("Qwen3", DECODER | dict(use_sliding_window=True, sliding_window=7, max_window_layers=2)),
}  # fmt: skip
TASKS = {
    "Roberta": "RobertaForMaskedLM",
    "DistilBert": "DistilBertForMaskedLM",
    "ModernBert": "ModernBertForMaskedLM",
    "Gemma3Text": "Gemma3ForCausalLM",
    "GPT2": "GPT2LMHeadModel",
}


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_task_model_loads_and_its_head_is_ignored(tmp_path, name):
    prefix, settings = ORIGINALS[name]
    config = getattr(transformers, f"{prefix}Config")(vocab_size=101, attn_implementation="eager", **settings)
    model = shaken(getattr(transformers, TASKS.get(prefix, f"{prefix}ForCausalLM"))(config))
    model.save_pretrained(tmp_path)
    body = getattr(model, model.base_model_prefix)
    expect_equal_states(tmp_path, body, texts(101, [33, 1, 12], config.pad_token_id or 0))


ROTARY = {
    "dynamic": dict(rope_type="dynamic", factor=4.0),
    "yarn": dict(rope_type="yarn", factor=4.0, beta_fast=3.0, original_max_position_embeddings=10),
    "yarn of deepseek": dict(
        rope_type="yarn", factor=4.0, mscale=2.0, mscale_all_dim=0.5, original_max_position_embeddings=10,
        truncate=False, beta_fast=4,
    ),
    "longrope": dict(
        rope_type="longrope", short_factor=[1.0, 1.1, 1.5, 2.0, 2.5, 3.0, 3.5],
        long_factor=[1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 9.0], original_max_position_embeddings=20,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [name if name in ("yarn", "longrope") else pytest.param(name, marks=pytest.mark.slow) for name in ROTARY],
)
@pytest.mark.parametrize("prefix", ["Llama", pytest.param("Qwen3", marks=pytest.mark.slow)])
def test_longer_contexts(tmp_path, name, prefix):
    """A text on either side of the original context; what is written again is read as the same."""
    rotary = dict(rope_theta=300.0, **ROTARY[name])
    config = getattr(transformers, f"{prefix}Config")(
        vocab_size=101, attn_implementation="eager", rope_parameters=rotary, **DECODER
    )
    model = shaken(getattr(transformers, f"{prefix}Model")(config))
    model.save_pretrained(tmp_path)
    for lengths in ([33, 1, 12], [9, 4]):
        expect_equal_states(tmp_path, model, texts(101, lengths, 0))
    read = load_encoder(tmp_path).encoder.config
    assert family_of(read).read(family_of(read).write(read), "mean", []) == read
