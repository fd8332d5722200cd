"""Foundation-model encoders as pure functions."""

from erel_jax.encoders.ast import AstConfig, ast
from erel_jax.encoders.beit import BeitConfig, beit
from erel_jax.encoders.bert import BertConfig, bert
from erel_jax.encoders.clip import ClipTextConfig, ClipVisionConfig, clip_text, clip_vision
from erel_jax.encoders.decoder import decoder
from erel_jax.encoders.deit import DeitConfig, deit
from erel_jax.encoders.dinov2 import Dinov2Config, Dinov2RegistersConfig, dinov2
from erel_jax.encoders.distilbert import DistilBertConfig, distilbert
from erel_jax.encoders.encoded import Encoded, Encoder
from erel_jax.encoders.gemma import Gemma2Config, Gemma3Config
from erel_jax.encoders.gpt2 import Gpt2Config, gpt2
from erel_jax.encoders.llama import LlamaConfig
from erel_jax.encoders.mistral import MistralConfig
from erel_jax.encoders.modernbert import ModernBertConfig, modernbert
from erel_jax.encoders.qwen import Qwen2Config, Qwen3Config
from erel_jax.encoders.registry import ENCODERS, EncoderFamily
from erel_jax.encoders.roberta import RobertaConfig, XlmRobertaConfig, roberta
from erel_jax.encoders.siglip import SiglipTextConfig, SiglipVisionConfig, siglip_text, siglip_vision
from erel_jax.encoders.videomae import VideoMaeConfig, videomae
from erel_jax.encoders.vit import VitConfig, vit
from erel_jax.encoders.whisper import WhisperConfig, whisper

__all__ = [
    "ENCODERS",
    "AstConfig",
    "BeitConfig",
    "BertConfig",
    "ClipTextConfig",
    "ClipVisionConfig",
    "DeitConfig",
    "Dinov2Config",
    "Dinov2RegistersConfig",
    "DistilBertConfig",
    "Encoded",
    "Encoder",
    "EncoderFamily",
    "Gemma2Config",
    "Gemma3Config",
    "Gpt2Config",
    "LlamaConfig",
    "MistralConfig",
    "ModernBertConfig",
    "Qwen2Config",
    "Qwen3Config",
    "RobertaConfig",
    "SiglipTextConfig",
    "SiglipVisionConfig",
    "VideoMaeConfig",
    "VitConfig",
    "WhisperConfig",
    "XlmRobertaConfig",
    "ast",
    "beit",
    "bert",
    "clip_text",
    "clip_vision",
    "decoder",
    "deit",
    "dinov2",
    "distilbert",
    "gpt2",
    "modernbert",
    "roberta",
    "siglip_text",
    "siglip_vision",
    "videomae",
    "vit",
    "whisper",
]
