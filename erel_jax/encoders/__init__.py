"""Foundation-model encoders as pure functions."""

from erel_jax.encoders.bert import BertConfig, bert
from erel_jax.encoders.clip import ClipTextConfig, ClipVisionConfig, clip_text, clip_vision
from erel_jax.encoders.encoded import Encoded, Encoder
from erel_jax.encoders.registry import ENCODERS, EncoderFamily
from erel_jax.encoders.vit import VitConfig, vit

__all__ = [
    "ENCODERS",
    "BertConfig",
    "ClipTextConfig",
    "ClipVisionConfig",
    "Encoded",
    "Encoder",
    "EncoderFamily",
    "VitConfig",
    "bert",
    "clip_text",
    "clip_vision",
    "vit",
]
