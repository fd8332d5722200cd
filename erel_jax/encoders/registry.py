"""Every encoder family under the name that Hugging Face configurations use (`model_type`).

The contract tests run over this table, so a new family is tested as soon as it is listed here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from erel_jax.encoders.ast import AstConfig, ast
from erel_jax.encoders.beit import BeitConfig, beit
from erel_jax.encoders.bert import BertConfig, bert
from erel_jax.encoders.clip import ClipTextConfig, ClipVisionConfig, clip_text, clip_vision
from erel_jax.encoders.decoder import decoder
from erel_jax.encoders.deit import DeitConfig, deit
from erel_jax.encoders.dinov2 import Dinov2Config, Dinov2RegistersConfig, dinov2
from erel_jax.encoders.distilbert import DistilBertConfig, distilbert
from erel_jax.encoders.encoded import Encoder
from erel_jax.encoders.gemma import Gemma2Config, Gemma3Config
from erel_jax.encoders.gpt2 import Gpt2Config, gpt2
from erel_jax.encoders.llama import LlamaConfig
from erel_jax.encoders.mistral import MistralConfig
from erel_jax.encoders.modernbert import ModernBertConfig, modernbert
from erel_jax.encoders.qwen import Qwen2Config, Qwen3Config
from erel_jax.encoders.roberta import RobertaConfig, XlmRobertaConfig, roberta
from erel_jax.encoders.siglip import SiglipTextConfig, SiglipVisionConfig, siglip_text, siglip_vision
from erel_jax.encoders.videomae import VideoMaeConfig, videomae
from erel_jax.encoders.vit import VitConfig, vit
from erel_jax.encoders.whisper import WhisperConfig, whisper


@dataclass(frozen=True, kw_only=True)
class EncoderFamily:
    """One kind of encoder.

    Attributes:
        config: the family's config class, with a preset `tiny()` for tests and defaults of the base size.
        build: `build(config, precision=FLOAT32, *, remat=False) -> Encoder`.
    """

    config: Any
    build: Callable[..., Encoder]


ENCODERS: dict[str, EncoderFamily] = {
    "bert": EncoderFamily(config=BertConfig, build=bert),
    "roberta": EncoderFamily(config=RobertaConfig, build=roberta),
    "xlm-roberta": EncoderFamily(config=XlmRobertaConfig, build=roberta),
    "distilbert": EncoderFamily(config=DistilBertConfig, build=distilbert),
    "modernbert": EncoderFamily(config=ModernBertConfig, build=modernbert),
    "llama": EncoderFamily(config=LlamaConfig, build=decoder),
    "mistral": EncoderFamily(config=MistralConfig, build=decoder),
    "qwen2": EncoderFamily(config=Qwen2Config, build=decoder),
    "qwen3": EncoderFamily(config=Qwen3Config, build=decoder),
    "gemma2": EncoderFamily(config=Gemma2Config, build=decoder),
    "gemma3_text": EncoderFamily(config=Gemma3Config, build=decoder),
    "gpt2": EncoderFamily(config=Gpt2Config, build=gpt2),
    "vit": EncoderFamily(config=VitConfig, build=vit),
    "clip_text_model": EncoderFamily(config=ClipTextConfig, build=clip_text),
    "clip_vision_model": EncoderFamily(config=ClipVisionConfig, build=clip_vision),
    "siglip_text_model": EncoderFamily(config=SiglipTextConfig, build=siglip_text),
    "siglip_vision_model": EncoderFamily(config=SiglipVisionConfig, build=siglip_vision),
    "dinov2": EncoderFamily(config=Dinov2Config, build=dinov2),
    "dinov2_with_registers": EncoderFamily(config=Dinov2RegistersConfig, build=dinov2),
    "deit": EncoderFamily(config=DeitConfig, build=deit),
    "videomae": EncoderFamily(config=VideoMaeConfig, build=videomae),
    "audio-spectrogram-transformer": EncoderFamily(config=AstConfig, build=ast),
    "whisper": EncoderFamily(config=WhisperConfig, build=whisper),
    "beit": EncoderFamily(config=BeitConfig, build=beit),
}
