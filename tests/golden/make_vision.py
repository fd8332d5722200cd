"""Makes the golden files of vision families with the original PyTorch models: python tests/golden/make_vision.py"""

from typing import Any

import torch
import transformers
from make_encoders import randomize, rename_vit, store


def pixels(rows: int, height: int, width: int, seed: int) -> torch.Tensor:
    """Random pixels in the original's layout."""
    return torch.randn(rows, 3, height, width, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def make_dinov2() -> None:
    """DINOv2 at the size of its positions and at another one, which is not square."""
    config = transformers.Dinov2Config(
        hidden_size=18, num_hidden_layers=3, num_attention_heads=3, mlp_ratio=2, image_size=15, patch_size=5,
    )  # fmt: skip
    store_at_two_sizes("dinov2", randomize(transformers.Dinov2Model(config), 21), (35, 20))


@torch.no_grad()
def make_dinov2_relatives() -> None:
    """DINOv2 with gates (24 of 36 channels, after rounding), and with three registers on a smaller grid."""
    shape: dict[str, Any] = dict(hidden_size=18, num_attention_heads=3, mlp_ratio=2, patch_size=5)
    gated = transformers.Dinov2Config(**shape, num_hidden_layers=2, image_size=15, use_swiglu_ffn=True)
    store_at_two_sizes("dinov2_gated", randomize(transformers.Dinov2Model(gated), 31), (10, 25))
    config = transformers.Dinov2WithRegistersConfig(
        **shape, num_hidden_layers=2, image_size=35, num_register_tokens=3
    )  # fmt: skip
    store_at_two_sizes("dinov2_registers", randomize(transformers.Dinov2WithRegistersModel(config), 34), (15, 40))


def store_at_two_sizes(name: str, model: Any, other_size: tuple[int, int]) -> None:
    """Outputs for images of the size of the positions and of another."""
    model, size = rename_vit(model), model.config.image_size
    trained, other = pixels(2, size, size, 22), pixels(2, *other_size, 23)
    out = model(pixel_values=trained, output_hidden_states=True)
    resized = model(pixel_values=other, output_hidden_states=True)
    store(
        name, model, pixels=trained.permute(0, 2, 3, 1), hidden_states=torch.stack(out.hidden_states),
        last_hidden_state=out.last_hidden_state, pooled=out.pooler_output, other_pixels=other.permute(0, 2, 3, 1),
        other_hidden_states=torch.stack(resized.hidden_states), other_pooled=resized.pooler_output,
    )  # fmt: skip


@torch.no_grad()
def make_deit() -> None:
    """DeiT with both of its first tokens."""
    config = transformers.DeiTConfig(
        hidden_size=18, num_hidden_layers=3, num_attention_heads=3, intermediate_size=26, image_size=15, patch_size=5,
    )  # fmt: skip
    model = rename_vit(randomize(transformers.DeiTModel(config, add_pooling_layer=False), 24))
    images = pixels(2, 15, 15, 25)
    out = model(pixel_values=images, output_hidden_states=True)
    store(
        "deit", model, pixels=images.permute(0, 2, 3, 1), hidden_states=torch.stack(out.hidden_states),
        last_hidden_state=out.last_hidden_state,
    )  # fmt: skip


@torch.no_grad()
def make_vit_resized() -> None:
    """ViT with positions for 3 × 3 patches on images of 5 × 5."""
    config = transformers.ViTConfig(
        hidden_size=18, num_hidden_layers=2, num_attention_heads=3, intermediate_size=26, image_size=15, patch_size=5,
    )  # fmt: skip
    model = rename_vit(randomize(transformers.ViTModel(config, add_pooling_layer=False), 26))
    images = pixels(2, 25, 25, 27)
    out = model(pixel_values=images, interpolate_pos_encoding=True, output_hidden_states=True)
    store(
        "vit_resized", model, pixels=images.permute(0, 2, 3, 1), hidden_states=torch.stack(out.hidden_states),
        last_hidden_state=out.last_hidden_state,
    )  # fmt: skip


@torch.no_grad()
def make_beit() -> None:
    """BEiT as fine-tuned (a table per layer, mean) and as pre-trained (one table, class token)."""
    for name, shared, seed in (("beit", False, 41), ("beit_shared", True, 43)):
        config = transformers.BeitConfig(
            hidden_size=18, num_hidden_layers=2, num_attention_heads=3, intermediate_size=26, image_size=15,
            patch_size=5, use_relative_position_bias=not shared, use_shared_relative_position_bias=shared,
            use_mean_pooling=not shared, use_mask_token=shared,
        )  # fmt: skip
        model = rename_vit(randomize(transformers.BeitModel(config), seed))
        images = pixels(2, 15, 15, seed + 1)
        out = model(pixel_values=images, output_hidden_states=True)
        store(
            name, model, pixels=images.permute(0, 2, 3, 1), hidden_states=torch.stack(out.hidden_states),
            last_hidden_state=out.last_hidden_state, pooled=out.pooler_output,
        )  # fmt: skip


@torch.no_grad()
def make_beit_resized() -> None:
    """BEiT on more patches than its tables in each layer are for, and on fewer than its one table is for."""
    for name, shared, trained, size, seed in (("beit_larger", False, 15, 25, 47), ("beit_smaller", True, 25, 15, 49)):
        config = transformers.BeitConfig(
            hidden_size=18, num_hidden_layers=2, num_attention_heads=3, intermediate_size=26, image_size=trained,
            patch_size=5, use_relative_position_bias=not shared, use_shared_relative_position_bias=shared,
        )  # fmt: skip
        model = rename_vit(randomize(transformers.BeitModel(config), seed))
        images = pixels(2, size, size, seed + 1)
        out = model(pixel_values=images, output_hidden_states=True)
        store(
            name, model, pixels=images.permute(0, 2, 3, 1), hidden_states=torch.stack(out.hidden_states),
            last_hidden_state=out.last_hidden_state, pooled=out.pooler_output,
        )  # fmt: skip


@torch.no_grad()
def make_resized() -> None:
    """Encoders at other sizes than those of their positions, larger and smaller; 22 pixels hold four patches of 5."""
    shape: dict[str, Any] = dict(hidden_size=18, num_hidden_layers=2, num_attention_heads=3, intermediate_size=26)
    for name, kind, size, trained, patch in (
        ("deit_resized", "DeiT", 25, 15, 5),
        ("clip_resized", "CLIPVision", 15, 25, 5),
        ("siglip_resized", "SiglipVision", 22, 17, 5),
    ):
        config = getattr(transformers, f"{kind}Config")(**shape, image_size=trained, patch_size=patch)
        options = {"add_pooling_layer": False} if kind == "DeiT" else {}
        model = rename_vit(randomize(getattr(transformers, f"{kind}Model")(config, **options), 50 + size))
        images = pixels(2, size, size, 60 + size)
        out = model(pixel_values=images, interpolate_pos_encoding=True, output_hidden_states=True)
        pooled = out.last_hidden_state[:, 0] if kind == "DeiT" else out.pooler_output
        store(
            name, model, pixels=images.permute(0, 2, 3, 1), hidden_states=torch.stack(out.hidden_states),
            last_hidden_state=out.last_hidden_state, pooled=pooled,
        )  # fmt: skip


if __name__ == "__main__":
    make_resized()
    make_beit_resized()
    make_beit()
    make_dinov2()
    make_dinov2_relatives()
    make_deit()
    make_vit_resized()
