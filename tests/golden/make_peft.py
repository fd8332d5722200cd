"""Makes the golden file of the adapters with Hugging Face peft on a tiny BERT.

    python tests/golden/make_peft.py

The file holds the base model, one batch, and per method the adapter folder's contents (random values), the last hidden
state, and the gradient of `sum(last_hidden_state * cotangent)` by every trained tensor.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from safetensors.numpy import load_file

HERE = Path(__file__).resolve().parent
QUERY_VALUE = ["query", "value"]
FEED_FORWARD = r".*layer\.\d+\.output\.dense"
METHODS: dict[str, Any] = {
    "lora": lambda: peft.LoraConfig(r=3, lora_alpha=5, target_modules=QUERY_VALUE),
    "rslora": lambda: peft.LoraConfig(
        r=4, lora_alpha=5, use_rslora=True, target_modules=r".*\.(query|intermediate\.dense)"
    ),
    "dora": lambda: peft.LoraConfig(r=3, lora_alpha=6, use_dora=True, target_modules=QUERY_VALUE),
    "ia3": lambda: peft.IA3Config(
        target_modules=r".*\.(key|value|layer\.\d+\.output\.dense)", feedforward_modules=FEED_FORWARD
    ),
    "vera": lambda: peft.VeraConfig(r=6, target_modules=QUERY_VALUE),
    "layer_norm": lambda: peft.LNTuningConfig(target_modules=["LayerNorm"]),
    "prompt": lambda: peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=2),
    "prefix": lambda: peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=3),
}


def base() -> Any:
    """The base model, always with the same weights."""
    config = transformers.BertConfig(
        vocab_size=41, hidden_size=20, num_hidden_layers=2, num_attention_heads=2, intermediate_size=28,
        max_position_embeddings=12,
    )  # fmt: skip
    config._attn_implementation = "eager"
    return randomized(transformers.BertModel(config, add_pooling_layer=False), 1)


def randomized(model: Any, seed: int) -> Any:
    """Random values in everything that trains."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                noise = 0.3 * torch.randn(weight.shape, generator=generator)
                is_scale = "ia3_l" in name or "magnitude" in name or (weight.ndim == 1 and name.endswith("weight"))
                weight.copy_((1.0 if is_scale else 0.0) + noise)
    return model.eval()


def stored_name(name: str) -> str:
    """The name of a parameter in an adapter file."""
    if name.startswith("prompt_encoder."):
        return "prompt_embeddings"
    return name.replace(".default.weight", ".default").replace(".default", "") + (
        ".weight" if ".default.weight" in name and "magnitude" not in name else ""
    )


def main() -> None:
    """Writes peft.npz."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(1, 41, (3, 9), generator=generator)
    mask = torch.arange(9)[None] < torch.tensor([9, 4, 7])[:, None]
    cotangent = torch.randn((3, 9, 20), generator=generator)
    model = base()
    contents: dict[str, Any] = {f"weights/{k}": v.numpy() for k, v in model.state_dict().items()}
    contents |= {"config": json.dumps({**model.config.to_dict(), "architectures": ["BertModel"]}, default=str)}
    contents |= {"ids": ids.int().numpy(), "mask": mask.numpy(), "cotangent": cotangent.numpy()}
    for seed, (name, config) in enumerate(METHODS.items(), start=3):
        adapted = randomized(peft.get_peft_model(base(), config()), seed)
        # A soft prompt's slots come first.
        output = adapted(input_ids=ids, attention_mask=mask.long()).last_hidden_state[:, -9:]
        (output * cotangent).sum().backward()
        with tempfile.TemporaryDirectory() as folder:
            adapted.save_pretrained(folder)
            contents[f"{name}/config"] = (Path(folder) / "adapter_config.json").read_text()
            tensors = load_file(Path(folder) / "adapter_model.safetensors")
        contents |= {f"{name}/tensors/{key}": value for key, value in tensors.items()}
        contents[f"{name}/output"] = output.detach().numpy()
        for key, weight in adapted.named_parameters():
            if weight.requires_grad:
                assert stored_name(key) in tensors, key
                contents[f"{name}/gradients/{stored_name(key)}"] = weight.grad.numpy()
    path = HERE / "peft.npz"
    np.savez_compressed(path, **contents)
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
