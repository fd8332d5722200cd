"""Makes the golden files of the text families with the original PyTorch models.

    python tests/golden/make_text.py [NAME ...]

Like make_encoders.py, whose BERT is not repeated here: tiny models of awkward sizes with random weights, their inputs
and all outputs. One row is as long as the batch, the others are padded.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
import transformers
from make_encoders import randomize, store, texts

LENGTHS = [11, 1, 7, 4]


def make_roberta() -> Any:
    """RoBERTa whose padding id is neither 0 nor 1, so that positions start at 4."""
    return transformers.RobertaModel(
        transformers.RobertaConfig(
            vocab_size=67, hidden_size=20, num_hidden_layers=3, num_attention_heads=5, intermediate_size=28,
            max_position_embeddings=19, type_vocab_size=2, pad_token_id=3,
        )
    )  # fmt: skip


def make_xlm_roberta() -> Any:
    """XLM-R with the padding id and the one type of the released models."""
    return transformers.XLMRobertaModel(
        transformers.XLMRobertaConfig(
            vocab_size=67, hidden_size=18, num_hidden_layers=2, num_attention_heads=3, intermediate_size=22,
            max_position_embeddings=15, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5,
        )
    )  # fmt: skip


def make_distilbert() -> Any:
    """DistilBERT with odd widths."""
    return transformers.DistilBertModel(
        transformers.DistilBertConfig(
            vocab_size=67, dim=20, n_layers=3, n_heads=5, hidden_dim=28, max_position_embeddings=19,
        )
    )  # fmt: skip


def make_llama() -> Any:
    """LLaMA with grouped heads, a head width of its own and rotary scaling in which every kind of pair occurs."""
    return transformers.LlamaModel(
        transformers.LlamaConfig(
            vocab_size=67, hidden_size=20, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            head_dim=10, intermediate_size=28, max_position_embeddings=19, rms_norm_eps=1e-5,
            rope_parameters=dict(
                rope_type="llama3", rope_theta=50.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=3.0,
                original_max_position_embeddings=12,
            ),
        )
    )  # fmt: skip


def make_mistral() -> Any:
    """Mistral whose window is shorter than the texts, with one key and value head."""
    return transformers.MistralModel(
        transformers.MistralConfig(
            vocab_size=67, hidden_size=18, num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=1,
            head_dim=6, intermediate_size=26, max_position_embeddings=19, sliding_window=4,
        )
    )  # fmt: skip


def make_qwen2() -> Any:
    """Qwen 2 with a window in its upper layers."""
    return transformers.Qwen2Model(
        transformers.Qwen2Config(
            vocab_size=67, hidden_size=24, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=26, max_position_embeddings=19, use_sliding_window=True, sliding_window=3,
            max_window_layers=1, rope_parameters=dict(rope_type="linear", rope_theta=100.0, factor=2.0),
        )
    )  # fmt: skip


def make_qwen3() -> Any:
    """Qwen 3 whose heads are together wider than the model, read in both directions."""
    config = transformers.Qwen3Config(
        vocab_size=67, hidden_size=20, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
        head_dim=10, intermediate_size=28, max_position_embeddings=19,
    )  # fmt: skip
    config.is_causal = False
    return transformers.Qwen3Model(config)


def make_gemma2() -> Any:
    """Gemma 2 with alternating windows and a cap that bends the scores."""
    return transformers.Gemma2Model(
        transformers.Gemma2Config(
            vocab_size=67, hidden_size=20, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            head_dim=6, intermediate_size=26, max_position_embeddings=19, sliding_window=3, query_pre_attn_scalar=5,
            attn_logit_softcapping=2.0,
        )
    )  # fmt: skip


def make_gemma3() -> Any:
    """Gemma 3 with windowed layers whose positions turn faster than those of its one full layer."""
    return transformers.Gemma3TextModel(
        transformers.Gemma3TextConfig(
            vocab_size=67, hidden_size=20, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=1,
            head_dim=6, intermediate_size=26, max_position_embeddings=19, sliding_window=4, query_pre_attn_scalar=9,
            layer_types=["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"],
            rope_parameters=dict(
                full_attention=dict(rope_type="linear", rope_theta=500.0, factor=4.0),
                sliding_attention=dict(rope_type="default", rope_theta=20.0),
            ),
        )
    )  # fmt: skip


def make_gpt2() -> Any:
    """GPT-2 with a feed-forward width of its own."""
    return transformers.GPT2Model(
        transformers.GPT2Config(
            vocab_size=67, n_positions=19, n_embd=20, n_layer=3, n_head=5, n_inner=28, bos_token_id=1, eos_token_id=1,
        )
    )  # fmt: skip


def make_modernbert() -> Any:
    """ModernBERT whose window is shorter than the texts, with a full layer between two windowed ones."""
    rotary: Any = {
        kind: {"rope_type": "default", "rope_theta": base}
        for kind, base in (("full_attention", 500.0), ("sliding_attention", 20.0))
    }
    return transformers.ModernBertModel(
        transformers.ModernBertConfig(
            vocab_size=67, hidden_size=18, num_hidden_layers=4, num_attention_heads=3, intermediate_size=22,
            max_position_embeddings=19, local_attention=6, pad_token_id=3, bos_token_id=1, eos_token_id=2,
            cls_token_id=1, sep_token_id=2,
            layer_types=["full_attention", "sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters=rotary,
        )
    )  # fmt: skip


MODELS: dict[str, Callable[[], Any]] = {
    "roberta": make_roberta,
    "xlm_roberta": make_xlm_roberta,
    "distilbert": make_distilbert,
    "llama": make_llama,
    "mistral": make_mistral,
    "qwen2": make_qwen2,
    "qwen3": make_qwen3,
    "gemma2": make_gemma2,
    "gemma3": make_gemma3,
    "gpt2": make_gpt2,
    "modernbert": make_modernbert,
}


@torch.no_grad()
def make(name: str, seed: int) -> None:
    """Writes the golden file called `name`."""
    model = randomize(MODELS[name](), seed)
    ids, mask = texts(model.config.vocab_size, LENGTHS, seed + 1)
    padding = model.config.pad_token_id or 0
    ids[ids == padding] = padding + 1
    ids[~mask] = padding
    out = model(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True)
    arrays = {"hidden_states": torch.stack(out.hidden_states), "last_hidden_state": out.last_hidden_state}
    if out.get("pooler_output") is not None:
        arrays["pooler_output"] = out.pooler_output
    store(name, model, ids=ids.int(), mask=mask, **arrays)


if __name__ == "__main__":
    for chosen in sys.argv[1:] or MODELS:
        make(chosen, 20 + 10 * list(MODELS).index(chosen))
