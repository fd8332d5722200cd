"""Where a number was measured: versions, device, processor, commit.

Every published number carries this. It names no person, folder or host.
"""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import erel_jax

_REASONS = {
    "commit": "not run from a git checkout",
    "commit_dirty": "not run from a git checkout",
    "cpu": "the system does not name its processor",
    "memory_bytes": "the system does not report its memory",
    "precision": "the program runs in no single precision",
    "flax": "flax is not installed",
}


def describe_environment(precision: str | None = None) -> dict[str, Any]:
    """What a record says about where it was measured.

    Args:
        precision: name of the precision the measured program runs in, for example "bfloat16".

    Returns:
        `python`, `jax`, `jaxlib`, `flax`, `package_version`, `commit` (40 hex digits), `commit_dirty` (files differ
        from it), `device` (kind), `platform`, `device_count`, `cpu`, `cores` (those this process may use),
        `memory_bytes`, `os`, `precision`. None where unknown; `environment_reasons` says why.
    """
    commit, dirty = _source_commit(Path(__file__).resolve().parents[2])
    device = jax.local_devices()[0]
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": metadata.version("jaxlib"),
        "flax": _version("flax"),
        "package_version": erel_jax.__version__,
        "commit": commit,
        "commit_dirty": dirty,
        "device": device.device_kind,
        "platform": device.platform,
        "device_count": jax.device_count(),
        "cpu": _processor(),
        "cores": _cores(),
        "memory_bytes": _memory_bytes(),
        "os": f"{platform.system()} {platform.machine()}",
        "precision": precision,
    }


def environment_reasons(environment: dict[str, Any]) -> dict[str, str]:
    """For each None of `describe_environment`, why: `{"environment.commit": "not run from a git checkout"}`."""
    missing = [name for name, value in environment.items() if value is None]
    return {f"environment.{name}": _REASONS.get(name, "the system does not tell") for name in missing}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _source_commit(root: Path) -> tuple[str | None, bool | None]:
    """Commit and dirty flag of the checkout this package lies in; an installed wheel inside some other repository
    must not be given that repository's commit."""
    if not (root / ".git").exists() or not (root / "pyproject.toml").is_file():
        return None, None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        status = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit, bool(status)


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()


def _processor() -> str | None:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(errors="replace").splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _memory_bytes() -> int | None:
    import psutil

    return int(psutil.virtual_memory().total) or None
