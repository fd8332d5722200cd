"""Folders, the compile cache, network flags and energy counters."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from erel_jax.doctor.finding import Finding, one_line, readable_bytes
from erel_jax.errors import ConfigError
from erel_jax.folders import cache_folder, check_writable
from erel_jax.profiling.energy import nvml_counters, rapl_counters

LOW_DISK_BYTES = 2 * 1024**3


def look_at_folders() -> Iterator[Finding]:
    """Cache folder, its size, and the space left."""
    cache = cache_folder()
    size = f"{readable_bytes(_folder_bytes(cache))} used" if cache.exists() else "not made yet"
    try:
        check_writable(cache if cache.exists() else _nearest_existing(cache))
        yield Finding(topic="folders", name="cache", value=f"{cache} ({size})")
    except ConfigError as error:
        advice = "Set EREL_CACHE to a folder that can be written."
        yield Finding(topic="folders", name="cache", value=one_line(error), state="broken", advice=advice)
    for name, folder in (("disk of the cache", _nearest_existing(cache)), ("disk of this folder", Path.cwd())):
        free = shutil.disk_usage(folder).free
        low = free < LOW_DISK_BYTES
        advice = f"Less than {readable_bytes(LOW_DISK_BYTES)} is left; delete {cache} or set EREL_CACHE." if low else ""
        yield Finding(
            topic="folders",
            name=name,
            value=f"{readable_bytes(free)} free",
            state="warning" if low else "ok",
            advice=advice,
        )


def look_at_compile_cache() -> Iterator[Finding]:
    """Whether compiled programs are kept between runs, and whether the cache can still grow."""
    import jax

    folder = jax.config.values["jax_compilation_cache_dir"] or os.environ.get("JAX_COMPILATION_CACHE_DIR")
    cap = jax.config.values["jax_compilation_cache_max_size"]
    if not folder:
        value = "not set for this process; erel bench keeps its own under the cache folder"
        yield Finding(topic="compile cache", name="folder", value=value)
        return
    path = Path(folder)
    entries = {file.name for file in path.glob("*-cache")} if path.is_dir() else set()
    limit = "no size cap" if cap < 0 else f"size cap {readable_bytes(cap)}"
    value = f"{path}: {len(entries)} programs, {readable_bytes(_folder_bytes(path))}, {limit}"
    orphans = [name for name in entries if not (path / name.replace("-cache", "-atime")).exists()] if cap >= 0 else []
    advice = f"{len(orphans)} entries lack their time stamp; with a size cap this stops all writes. Delete {path}."
    yield Finding(
        topic="compile cache",
        name="folder",
        value=value,
        state="warning" if orphans else "ok",
        advice=advice if orphans else "",
    )


def look_at_network() -> Iterator[Finding]:
    """Which offline flags are set. Tokens are never read."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        value = os.environ.get(name)
        offline = (value or "").upper() in ("1", "ON", "YES", "TRUE")  # what huggingface_hub takes for yes
        shown = f"{value or 'not set'} ({'no downloads' if offline else 'hub ids are downloaded'})"
        yield Finding(topic="network", name=name, value=shown)


def look_at_energy() -> Iterator[Finding]:
    """Which energy counters can be read; a counter that cannot is reported as unavailable, never as zero."""
    for name, (counters, reason) in (("NVML (GPU)", nvml_counters()), ("RAPL (CPU)", rapl_counters())):
        readable = ", ".join(counter.name for counter in counters)
        value = f"readable: {readable}" if counters else f"unavailable: {reason}"
        yield Finding(topic="energy", name=name, value=value)


def _nearest_existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
