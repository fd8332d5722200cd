"""Plain PyTorch statements of the adaptation baselines that IISAN is compared with.

Written from their definitions for `efficiency_iisan.py`: full fine-tuning, Houlsby adapters, LoRA on query and value
(rank 8, with their biases), bias tuning. Both towers map their first token through `GELU(linear)` to the item width;
one linear map fuses the two. LoRA keeps the pretrained kernels, which the released baseline discards. Module names are
those of transformers 5.
"""

import torch
from torch import nn

from experiments.peers.iisan_torch import SideBlock, UserEncoder, debiased_loss

METHODS = ("full", "houlsby", "lora", "bitfit")
_HOULSBY = {"text": ("attention.output.dense", ".output.dense"), "image": ("attention.o_proj", "mlp.fc2")}
_LORA = {"text": ("self.query", "self.value"), "image": ("q_proj", "v_proj")}


class LowRankLinear(nn.Module):
    """A frozen linear layer plus `(x A) B · scale`; its bias trains, as in the released baseline."""

    def __init__(self, base: nn.Linear, rank: int = 8, scale: float = 1 / 8):
        super().__init__()
        self.base, self.scale = base, scale
        self.a = nn.Parameter(torch.empty(base.in_features, rank).uniform_(-1, 1) * base.in_features**-0.5)
        self.b = nn.Parameter(torch.zeros(rank, base.out_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.scale * ((x @ self.a.to(x.dtype)) @ self.b.to(x.dtype))


class Baseline(nn.Module):
    """Both towers adapted by one of `METHODS`, user encoder and loss; every slot is encoded, as published.

    Args:
        text, image: Hugging Face `BertModel` and `ViTModel`.
        method: one of `METHODS`.
        width, embedding: tower width and item width.
    """

    def __init__(self, text: nn.Module, image: nn.Module, method: str, width: int = 768, embedding: int = 64):
        super().__init__()
        self.text, self.image = _adapted(text, "text", method), _adapted(image, "image", method)
        self.heads = nn.ModuleDict({name: nn.Linear(width, embedding) for name in ("image", "text")})
        self.fusion = nn.Linear(2 * embedding, embedding)
        self.users = UserEncoder(embedding)

    def forward(
        self,
        windows: torch.Tensor,
        pixels: torch.Tensor,
        ids: torch.Tensor,
        mask: torch.Tensor,
        log_popularity: torch.Tensor,
    ) -> torch.Tensor:
        """Inputs as in `iisan_torch.UncachedIisan`."""
        image = self.image(pixel_values=pixels.flatten(0, 1)).last_hidden_state[:, 0]
        text = self.text(input_ids=ids.flatten(0, 1), attention_mask=mask.flatten(0, 1)).last_hidden_state[:, 0]
        vectors = [
            nn.functional.gelu(self.heads[name](state.float())) for name, state in (("image", image), ("text", text))
        ]
        return debiased_loss(self.users, self.fusion(torch.cat(vectors, -1)), windows, log_popularity)


def _adapted(encoder: nn.Module, modality: str, method: str) -> nn.Module:
    """The encoder with what the method trains set to train."""
    encoder.requires_grad_(method == "full")
    if method == "bitfit":
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(name.endswith("bias"))
    wanted = {"houlsby": _HOULSBY, "lora": _LORA}.get(method, {}).get(modality, ())
    for name, layer in list(encoder.named_modules()):
        if not isinstance(layer, nn.Linear) or not name.endswith(wanted or ("\0",)):
            continue
        parent, _, child = name.rpartition(".")
        if method == "lora":
            new: nn.Module = LowRankLinear(layer)
            layer.bias.requires_grad_(True)
        else:
            new = nn.Sequential(layer, _InDtype(SideBlock(layer.out_features, 64)))
        setattr(encoder.get_submodule(parent), child, new)
    return encoder


class _InDtype(nn.Module):
    """Runs a float32 block in the dtype of what it is given."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype == torch.bfloat16):
            return self.block(x).to(x.dtype)
