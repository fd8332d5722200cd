"""Every family of Hugging Face folders that can be read and written, one file each.

`FAMILIES` maps a `model_type` to its `Family`; `WHOLE` maps the model types of folders that hold several towers to the
function that splits their `config.json`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from erel_jax.interop.families.ast import AST
from erel_jax.interop.families.beit import BEIT
from erel_jax.interop.families.bert import BERT
from erel_jax.interop.families.clip import CLIP_TEXT, CLIP_VISION, clip_towers
from erel_jax.interop.families.deit import DEIT
from erel_jax.interop.families.dinov2 import DINOV2, DINOV2_REGISTERS
from erel_jax.interop.families.distilbert import DISTILBERT
from erel_jax.interop.families.family import Family
from erel_jax.interop.families.gemma import GEMMA2, GEMMA3
from erel_jax.interop.families.gpt2 import GPT2
from erel_jax.interop.families.llama import LLAMA
from erel_jax.interop.families.mistral import MISTRAL
from erel_jax.interop.families.modernbert import MODERNBERT
from erel_jax.interop.families.qwen import QWEN2, QWEN3
from erel_jax.interop.families.roberta import ROBERTA, XLM_ROBERTA
from erel_jax.interop.families.siglip import SIGLIP_TEXT, SIGLIP_VISION, siglip_towers
from erel_jax.interop.families.videomae import VIDEOMAE
from erel_jax.interop.families.vit import VIT
from erel_jax.interop.families.whisper import WHISPER

FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": XLM_ROBERTA,
    "distilbert": DISTILBERT,
    "modernbert": MODERNBERT,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "gpt2": GPT2,
    "vit": VIT,
    "clip_text_model": CLIP_TEXT,
    "clip_vision_model": CLIP_VISION,
    "siglip_text_model": SIGLIP_TEXT,
    "siglip_vision_model": SIGLIP_VISION,
    "dinov2": DINOV2,
    "dinov2_with_registers": DINOV2_REGISTERS,
    "deit": DEIT,
    "videomae": VIDEOMAE,
    "audio-spectrogram-transformer": AST,
    "whisper": WHISPER,
    "beit": BEIT,
}
WHOLE: dict[str, Callable[[Mapping[str, Any]], dict[str, tuple[str, dict[str, Any]]]]] = {
    "clip": clip_towers,
    "siglip": siglip_towers,
}

__all__ = ["FAMILIES", "WHOLE", "Family"]
