"""Makes the golden file of feature fusion with the original PyTorch encoder: python tests/golden/make_fusion.py

T5's encoder on given token states, masked, then the mean over real tokens; 40 tokens reach the shared buckets.
"""

import torch
import transformers
from make_encoders import randomize, store

LENGTHS = [40, 23, 1]


@torch.no_grad()
def make_fusion() -> None:
    """Two layers of three heads whose joint width is not the model's."""
    config = transformers.T5Config(
        vocab_size=4, d_model=14, d_kv=6, num_heads=3, d_ff=20, num_layers=2, dropout_rate=0.0,
        relative_attention_num_buckets=16, relative_attention_max_distance=24, feed_forward_proj="relu",
    )  # fmt: skip
    model = randomize(transformers.T5EncoderModel(config), 21)
    tokens = torch.randn(len(LENGTHS), max(LENGTHS), 14, generator=torch.Generator().manual_seed(22))
    mask = torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]
    states = model(inputs_embeds=tokens, attention_mask=mask.int()).last_hidden_state
    mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    store("fusion", model, tokens=tokens, mask=mask, mean=mean)


if __name__ == "__main__":
    make_fusion()
