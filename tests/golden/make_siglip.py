"""Makes the golden file of SigLIP with the original PyTorch model: python tests/golden/make_siglip.py

Texts are padded to their full length without a mask, as the model was trained.
"""

import torch
import transformers
from make_encoders import randomize, store, texts

LENGTHS = [9, 1, 14]
PAD = 0


@torch.no_grad()
def make_siglip() -> None:
    """Both towers of a SigLIP model; 17 pixels hold three patches of 5 and a rest."""
    config = transformers.SiglipConfig(
        text_config=dict(
            vocab_size=61, hidden_size=12, num_hidden_layers=3, num_attention_heads=3, intermediate_size=22,
            max_position_embeddings=15, projection_size=10, pad_token_id=PAD, bos_token_id=1, eos_token_id=2,
        ),
        vision_config=dict(
            hidden_size=20, num_hidden_layers=2, num_attention_heads=5, intermediate_size=18,
            image_size=17, patch_size=5,
        ),
    )  # fmt: skip
    model = randomize(transformers.SiglipModel(config), 11)
    ids, mask = texts(61, LENGTHS, 12)
    padded = torch.full((len(LENGTHS), 15), PAD)
    padded[:, : ids.shape[1]] = torch.where(mask, ids, PAD)
    pixels = torch.randn(2, 3, 17, 17, generator=torch.Generator().manual_seed(13))
    text = model.text_model(input_ids=padded, output_hidden_states=True)
    image = model.vision_model(pixel_values=pixels, output_hidden_states=True)
    store(
        "siglip", model, ids=ids.int(), mask=mask, pixels=pixels.permute(0, 2, 3, 1),
        text_hidden_states=torch.stack(text.hidden_states), text_last_hidden_state=text.last_hidden_state,
        text_pooled=text.pooler_output, image_hidden_states=torch.stack(image.hidden_states),
        image_last_hidden_state=image.last_hidden_state, image_pooled=image.pooler_output,
    )  # fmt: skip


if __name__ == "__main__":
    make_siglip()
