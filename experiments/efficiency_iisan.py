"""The efficiency table of IISAN, measured: what each way of adapting BERT-base and ViT-B/16 costs per training step.

Full fine-tuning, Houlsby adapters, LoRA, bias tuning, IISAN uncached and cached, all with the same batch of `--users`
users and bfloat16 products, each row of ours beside a plain PyTorch statement of the same method
(`peers/iisan_baselines_torch.py`, `peers/iisan_torch.py`) that encodes every slot as the published code does:

    pip install -e '.[peers]'
    python experiments/efficiency_iisan.py --data ../shared/data/amazon_scientific_users.tsv

Every cell is measured in a process of its own, so that its peak resident memory is its own; one side follows the other.
Prints one JSON line per method and a table: trained parameters, FLOPs of a step (counted from the program), memory that
the compiler planned, peak resident memory and median step time of both sides, and TPME over our rows (times, trained
parameters, planned memory; it compares these six rows and nothing else). Random weights, titles and pictures: the table
is about cost. The first batch after a compilation is not counted. Takes about a quarter of an hour on two cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from erel_jax.host_memory import keep_freed_memory
from erel_jax.metrics.efficiency import CostTriple, tpme

METHODS = ("full", "houlsby", "lora", "bitfit", "iisan", "iisan_cached")


def main(
    data: str | None = None, preset: str = "full", users: int = 8, steps: int = 3, methods: tuple[str, ...] = METHODS
) -> dict:
    """Measures every row in processes of their own and returns them by name."""
    rows = {}
    for method in methods:
        cells = {}
        for side in ("ours", "peer"):
            command = [sys.executable, __file__, "--side", side, "--method", method, "--preset", preset]
            command += ["--users", str(users), "--steps", str(steps), *(["--data", data] if data else [])]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{side} of {method} failed:\n{done.stderr[-2000:]}")
            cells[side] = json.loads(done.stdout.splitlines()[-1])
        ours, peer = cells["ours"], cells["peer"]
        rows[method] = {
            "name": method,
            "ours": ours["step_seconds"] * 1e3,
            "peer": peer["step_seconds"] * 1e3,
            "unit": "ms",
            "ratio": peer["step_seconds"] / ours["step_seconds"],
            "memory_ratio": peer["peak_bytes"] / ours["peak_bytes"],
            "trainable_parameters": ours["trainable_parameters"],
            "peer_trainable_parameters": peer["trainable_parameters"],
            "flops": ours["flops"],
            "compiled_bytes": ours["compiled_bytes"],
            "peak_bytes": ours["peak_bytes"],
            "peer_peak_bytes": peer["peak_bytes"],
        }
        print(json.dumps(rows[method]), flush=True)
    _table(rows)
    return rows


def _table(rows: dict[str, dict]) -> None:
    triples = [CostTriple(r["ours"] / 1e3, r["trainable_parameters"], r["compiled_bytes"]) for r in rows.values()]
    scores = tpme(triples).values
    titles = ("method", "trained", "GFLOP", "planned MB", "peak MB", "PyTorch", "step ms", "PyTorch", "ratio", "TPME")
    lines: list[tuple[str, ...]] = [titles]
    for (name, r), score in zip(rows.items(), scores, strict=True):
        numbers = (r["flops"] / 1e9, r["compiled_bytes"] / 1e6, r["peak_bytes"] / 1e6, r["peer_peak_bytes"] / 1e6)
        times = (f"{r['ours']:,.1f}", f"{r['peer']:,.1f}", f"{r['ratio']:.2f}")
        shown = "n/a" if score is None else f"{score:.4f}"
        lines.append((name, f"{r['trainable_parameters']:,}", *(f"{n:,.0f}" for n in numbers), *times, shown))
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), file=sys.stderr)


# ---------------------------------------------------------------- one cell, in its own process
def measure(side: str, method: str, data: str | None, preset: str, users: int, steps: int) -> dict[str, Any]:
    """One cell: trained parameters, seconds of a step, peak bytes of the process; for ours also FLOPs and plan."""
    from erel_jax.data.sequence_batches import SequenceBatches
    from experiments.speed_cached_side_training import windows_of

    width, pixels, items = (768, 224, 20_314) if preset == "full" else (32, 32, 200)
    windows = windows_of(data, items)
    batches = SequenceBatches(windows=windows, batch_size=min(users, len(windows)), epochs=1)
    rows = windows[batches.order(0)[0]]
    run, describe = (
        _ours(method, batches[0], windows, width, pixels)
        if side == "ours"
        else _peer(method, rows, windows, width, pixels)
    )
    run()
    seconds = []
    for _ in range(steps):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {"step_seconds": statistics.median(seconds), "peak_bytes": int(peak.split()[1]) * 1024, **describe()}


def _ours(method: str, sequence: Any, windows: np.ndarray, width: int, pixels: int):
    import jax
    import jax.numpy as jnp

    from erel_jax import module, tree
    from erel_jax.adapters import METHODS as REGISTERED
    from erel_jax.adapters.adapted import item_encoder
    from erel_jax.encoders import BertConfig, VitConfig, bert, vit
    from erel_jax.layers import BFLOAT16
    from erel_jax.losses import debiased_cross_entropy
    from erel_jax.profiling.flops import count_flops
    from erel_jax.profiling.memory import compiled_bytes
    from erel_jax.recommendation.compact_sasrec import compact_sasrec
    from erel_jax.recommendation.sasrec import SasrecConfig, sasrec
    from erel_jax.training import adam, new_state, train_step
    from experiments.speed_cached_side_training import log_popularity_of
    from experiments.speed_uncached_side_training import pictures_of, titles_of

    small: dict[str, Any] = {} if width == 768 else {"width": width, "heads": 2, "mlp_width": 64}
    text = bert(BertConfig(vocabulary=30522 if width == 768 else 100, **small), BFLOAT16)
    image = vit(VitConfig(image_size=pixels, **small), BFLOAT16)
    adapted = item_encoder({"text": text, "image": image}, REGISTERED[method], precision=BFLOAT16)
    users = compact_sasrec(SasrecConfig(dropout=0.1), BFLOAT16)
    unique = np.asarray(sequence.unique_items)
    if adapted.method.cached:
        shape = (len(unique), 7, width)
        inputs = {name: jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.bfloat16) for name in adapted.taps}
    else:
        inputs = {"text": titles_of(unique, text.config.vocabulary), "image": {"pixels": pictures_of(unique, pixels)}}

    def loss_fn(params: Any, batch: Any, key: jax.Array):
        sequence = batch["sequence"]
        vectors = adapted.module.apply(params, batch["inputs"], key=key, train=True)
        states = users.apply(
            params["user"], vectors[sequence.row_input], sequence.rows, sequence.slot_row, key=key, train=True
        )
        named = {name: getattr(sequence, name) for name in ("row_user", "row_positive", "windows", "multiplicity")}
        popularity = {"log_popularity": batch["log_popularity"], "compute_dtype": BFLOAT16.compute}
        return debiased_cross_entropy(states, vectors, **named, **popularity), {}

    params = module.init(jax.random.key(0), {**adapted.module.spec, "user": sasrec(SasrecConfig()).spec})
    trainable, frozen = tree.partition(params, [*adapted.trainable, "user/.*"])
    optimizer = adam(1e-4)
    step = train_step(loss_fn, optimizer)
    popularity = log_popularity_of(windows)[unique]
    batch = jax.device_put({"sequence": sequence, "inputs": inputs, "log_popularity": popularity})
    holder = {"state": new_state(trainable, optimizer, jax.random.key(0))}

    def gradients(trainable: Any, frozen: Any, batch: Any):
        return jax.value_and_grad(lambda t: loss_fn(tree.merge(t, frozen), batch, jax.random.key(0))[0])(trainable)

    def describe() -> dict[str, Any]:
        flops = count_flops(gradients, holder["state"].trainable, frozen, batch).matmul
        planned = compiled_bytes(step).bytes
        return {"trainable_parameters": module.count(trainable), "flops": flops, "compiled_bytes": planned}

    def run() -> None:
        holder["state"], metrics = step(holder["state"], frozen, batch)
        jax.block_until_ready(metrics["loss"])

    return run, describe


def _peer(method: str, rows: np.ndarray, windows: np.ndarray, width: int, pixels: int):
    import torch

    from experiments.peers.iisan_baselines_torch import Baseline
    from experiments.peers.iisan_torch import CachedIisan, UncachedIisan
    from experiments.speed_cached_side_training import log_popularity_of
    from experiments.speed_uncached_side_training import slot_inputs, torch_towers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    ids, popularity = torch.from_numpy(rows.astype(np.int64)), torch.from_numpy(log_popularity_of(windows))
    given: tuple[Any, ...]
    if method == "iisan_cached":
        model: Any = CachedIisan(width=width)
        states = torch.randn(*rows.shape, 13, width)
        given = (ids, states, states.clone(), popularity)
    else:
        towers = torch_towers(width, pixels)
        given = (ids, *slot_inputs(rows, pixels, towers["text"].config.vocab_size, torch.bfloat16), popularity)
        if method == "iisan":
            model = UncachedIisan(towers["text"].bfloat16(), towers["image"].bfloat16(), CachedIisan(width=width))
        else:
            model = Baseline(towers["text"], towers["image"], method, width)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-4)
    # Masters in float32 and products in bfloat16, as ours.
    live = method not in ("iisan", "iisan_cached")

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=live):
            loss = model(*given)
        loss.backward()
        optimizer.step()

    return run, lambda: {"trainable_parameters": sum(p.numel() for p in trained)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="TSV of user sequences; synthetic windows of the same lengths without it")
    parser.add_argument("--preset", choices=("full", "tiny"), default="full")
    parser.add_argument("--users", type=int, default=8, help="users per step")
    parser.add_argument("--steps", type=int, default=3, help="measured steps")
    parser.add_argument("--side", choices=("ours", "peer"), help="measure one cell in this process")
    parser.add_argument("--method", choices=METHODS, help="one method; all without it")
    options = parser.parse_args()
    if options.side:
        if not options.method:
            parser.error("--side needs --method")
        if options.side == "ours":
            keep_freed_memory()
        cell = (options.side, options.method, options.data, options.preset, options.users, options.steps)
        print(json.dumps(measure(*cell)))
    else:
        chosen = (options.method,) if options.method else METHODS
        main(options.data, options.preset, options.users, options.steps, chosen)
