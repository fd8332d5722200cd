"""Compile the training step for a TPU topology on a machine without a TPU.

The step is the one that `erel bench` runs, for towers of full size (ViT-B/16 and BERT-base) in bfloat16: it is lowered
from abstract arguments, compiled by libtpu for the named topology, and one line says what one chip would do, which
collectives XLA put in, and whether the memory suffices. Nothing is executed, so nothing is said about speed.

    pip install libtpu
    python tpu/aot_check.py --topology v5e:2x4 --method full --rules fsdp

Ends with 1 when the program does not fit the chip or lacks the collectives that the sharding rules imply.
"""

import dataclasses
import json
import os
import re
import sys
import time
from collections import Counter
from typing import Any

# libtpu must not look for chips, and JAX must not start a TPU backend that is not there.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")

import jax
import jax.numpy as jnp

from erel_jax import module, sharding, tree
from erel_jax.adapters.adapted import dual_encoder
from erel_jax.adapters.method import named_method
from erel_jax.encoders import BertConfig, VitConfig, bert, vit
from erel_jax.layers import BFLOAT16
from erel_jax.losses import symmetric_info_nce
from erel_jax.training.optimizer import adam
from erel_jax.training.state import abstract_state, state_shardings, tree_shardings
from erel_jax.training.step import train_step

HBM_BYTES = {"TPU v4": 32e9, "TPU v5 lite": 16e9, "TPU v5": 95e9, "TPU v6 lite": 32e9}
"""Memory of one chip by device kind, from the vendor's data sheets; kinds not listed are not judged."""

COLLECTIVE = re.compile(r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AotConfig:
    """Compile the training step for a TPU topology."""

    topology: str = "v5e:2x4"
    """Name that libtpu knows, for example v4:2x2x1, v5e:2x4, v6e:2x4."""
    method: str = "full"
    """Adaptation method that runs its towers, for example full, lora, bitfit."""
    rules: str = "fsdp"
    """Sharding rules: replicated, fsdp, tensor or fsdp_tensor."""
    model: int = 1
    """Chips along the model axis; tensor rules need at least 2."""
    batch: int = 256
    """Global batch B of image-text pairs."""
    tiny: bool = False
    """Towers of a few thousand parameters, to try the check itself."""


def placed(abstract: Any, places: Any) -> Any:
    """Give every abstract array its sharding."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), abstract, places
    )


def abstract_batch(config: AotConfig, image_size: int, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Shapes of one global batch, split over the data axis."""
    size, tokens = config.batch, 16 if config.tiny else 64
    batch = {
        "image": {"pixels": jax.ShapeDtypeStruct((size, image_size, image_size, 3), jnp.float32)},
        "text": {
            "ids": jax.ShapeDtypeStruct((size, tokens), jnp.int32),
            "mask": jax.ShapeDtypeStruct((size, tokens), jnp.bool_),
        },
        "text_id": jax.ShapeDtypeStruct((size,), jnp.int32),
    }
    return placed(batch, jax.tree.map(lambda leaf: sharding.batch_sharding(mesh, leaf.ndim), batch))


def compile_for(config: AotConfig, mesh: jax.sharding.Mesh) -> sharding.Step:
    """Build the retrieval training step and compile it for the devices of `mesh`."""
    image = VitConfig.tiny() if config.tiny else VitConfig.base_16()
    text = BertConfig.tiny() if config.tiny else BertConfig()
    adapted = dual_encoder(
        {"image": vit(image, BFLOAT16), "text": bert(text, BFLOAT16)},
        named_method(config.method),
        precision=BFLOAT16,
    )

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        inputs = {name: batch[name] for name in ("image", "text")}
        vectors = adapted.module.apply(params, inputs, key=key, train=True)
        scale = params["head"]["logit_scale"]
        return symmetric_info_nce(vectors["image"], vectors["text"], scale, group=batch["text_id"]), {}

    spec = adapted.module.spec
    trainable, frozen = tree.partition(module.abstract(spec), adapted.trainable)
    optimizer = adam(adapted.learning_rates)
    state = abstract_state(trainable, optimizer)
    step = train_step(loss_fn, optimizer, mesh=mesh, rules=config.rules, spec=spec)
    step.compile(
        placed(state, state_shardings(state, mesh, config.rules, spec)),
        placed(frozen, tree_shardings(frozen, mesh, config.rules, spec)),
        abstract_batch(config, image.image_size, mesh),
    )
    return step


def check(config: AotConfig) -> dict[str, Any]:
    """Compile, and say what one chip would do.

    Args:
        config: What to compile.

    Returns:
        A row with FLOPs and bytes per chip, counts of collectives and `faults`, a list that is empty when all is well.
        FLOPs are XLA's, which count the body of the layer scan once.
    """
    from jax.experimental import topologies

    began = time.perf_counter()
    devices = topologies.get_topology_desc(config.topology, "tpu").devices
    mesh = sharding.make_mesh(len(devices) // config.model, config.model, devices)
    step = compile_for(config, mesh)
    found = Counter(COLLECTIVE.findall(step.compiled.as_text()))
    memory = step.memory or {}
    limit = HBM_BYTES.get(devices[0].device_kind)
    faults = []
    if limit is not None and memory.get("total", 0) > limit:
        faults.append(f"needs {memory['total'] / 1e9:.1f} GB per chip, the chip has {limit / 1e9:.0f} GB")
    if len(devices) > 1 and not found["all-reduce"] + found["reduce-scatter"]:
        faults.append("no gradient sum over the chips")
    if "fsdp" in config.rules and not found["all-gather"]:
        faults.append("fsdp rules, but no parameter is gathered")
    return {
        **dataclasses.asdict(config),
        "chips": f"{len(devices)} x {devices[0].device_kind}",
        "flops_per_chip_scan_body_once": step.cost.get("flops"),
        "bytes_per_chip": memory.get("total"),
        "collectives": dict(sorted(found.items())),
        "seconds_to_compile": round(time.perf_counter() - began, 1),
        "faults": faults,
    }


def main() -> int:
    """Read the command line, print one JSON line; returns 1 when there are faults."""
    import tyro

    row = check(tyro.cli(AotConfig, description=__doc__))
    print(json.dumps(row))
    return int(bool(row["faults"]))


if __name__ == "__main__":
    sys.exit(main())
