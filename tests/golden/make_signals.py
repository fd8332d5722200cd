"""Makes the golden files of video and audio families with the original models: python tests/golden/make_signals.py"""

import torch
import transformers
from make_encoders import randomize, rename_vit, store


def signal(*shape: int, seed: int) -> torch.Tensor:
    """A random input."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def make_videomae() -> None:
    """VideoMAE with a classifier's norm over the mean; three frames per tubelet."""
    config = transformers.VideoMAEConfig(
        hidden_size=18, num_hidden_layers=3, num_attention_heads=3, intermediate_size=26, image_size=10, patch_size=5,
        num_frames=9, tubelet_size=3,
    )  # fmt: skip
    model = rename_vit(randomize(transformers.VideoMAEForVideoClassification(config), 31))
    video = signal(2, 9, 3, 10, 10, seed=32)
    out = model.videomae(video, output_hidden_states=True)
    store(
        "videomae", model, video=video.permute(0, 1, 3, 4, 2), hidden_states=torch.stack(out.hidden_states),
        last_hidden_state=out.last_hidden_state, pooled=model.fc_norm(out.last_hidden_state.mean(1)),
    )  # fmt: skip


@torch.no_grad()
def make_ast() -> None:
    """AST with different strides over bins and frames, and a rest on both axes."""
    config = transformers.ASTConfig(
        hidden_size=18, num_hidden_layers=3, num_attention_heads=3, intermediate_size=26, max_length=16,
        num_mel_bins=12, patch_size=5, frequency_stride=3, time_stride=4,
    )  # fmt: skip
    model = rename_vit(randomize(transformers.ASTModel(config), 33))
    spectrogram = signal(2, 16, 12, seed=34)
    out = model(spectrogram, output_hidden_states=True)
    store(
        "ast", model, spectrogram=spectrogram, hidden_states=torch.stack(out.hidden_states),
        last_hidden_state=out.last_hidden_state, pooled=out.pooler_output,
    )  # fmt: skip


@torch.no_grad()
def make_whisper() -> None:
    """Whisper's encoder. The original lists its last state after the final norm: it is taken before that norm."""
    config = transformers.WhisperConfig(
        d_model=18, encoder_layers=3, encoder_attention_heads=3, encoder_ffn_dim=26, max_source_positions=7,
        num_mel_bins=5,
    )  # fmt: skip
    model = rename_vit(randomize(transformers.WhisperForAudioClassification(config), 35))
    features = signal(2, 5, 14, seed=36)
    before_norm = []
    model.encoder.layer_norm.register_forward_pre_hook(lambda _, inputs: before_norm.append(inputs[0]))
    out = model.encoder(features, output_hidden_states=True)
    store(
        "whisper", model, features=features.permute(0, 2, 1),
        hidden_states=torch.stack([*out.hidden_states[:-1], before_norm[0]]),
        last_hidden_state=out.last_hidden_state,
    )  # fmt: skip


if __name__ == "__main__":
    make_videomae()
    make_ast()
    make_whisper()
