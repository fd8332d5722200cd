"""Encoding images and texts on a CPU beside PyTorch in bfloat16, with the same random weights.

    pip install -e '.[peers]'
    python experiments/speed_encoders.py
    python experiments/speed_encoders.py --peer compiled --rows vit_b16_int8

Rows `vit_b16_bf16`, `vit_b16_int8`, `vit_b16_int8_tome` (16 images of 224 pixels) and `bert_base_bf16`,
`bert_base_int8` (16 texts of 64 tokens, half of them shorter): items per second, medians of calls taken in turns. The
weights go from the PyTorch model through a Hugging Face folder into ours; `cosine` holds our embeddings against the
PyTorch model's in float32, row by row (the lowest). `vit_b16_int8_tome` merges `merged_tokens` pairs of tokens in each
layer; with random weights its cosine says little, `compression_fashion.py` has the recall of trained ones. `kernels`
says how int8 kernels were multiplied: "dynamic" (int8 by int8) where a measured int8 product is faster than a bfloat16
one, "widened" (stored in int8, multiplied in bfloat16) elsewhere. Without torch the rows have ours alone, and the peer
is null.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from erel_jax import module
from erel_jax.compression import cosine_drift, in_chunks, quantize_int8, serving_params
from erel_jax.doctor.devices import measure_products
from erel_jax.encoders.bert import BertConfig, bert
from erel_jax.encoders.vit import VitConfig, vit
from erel_jax.interop.huggingface import load_encoder
from erel_jax.layers import BFLOAT16, FLOAT32, unstack
from erel_jax.sharding import compile_step
from experiments.side_by_side import alternate

ROWS = ("vit_b16_bf16", "bert_base_bf16", "vit_b16_int8", "bert_base_int8", "vit_b16_int8_tome")
CHUNK_TOKENS = 1024
FAST_INT8 = 1.2
MERGED_TOKENS = 13


# ---------------------------------------------------------------- settings
def sizes(preset: str) -> dict[str, Any]:
    """Model and batch sizes of a preset: "full" or "tiny"."""
    if preset == "full":
        return {"vit": VitConfig(), "bert": BertConfig(), "batch": 16, "length": 64, "pairs": 9}
    shape: dict[str, Any] = {"width": 64, "layers": 2, "heads": 2, "mlp_width": 128}
    return {
        "vit": VitConfig(image_size=32, patch=8, **shape),
        "bert": BertConfig(vocabulary=100, max_positions=32, **shape),
        "batch": 4,
        "length": 8,
        "pairs": 1,
    }


def main(preset: str = "full", rows: tuple[str, ...] = ROWS, peer: str = "eager") -> dict[str, dict]:
    """Measures the chosen rows beside PyTorch ("eager", or "compiled" by `torch.compile`) and returns them by name."""
    chosen = sizes(preset) | {"peer": peer}
    results = {}
    for family in ("vit", "bert"):
        wanted = [name for name in rows if name.startswith(family)]
        if wanted:
            results |= _measure(family, chosen, wanted)
    return results


# ---------------------------------------------------------------- inputs and the peer
def _inputs(family: str, chosen: dict[str, Any]) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    batch, length = chosen["batch"], chosen["length"]
    if family == "vit":
        side = chosen["vit"].image_size
        return {"pixels": generator.standard_normal((batch, side, side, 3), np.float32)}
    ids = generator.integers(5, chosen["bert"].vocabulary, (batch, length)).astype(np.int32)
    lengths = np.where(np.arange(batch) % 2, length, length // 2 + 1)
    mask = np.arange(length)[None] < lengths[:, None]
    return {"ids": ids * mask, "mask": mask}


def _torch_model(family: str, chosen: dict[str, Any]) -> Any:
    """The Hugging Face model with random weights in float32, or None without torch."""
    try:
        import torch
    except ImportError:
        print("torch is not installed: measuring ours alone", file=sys.stderr)
        return None
    from transformers import BertConfig as TheirBert
    from transformers import BertModel, ViTModel
    from transformers import ViTConfig as TheirVit

    torch.manual_seed(0)
    config = chosen[family]
    shape = {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
    }
    if family == "vit":
        theirs = TheirVit(image_size=config.image_size, patch_size=config.patch, **shape)
        return ViTModel(theirs, add_pooling_layer=False).eval()
    theirs = TheirBert(vocab_size=config.vocabulary, max_position_embeddings=config.max_positions, **shape)
    return BertModel(theirs, add_pooling_layer=False).eval()


def _torch_encode(model: Any, inputs: dict[str, np.ndarray], half: bool, run: str = "eager") -> Callable:
    """A call of the PyTorch model, eager or compiled, on ready tensors: first-token states, float32."""
    import torch

    dtype = torch.bfloat16 if half else torch.float32
    if "pixels" in inputs:
        given = {"pixel_values": torch.from_numpy(inputs["pixels"].transpose(0, 3, 1, 2).copy()).to(dtype)}
    else:
        ids, mask = (torch.from_numpy(inputs[name].astype(np.int64)) for name in ("ids", "mask"))
        given = {"input_ids": ids, "attention_mask": mask}
    model = model.to(dtype)
    if run == "compiled":
        model = torch.compile(model)

    def encode() -> np.ndarray:
        with torch.inference_mode():
            return model(**given).last_hidden_state[:, 0].float().numpy()

    return encode


# ---------------------------------------------------------------- ours
def _ours(family: str, chosen: dict[str, Any], model: Any) -> Any:
    """Our parameters in float32: the PyTorch model's where there is one."""
    if model is None:
        encoder = (vit if family == "vit" else bert)(chosen[family], FLOAT32)
        return module.init(jax.random.key(0), encoder.module.spec)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_encoder(folder).params


def _encode_step(
    family: str, chosen: dict[str, Any], params: Any, inputs: Any, precision: Any, merged_tokens: int = 0
) -> Callable[[], Any]:
    """A compiled call of our encoder on ready arrays, in chunks that stay in cache."""
    config = dataclasses.replace(chosen[family], merged_tokens=merged_tokens) if merged_tokens else chosen[family]
    encoder = (vit if family == "vit" else bert)(config, precision)
    served = serving_params(params, encoder.layers, precision.compute)
    if merged_tokens and not isinstance(served["layers"], list):
        served = {**served, "layers": unstack(served["layers"], encoder.layers)}
    tokens = chosen["vit"].patches + 1 if family == "vit" else chosen["length"]
    tokens -= merged_tokens * encoder.layers // 2  # about the mean over layers
    divisors = [rows for rows in range(1, chosen["batch"] + 1) if chosen["batch"] % rows == 0]
    rows = max([rows for rows in divisors if rows * tokens <= CHUNK_TOKENS] or [1])
    step = compile_step(in_chunks(lambda p, x: encoder.module.apply(p, x).embedding, rows))
    placed = jax.tree.map(jnp.asarray, inputs)
    return lambda: jax.block_until_ready(step(served, placed))


# ---------------------------------------------------------------- rows
def _measure(family: str, chosen: dict[str, Any], wanted: list[str]) -> dict[str, dict]:
    inputs = _inputs(family, chosen)
    model = _torch_model(family, chosen)
    params = _ours(family, chosen, model)
    reference = jnp.asarray(
        _torch_encode(model, inputs, half=False)() if model is not None
        else _encode_step(family, chosen, params, inputs, FLOAT32)()
    )  # fmt: skip
    peer = _torch_encode(model, inputs, half=True, run=chosen["peer"]) if model is not None else None
    results = {}
    for name in wanted:
        more: dict[str, Any] = {"jax": jax.__version__, "torch": chosen["peer"]}
        given = params
        merged = MERGED_TOKENS if name.endswith("tome") else 0
        if merged:
            more["merged_tokens"] = merged
        if "int8" in name:
            rates = measure_products()
            dynamic = rates["int8"] > FAST_INT8 * rates["bfloat16"]
            given = quantize_int8(params, dynamic=dynamic)
            more["kernels"] = "dynamic" if dynamic else "widened"
        ours = _encode_step(family, chosen, given, inputs, BFLOAT16, merged)
        more["cosine"] = cosine_drift(reference, ours())["min"]
        results[name] = _row(name, ours, peer, chosen, more)
    return results


def _row(name: str, ours: Callable, peer: Callable | None, chosen: dict[str, Any], more: dict[str, Any]) -> dict:
    """Times, prints and returns one row."""
    print(name, file=sys.stderr)
    batch, unit = chosen["batch"], "images/s" if name.startswith("vit") else "texts/s"
    mine, theirs = alternate(ours, peer or (lambda: None), pairs=chosen["pairs"])
    result: dict[str, Any] = {"name": name, "ours": batch / statistics.median(mine), "peer": None, "unit": unit}
    if peer is None:
        result |= {"ratio": None, "unavailable": {"peer": "torch is not installed"}}
    else:
        ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
        result |= {"peer": batch / statistics.median(theirs), "ratio": statistics.median(ratios)}
        result |= {"ratio_min": min(ratios), "ratio_max": max(ratios)}
    result |= more
    print(json.dumps(result), flush=True)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", choices=("full", "tiny"), default="full", help="tiny: a smoke test in seconds")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, help="which rows to measure")
    parser.add_argument("--peer", choices=("eager", "compiled"), default="eager", help="how PyTorch runs")
    arguments = parser.parse_args()
    main(arguments.preset, tuple(arguments.rows), arguments.peer)
