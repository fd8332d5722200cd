"""Python and packages against the tested ends of the supported range."""

import importlib
import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from erel_jax.doctor.finding import Finding, State, one_line

TESTED: dict[tuple[int, int], dict[str, str]] = {
    (3, 11): {"jax": "0.10.2", "flax": "0.12.8", "numpy": "2.4.6", "tensorflow-datasets": "4.9.10"},
    (3, 12): {"jax": "0.12.0.1", "flax": "0.12.12", "numpy": "2.5.5", "tensorflow-datasets": "4.9.10"},
}
"""The two ends of the supported range, by Python version; `constraints/` has the complete sets."""

TESTED_BOTH = {
    "optax": "0.2.8",
    "orbax-checkpoint": "0.12.8",
    "chex": "0.1.92",
    "grain": "0.2.18",
    "array_record": "0.8.6",
    "transformers": "5.23.0",
    "tokenizers": "0.23.3",
    "safetensors": "0.8.0",
    "huggingface_hub": "2.4.0",
    "pillow": "13.0.0",
}

IMPORTED_BY = {
    "flax": "flax.struct",
    "orbax-checkpoint": "orbax.checkpoint",
    "tensorflow-datasets": "tensorflow_datasets",
    "array_record": "array_record.python.array_record_module",
    "pillow": "PIL.Image",
}
"""Module to import for a distribution where the name differs or a smaller module proves as much."""


def look_at_versions() -> Iterator[Finding]:
    """Python and packages against the tested ends and the declared ranges; each package is imported once."""
    minor = sys.version_info[:2]
    text = f"{platform.python_version()} ({platform.system()} {platform.machine()}, {os.cpu_count()} CPUs)"
    if minor in TESTED:
        yield Finding(topic="versions", name="Python", value=text)
    else:
        known = " and ".join(f"{a}.{b}" for a, b in TESTED)
        state: State = "broken" if minor < min(TESTED) else "note"
        yield Finding(topic="versions", name="Python", value=text, state=state, advice=f"Tested with {known}.")
    ranges = _declared_ranges()
    tested = TESTED.get(minor, TESTED[max(TESTED)]) | TESTED_BOTH
    for name, version in tested.items():
        yield _package(name, version, ranges.get(name.replace("_", "-").lower()))


def _package(name: str, tested: str, allowed: Any) -> Finding:
    install = f"pip install -e . (tested: {name}=={tested})"
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(topic="versions", name=name, value="not installed", state="broken", advice=install)
    if allowed is not None and not allowed.contains(found, prereleases=True):
        advice = f"This version is outside {allowed}. {install}"
        return Finding(topic="versions", name=name, value=found, state="broken", advice=advice)
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would remark that torch is absent
    try:
        importlib.import_module(IMPORTED_BY.get(name, name))
    except Exception as error:
        return Finding(topic="versions", name=name, value=f"{found}: {one_line(error)}", state="broken", advice=install)
    if found == tested:
        return Finding(topic="versions", name=name, value=f"{found} (tested)")
    return Finding(topic="versions", name=name, value=f"{found} (tested: {tested})", state="note")


def _declared_ranges() -> dict[str, Any]:
    """Version ranges of the installed distribution; empty when the source is used without being installed."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("erel_jax") or []
    except metadata.PackageNotFoundError:
        return {}
    parsed = [Requirement(line) for line in lines if "extra ==" not in line]
    return {requirement.name.replace("_", "-").lower(): requirement.specifier for requirement in parsed}
