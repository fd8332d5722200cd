"""Makes the golden files of the encoders with the original PyTorch models.

    python tests/golden/make_encoders.py [--minilm FOLDER]

Tiny models of awkward sizes get random weights large enough that every path matters; each file holds the
configuration, the weights under their original names, inputs and all outputs, so the tests need no torch. With
`--minilm` it also stores the sentence embeddings of the real all-MiniLM-L6-v2 weights.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

HERE = Path(__file__).resolve().parent
SENTENCES = [
    "A red shoe with white laces.",
    "The quick brown fox jumps over the lazy dog",
    "",
    "naïve café — Ωmega, 東京 and 🙂",
    "GREEK SMALL LETTER ALPHA WITH TONOS",
    "replacement filament for 3D printers, PLA, 1.75 mm, 1 kg spool, made in the EU",
    "How do I return an item that I bought by mistake?",
    "word " * 200,
]


def randomize(model: Any, seed: int) -> Any:
    """Weights of a size at which activations, norms and attention are far from their linear range."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            is_scale = weight.ndim == 1 and name.endswith("weight")
            weight.copy_(1.0 + 0.2 * noise if is_scale else 0.3 * noise)
    model.set_attn_implementation("eager")
    return model.eval()


def store(name: str, model: Any, **arrays: Any) -> None:
    """Writes one golden file."""
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    for key in ("text_config", "vision_config"):
        if key in config:
            config[key] = dict(config[key])
    weights: dict[str, Any] = {f"weights/{key}": value.numpy() for key, value in model.state_dict().items()}
    plain = {key: value.numpy() if isinstance(value, torch.Tensor) else value for key, value in arrays.items()}
    path = HERE / f"{name}.npz"
    contents: dict[str, Any] = {"config": json.dumps(config, default=str), **weights, **plain}
    np.savez_compressed(path, **contents)
    print(f"{path.name}: {path.stat().st_size} bytes")


def texts(vocabulary: int, lengths: list[int], seed: int, end: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded random ids and their mask."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    ids = torch.randint(1, vocabulary - 2, (len(lengths), longest), generator=generator)
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    for row, length in enumerate(lengths):
        if end is not None:
            ids[row, length - 1 :] = end
    return ids, mask


@torch.no_grad()
def make_bert() -> None:
    """BERT with three segment types and odd widths."""
    config = transformers.BertConfig(
        vocab_size=67, hidden_size=20, num_hidden_layers=3, num_attention_heads=5, intermediate_size=28,
        max_position_embeddings=19, type_vocab_size=3,
    )  # fmt: skip
    model = randomize(transformers.BertModel(config), 1)
    ids, mask = texts(67, [11, 1, 7, 4], 2)
    out = model(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True)
    store(
        "bert", model, ids=ids.int(), mask=mask, hidden_states=torch.stack(out.hidden_states),
        last_hidden_state=out.last_hidden_state, pooler_output=out.pooler_output,
    )  # fmt: skip


@torch.no_grad()
def make_vit() -> None:
    """ViT on 3 × 3 patches, without a pooler."""
    config = transformers.ViTConfig(
        hidden_size=18, num_hidden_layers=3, num_attention_heads=3, intermediate_size=26, image_size=15, patch_size=5,
    )  # fmt: skip
    model = randomize(transformers.ViTModel(config, add_pooling_layer=False), 3)
    pixels = torch.randn(3, 3, 15, 15, generator=torch.Generator().manual_seed(4))
    out = model(pixel_values=pixels, output_hidden_states=True)
    store(
        "vit", rename_vit(model), pixels=pixels.permute(0, 2, 3, 1), hidden_states=torch.stack(out.hidden_states),
        last_hidden_state=out.last_hidden_state,
    )  # fmt: skip


def rename_vit(model: Any) -> Any:
    """The same model whose `state_dict` has the names that checkpoints on disk have."""
    import tempfile

    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        weights = load_file(Path(folder) / "model.safetensors")
    model.state_dict = lambda: weights
    return model


@torch.no_grad()
def make_clip() -> None:
    """Both towers of a CLIP model, the end-of-text id inside the vocabulary."""
    config = transformers.CLIPConfig(
        text_config=dict(
            vocab_size=61, hidden_size=12, num_hidden_layers=3, num_attention_heads=2, intermediate_size=22,
            max_position_embeddings=15, eos_token_id=59, bos_token_id=58,
        ),
        vision_config=dict(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24,
            image_size=14, patch_size=7,
        ),
        projection_dim=10,
    )  # fmt: skip
    model = randomize(transformers.CLIPModel(config), 5)
    ids, mask = texts(60, [9, 2, 6], 6, end=59)
    pixels = torch.randn(2, 3, 14, 14, generator=torch.Generator().manual_seed(7))
    text = model.text_model(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True)
    image = model.vision_model(pixel_values=pixels, output_hidden_states=True)
    store(
        "clip", model, ids=ids.int(), mask=mask, pixels=pixels.permute(0, 2, 3, 1),
        text_hidden_states=torch.stack(text.hidden_states), text_last_hidden_state=text.last_hidden_state,
        text_projected=model.text_projection(text.pooler_output), text_pooled=text.pooler_output,
        image_hidden_states=torch.stack(image.hidden_states), image_last_hidden_state=image.last_hidden_state,
        image_projected=model.visual_projection(image.pooler_output), image_pooled=image.pooler_output,
    )  # fmt: skip


@torch.no_grad()
def make_minilm(folder: Path) -> None:
    """Mean-pooled sentence embeddings of the real weights, not normalized."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    batch = tokenizer(SENTENCES, padding=True, truncation=True, max_length=256, return_tensors="pt")
    states = model(**batch).last_hidden_state
    weights = batch["attention_mask"][..., None].float()
    pooled = (states * weights).sum(1) / weights.sum(1)
    path = HERE / "minilm.npz"
    np.savez_compressed(path, sentences=np.array(SENTENCES), embeddings=pooled.numpy())
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minilm", type=Path, help="folder of the all-MiniLM-L6-v2 weights")
    options = parser.parse_args()
    make_bert()
    make_vit()
    make_clip()
    if options.minilm:
        make_minilm(options.minilm)
