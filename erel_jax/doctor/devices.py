"""Devices, their memory, and how fast they multiply matrices."""

import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path

from erel_jax.doctor.finding import Finding, State, one_line, readable_bytes

FAST_PRODUCT_RATIO = 1.3
PRODUCT_SHAPE = (1024, 768, 3072)


def look_at_devices() -> Iterator[Finding]:
    """Which devices JAX uses, and why it uses no accelerator where it does not."""
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        chosen = os.environ.get("JAX_PLATFORMS", "")
        advice = f"JAX_PLATFORMS={chosen!r}: unset it, or install that backend." if chosen else "Reinstall jax."
        yield Finding(topic="device", name="backend", value=one_line(error), state="broken", advice=advice)
        return
    first = devices[0]
    value = f"{len(devices)} x {first.platform} ({first.device_kind})"
    if first.platform != "cpu":
        yield Finding(topic="device", name="backend", value=value)
        limit = (first.memory_stats() or {}).get("bytes_limit")
        text = readable_bytes(limit) if limit else "unavailable (the backend does not report it)"
        yield Finding(topic="device", name="device memory", value=text)
        return
    reason, advice = why_no_accelerator()
    yield Finding(topic="device", name="backend", value=value, state="warning" if advice else "ok", advice=advice)
    yield Finding(topic="device", name="accelerator", value=reason, state="warning" if advice else "ok")


def why_no_accelerator() -> tuple[str, str]:
    """Say why JAX runs on the CPU.

    Returns:
        The reason, and the advice; the advice is empty when there is no accelerator that could be used.
    """
    plugins = sorted(
        name
        for dist in metadata.distributions()
        if (name := (dist.metadata["Name"] or "").lower()).startswith(("jax-cuda", "jax_cuda", "libtpu"))
    )
    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    tpu = any(Path("/dev").glob("accel*")) or (Path("/dev/vfio").is_dir() and any(Path("/dev/vfio").glob("[0-9]*")))
    wanted = os.environ.get("JAX_PLATFORMS", "")
    if (driver or tpu) and wanted and not {"cuda", "gpu", "tpu"} & set(wanted.split(",")):
        return f"present, but JAX_PLATFORMS={wanted} excludes it", "Unset JAX_PLATFORMS to use the accelerator."
    if driver and not any("cuda" in name for name in plugins):
        return "NVIDIA driver present, JAX is CPU-only", "pip install -e '.[gpu]'"
    if driver:
        return (
            "NVIDIA driver and CUDA plugin present, but no device came up",
            "Compare the output of nvidia-smi with gpu/README.md.",
        )
    if tpu and "libtpu" not in plugins:
        return "TPU device files present, JAX is CPU-only", "pip install -e '.[tpu]'"
    return "none found (no NVIDIA driver, no TPU device files)", ""


def look_at_memory() -> Iterator[Finding]:
    """The share of GPU memory that a process takes at start."""
    import psutil

    memory = psutil.virtual_memory()
    yield Finding(
        topic="memory",
        name="main memory",
        value=f"{readable_bytes(memory.available)} free of {readable_bytes(memory.total)}",
    )
    names = ("XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_ALLOCATOR")
    chosen = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    import jax

    if chosen:
        yield Finding(topic="memory", name="preallocation", value=", ".join(chosen))
    elif jax.default_backend() == "gpu":
        advice = "Set XLA_PYTHON_CLIENT_PREALLOCATE=false to share the GPU; leave it for speed."
        value = "on: 75 % of GPU memory is taken at start"
        yield Finding(topic="memory", name="preallocation", value=value, state="note", advice=advice)
    else:
        yield Finding(topic="memory", name="preallocation", value="default (no effect on this backend)")


def look_at_products() -> Iterator[Finding]:
    """Time one product of encoder shape in each precision."""
    rates = measure_products()
    slow: list[str] = []
    for name, rate in rates.items():
        ratio = rate / rates["float32"]
        fast = name == "float32" or ratio >= FAST_PRODUCT_RATIO
        verdict = "" if name == "float32" else f", {ratio:.1f} times float32: {'fast' if fast else 'not fast'} here"
        slow += [] if fast else [name]
        state: State = "ok" if fast else "note"
        yield Finding(topic="matrix products", name=name, value=f"{rate / 1e9:,.0f} GFLOP/s{verdict}", state=state)


def measure_products(seconds: float = 0.8) -> dict[str, float]:
    """Measure matrix products on the first device.

    The precisions take turns, so that other work on the machine slows all of them alike.

    Args:
        seconds: Time to spend after compilation; each product runs at least three times.

    Returns:
        Operations per second (two per multiply-add, median of the repeats) of an encoder-sized product: `float32`
        inputs and output at the backend's default precision, `bfloat16` inputs accumulated in float32, `int8` inputs
        accumulated in int32.
    """
    import jax
    import jax.numpy as jnp

    rows, inner, columns = PRODUCT_SHAPE
    products: dict[str, Callable[[], jax.Array]] = {}
    for dtype, accumulate in (("float32", "float32"), ("bfloat16", "float32"), ("int8", "int32")):
        left, right = jnp.ones((rows, inner), dtype), jnp.ones((inner, columns), dtype)
        multiply = jax.jit(partial(jnp.matmul, preferred_element_type=jnp.dtype(accumulate)))
        products[dtype] = partial(multiply, left, right)
        products[dtype]().block_until_ready()
    times: dict[str, list[float]] = {dtype: [] for dtype in products}
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or len(times["int8"]) < 3:
        for dtype, product in products.items():
            start = time.perf_counter()
            product().block_until_ready()
            times[dtype].append(time.perf_counter() - start)
    return {dtype: 2 * rows * inner * columns / statistics.median(taken) for dtype, taken in times.items()}
