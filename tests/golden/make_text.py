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


MODELS: dict[str, Callable[[], Any]] = {
    "roberta": make_roberta,
    "xlm_roberta": make_xlm_roberta,
    "distilbert": make_distilbert,
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
