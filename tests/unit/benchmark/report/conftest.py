"""A made-up run of twelve methods and three floors, as crowded as a real one."""

import io
import random
from typing import Any

import pytest
from PIL import Image

from erel_jax.benchmark.record import Record
from erel_jax.benchmark.report import GalleryQuery, GalleryResult

ENVIRONMENT = {
    "python": "3.11.7",
    "jax": "0.10.2",
    "package_version": "0.1.0",
    "commit": "0123abc",
    "device": "cpu",
    "cpu": "made-up processor",
    "cores": 2,
    "os": "Linux",
    "precision": "float32",
}
NO_COUNTER = {"energy_joules": "no energy counter"}
COMMON: dict[str, Any] = {
    "task": "retrieval",
    "data": "glyphs",
    "command": "erel bench --task retrieval --seeds 2",
    "environment": ENVIRONMENT,
    "evaluated_queries": 2400,
    "peak_bytes_source": "peak RSS of the process",
}

# name, quality, trainable parameters, step seconds, peak bytes, bytes per item
LEARNED = [
    ("frozen_projection", 0.231, 66_048, 0.021, 412e6, 512),
    ("linear_probe", 0.244, 131_584, 0.0213, 415e6, 512),
    ("full_fine_tuning", 0.452, 3_412_992, 0.182, 1.31e9, 512),
    ("bitfit", 0.338, 42_752, 0.151, 1.02e9, 512),
    ("lora_r8", 0.421, 196_608, 0.158, 1.05e9, 512),
    ("rslora_r16", 0.437, 393_216, 0.161, 1.06e9, 512),
    ("lora_merged", 0.4205, 196_608, 0.1585, 1.05e9, 512),
    ("houlsby", 0.409, 406_784, 0.166, 1.08e9, 512),
    ("iisan_uncached", 0.391, 512_384, 0.071, 640e6, 512),
    ("iisan_cached", 0.3905, 512_384, 0.0062, 388e6, 512),
    ("iisan_cached_text", 0.249, 128_000, 0.0041, 366e6, 256),
    ("head_only", 0.236, 0, 0.004, 360e6, 512),
]
# name, quality, bytes per item, query seconds
FLOORS = [("random", 0.016, None, None), ("pixel_neighbors", 0.118, 1024, 0.0021), ("name_tfidf", 0.2473, 340, 0.0009)]


def floor_record(name, quality, item_bytes, latency):
    served = {
        "encode_items_per_second": None if item_bytes is None else 18_000.0,
        "query_seconds_p50": latency,
        "query_seconds_p99": None if latency is None else 2 * latency,
        "bytes_per_item": item_bytes,
    }
    reasons = NO_COUNTER | {field: "searches nothing" for field, value in served.items() if value is None}
    return Record(
        method=name,
        kind="floor",
        seed=0,
        metrics={"recall@1": quality / 4, "recall@10": quality},
        trainable_parameters=0,
        total_parameters=0,
        peak_bytes=210_000_000,
        unavailable=reasons,
        **served,
        **COMMON,
    )


def learned_record(row, seed, generator, **changes):
    name, quality, parameters, step, memory, item_bytes = row
    quality += generator.gauss(0, 0.004)
    latency = 0.003 * generator.uniform(0.95, 1.4)
    values = COMMON | {
        "metrics": {"recall@1": quality / 4, "recall@10": quality},
        "trainable_parameters": parameters,
        "total_parameters": 6_400_000 + parameters,
        "train_seconds": 600 * step,
        "train_step_seconds": step,
        "train_flops_per_step": 1.7e11 * step,
        "batch_size": 256,
        "recompiles_after_warmup": 0,
        "peak_bytes": int(memory),
        "encode_items_per_second": 5000.0,
        "query_seconds_p50": latency,
        "query_seconds_p99": 3 * latency,
        "bytes_per_item": item_bytes,
        "dropped": {"characters without a name": 214},
        "notes": ("The base encoder was pretrained on other scripts.",),
        "unavailable": NO_COUNTER,
    }
    return Record(method=name, kind="learned", seed=seed, **(values | changes))


@pytest.fixture
def records():
    generator = random.Random(3)
    learned = [learned_record(row, seed, generator) for row in LEARNED for seed in (0, 1)]
    return [*(floor_record(*row) for row in FLOORS), *learned]


def png(shade=128):
    buffer = io.BytesIO()
    Image.new("L", (8, 8), shade).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def galleries():
    found = [GalleryResult(f"item {i}", png(20 * i), 0.9 - 0.1 * i, i == 1) for i in range(3)]
    return {
        "name_tfidf": [GalleryQuery("GREEK SMALL LETTER BETA", None, found)],
        "lora_r8": [GalleryQuery("GREEK SMALL LETTER BETA", png(), found[::-1])],
        "bitfit": [GalleryQuery("a plane; drill bits", None, [GalleryResult("gloves", None, -0.5, False)])],
    }
