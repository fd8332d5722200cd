"""Uncached IISAN training step beside a plain PyTorch statement of the published step, both with bfloat16 towers.

BERT-base (30 tokens) and ViT-B/16 run frozen inside the step, under windows of Amazon Scientific where `--data` is
given (synthetic ones of the same lengths otherwise), with random weights, titles and pictures, on this machine's CPU:

    pip install -e '.[peers]'
    python experiments/speed_uncached_side_training.py --data ../shared/data/amazon_scientific_users.tsv

Row `iisan_uncached`: milliseconds per step of `--users` users (32; the published batch is 64, in which more slots hold
an item that another one holds, so that the ratio grows). The published step encodes every slot of every window and
keeps all tokens of all thirteen states; ours encodes each distinct item once and keeps the first token of seven states.
`slots` and `unique_items` say how much of the ratio is that. `loss_difference` holds our loss against the PyTorch one
with the same weights, both in float32, on the first few users. Frozen encoders are run a few items at a time, so that
their activations stay in the processor's cache. A pair of steps takes two minutes on two cores.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from erel_jax import module, tree
from erel_jax.adapters.adapted import read_tower
from erel_jax.compression import in_chunks, serving_params
from erel_jax.data.sequence_batches import SequenceBatches
from erel_jax.encoders import Encoder
from erel_jax.host_memory import keep_freed_memory
from erel_jax.interop.huggingface import load_encoder
from erel_jax.layers import BFLOAT16, FLOAT32, Precision
from erel_jax.training import adam, new_state, train_step
from experiments.side_by_side import alternate, row
from experiments.speed_cached_side_training import TAPS, log_popularity_of, side_training, windows_of

TOKENS, CHUNK_TOKENS, COMPARED_USERS = 30, 1024, 4


def main(data: str | None = None, preset: str = "full", users: int = 32, pairs: int = 2) -> dict:
    """Measures the row and returns it by name."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    width, side, items = (768, 224, 20_314) if preset == "full" else (32, 32, 200)
    windows = windows_of(data, items)
    towers = torch_towers(width, side)
    batch = SequenceBatches(windows=windows, batch_size=min(users, len(windows)), epochs=1)
    rows = windows[batch.order(0)[0]]
    difference = _loss_difference(towers, rows[:COMPARED_USERS], windows, width, side)
    peer, given = _peer(towers, rows, windows, width, side, torch.bfloat16)
    ours = _our_step(towers, batch[0], windows, width, side)
    mine, theirs = alternate(ours, _peer_step(peer, given), pairs=pairs if preset == "full" else 1, warmup=1)
    result = row(
        "iisan_uncached",
        mine,
        theirs,
        peer_is="plain PyTorch statement of the published step with bfloat16 towers",
        precision="bfloat16 towers on both sides",
        users=len(rows),
        slots=int(rows.size),
        unique_items=int((np.asarray(batch[0].multiplicity) > 0).sum()),
        loss_difference=difference,
    )
    return {"iisan_uncached": result}


# ---------------------------------------------------------------- inputs
def torch_towers(width: int, side: int) -> dict[str, Any]:
    """Hugging Face models with random weights."""
    from transformers import BertConfig, BertModel, ViTConfig, ViTModel

    small: dict[str, Any] = (
        {} if width == 768 else {"num_hidden_layers": 12, "num_attention_heads": 2, "intermediate_size": 64}
    )
    text = BertConfig(hidden_size=width, vocab_size=30522 if width == 768 else 100, **small)
    image = ViTConfig(hidden_size=width, image_size=side, patch_size=16, **small)
    return {
        "text": BertModel(text, add_pooling_layer=False).eval(),
        "image": ViTModel(image, add_pooling_layer=False).eval(),
    }


def pictures_of(ids: np.ndarray, side: int) -> np.ndarray:
    """float32[N, H, W, 3]: the same noise for the same item on both sides."""
    return np.stack([np.random.default_rng(int(i)).standard_normal((side, side, 3), np.float32) for i in ids])


def titles_of(ids: np.ndarray, vocabulary: int) -> dict[str, np.ndarray]:
    """The same random title for the same item: `{"ids": int32[N, T], "mask": bool[N, T]}` with lengths from 6 to 30."""
    tokens = np.zeros((len(ids), TOKENS), np.int32)
    lengths = np.empty(len(ids), np.int64)
    for line, item in enumerate(ids):
        draw = np.random.default_rng(10**6 + int(item))
        lengths[line] = draw.integers(6, TOKENS + 1)
        tokens[line, : lengths[line]] = draw.integers(5, vocabulary, lengths[line])
    return {"ids": tokens, "mask": np.arange(TOKENS)[None] < lengths[:, None]}


# ---------------------------------------------------------------- ours
def _encoders(towers: dict[str, Any], precision: Precision) -> dict[str, tuple[Encoder, Any]]:
    """Our encoders with the PyTorch models' weights, arranged for encoding."""
    loaded = {}
    for name, model in towers.items():
        with tempfile.TemporaryDirectory() as folder:
            model.float().save_pretrained(folder)
            found = load_encoder(folder, precision=precision)
        loaded[name] = (found.encoder, serving_params(found.params, found.encoder.layers, precision.compute))
    return loaded


def _uncached(encoders: dict[str, tuple[Encoder, Any]], width: int, side: int, precision: Precision, dropout: float):
    """`(spec, loss_fn)` of the cached step, its features now computed from pictures and titles of the unique items."""
    spec, cached_loss = side_training(width, precision, dropout)
    tokens = {"text": TOKENS, "image": (side // 16) ** 2 + 1}

    def loss_fn(params: Any, batch: Any, key: jax.Array):
        unique = batch["sequence"].unique_items.shape[0]
        features = {}
        for name in ("image", "text"):
            divisors = [rows for rows in range(1, unique + 1) if unique % rows == 0]
            rows = max([rows for rows in divisors if rows * tokens[name] <= CHUNK_TOKENS] or [1])
            encoder = encoders[name][0]
            encode = in_chunks(lambda p, x, e=encoder: read_tower(e, p, x, TAPS), rows)
            features[name] = encode(params["towers"][name], batch[name])
        return cached_loss({**params, "states": features}, batch, key)

    return spec, loss_fn


def _batch(sequence: Any, windows: np.ndarray, towers: dict[str, Any], side: int) -> Any:
    unique = np.asarray(sequence.unique_items)
    return jax.device_put(
        {
            "sequence": sequence,
            "log_popularity": log_popularity_of(windows)[unique],
            "image": {"pixels": pictures_of(unique, side)},
            "text": titles_of(unique, towers["text"].config.vocab_size),
        }
    )


def _our_step(towers: dict[str, Any], sequence: Any, windows: np.ndarray, width: int, side: int):
    encoders = _encoders(towers, BFLOAT16)
    spec, loss_fn = _uncached(encoders, width, side, BFLOAT16, dropout=0.1)
    served = {name: params for name, (_, params) in encoders.items()}
    params = {**module.init(jax.random.key(0), spec), "towers": served}
    trainable, frozen = tree.partition(params, ["items/.*", "users/.*"])
    optimizer = adam(1e-4)
    step = train_step(loss_fn, optimizer)
    batch = _batch(sequence, windows, towers, side)
    holder = {"state": new_state(trainable, optimizer, jax.random.key(0))}

    def run() -> None:
        holder["state"], metrics = step(holder["state"], frozen, batch)
        jax.block_until_ready(metrics["loss"])

    return run


# ---------------------------------------------------------------- the peer
def _peer(towers: dict[str, Any], rows: np.ndarray, windows: np.ndarray, width: int, side: int, dtype: Any):
    """The PyTorch model and what its forward pass is given: every slot's picture and title, padding included."""
    import torch

    from experiments.peers.iisan_torch import CachedIisan, UncachedIisan

    peer = UncachedIisan(towers["text"].to(dtype), towers["image"].to(dtype), CachedIisan(width=width))
    inputs = slot_inputs(rows, side, towers["text"].config.vocab_size, dtype)
    return peer, (torch.from_numpy(rows.astype(np.int64)), *inputs, torch.from_numpy(log_popularity_of(windows)))


def slot_inputs(rows: np.ndarray, side: int, vocabulary: int, dtype: Any) -> tuple[Any, Any, Any]:
    """What the published loader gives for windows int[B, L + 1]: pixels [B, L + 1, 3, H, W], ids and mask of titles."""
    import torch

    slots = rows.ravel()
    distinct, where = np.unique(slots, return_inverse=True)
    pixels = torch.from_numpy(pictures_of(distinct, side).transpose(0, 3, 1, 2).copy()).to(dtype)[where.ravel()]
    texts = titles_of(slots, vocabulary)
    ids, mask = (torch.from_numpy(texts[name].astype(np.int64)).unflatten(0, rows.shape) for name in ("ids", "mask"))
    return pixels.unflatten(0, rows.shape), ids, mask


def _peer_step(peer: Any, given: tuple):
    import torch

    optimizer = torch.optim.Adam(peer.side.parameters(), lr=1e-4)

    def run() -> None:
        optimizer.zero_grad()
        peer(*given).backward()
        optimizer.step()

    return run


def _loss_difference(towers: dict[str, Any], rows: np.ndarray, windows: np.ndarray, width: int, side: int) -> float:
    """Our loss against the PyTorch one in float32 with the same weights and without dropout, relative."""
    import torch

    from experiments.peers.iisan_parameters import from_torch

    peer, given = _peer(towers, rows, windows, width, side, torch.float32)
    peer.side.eval()
    with torch.no_grad():
        wanted = float(peer(*given))
    encoders = _encoders(towers, FLOAT32)
    spec, loss_fn = _uncached(encoders, width, side, FLOAT32, dropout=0.0)
    served = {name: params for name, (_, params) in encoders.items()}
    params = {**from_torch(peer.side, spec), "towers": served}
    sequence = SequenceBatches(windows=rows, batch_size=len(rows), epochs=1)[0]
    batch = _batch(sequence, windows, towers, side)
    loss = float(jax.jit(loss_fn)(params, batch, jax.random.key(0))[0])
    return abs(loss - wanted) / abs(wanted)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="TSV of user sequences; synthetic windows of the same lengths without it")
    parser.add_argument("--preset", choices=("full", "tiny"), default="full")
    parser.add_argument("--users", type=int, default=32, help="users per step")
    parser.add_argument("--pairs", type=int, default=2, help="measured pairs of steps")
    options = parser.parse_args()
    keep_freed_memory()
    main(options.data, options.preset, options.users, options.pairs)
