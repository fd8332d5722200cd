"""Selections on disk, to be replayed on the same data and refused on any other.

A stored selection is an artifact directory with the rows kept, the rows removed, their reasons, the settings, and the
fingerprint of the data. Replaying reads the rows back; it does not run the filter again, whose floating point results
may differ between machines.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from erel_jax.artifacts import MANIFEST_NAME, ArtifactDir, Manifest, metadata_digest, verify_manifest
from erel_jax.errors import ConfigError, CorruptArtifactError, DataError
from erel_jax.selection.outcome import Outcome

KIND = "selection"
SCHEMA = 1


def save_selection(folder: str | os.PathLike[str], outcome: Outcome, *, overwrite: bool = False) -> None:
    """Stores an outcome so that it is whole or absent.

    Args:
        folder: directory to make.
        outcome: what to store.
        overwrite: replace an existing directory.

    Raises:
        ConfigError: the directory exists and `overwrite` is false, or the settings are no JSON values.
    """
    metadata = {
        "name": outcome.name,
        "settings": _plain(outcome.settings),
        "fingerprint": outcome.fingerprint,
        "rows": outcome.count,
        "reason_names": list(outcome.reason_names),
        "removed_by_reason": outcome.counts(),
    }
    metadata["digest"] = metadata_digest(metadata)
    with ArtifactDir(folder, kind=KIND, schema_version=SCHEMA, metadata=metadata, overwrite=overwrite) as artifact:
        for name in ("kept", "removed", "reasons"):
            np.save(artifact.file(f"{name}.npy"), getattr(outcome, name), allow_pickle=False)


def load_selection(folder: str | os.PathLike[str]) -> Outcome:
    """Reads a stored outcome without knowing the data; use `replay_selection` to apply it.

    Args:
        folder: directory that `save_selection` made.

    Returns:
        The outcome.

    Raises:
        CorruptArtifactError: a file is missing or damaged, the manifest was changed, or rows do not fit together;
            names the file.
    """
    manifest = verify_manifest(folder, kind=KIND)
    if manifest.schema_version != SCHEMA:
        raise CorruptArtifactError(
            f"{folder} has layout {manifest.schema_version}, this version reads {SCHEMA}. Make the selection again."
        )
    metadata = _metadata(folder, manifest)
    rows = metadata["rows"]
    outcome = Outcome(
        name=metadata["name"],
        settings=metadata["settings"],
        fingerprint=metadata["fingerprint"],
        reason_names=tuple(metadata["reason_names"]),
        kept=_column(folder, "kept"),
        removed=_column(folder, "removed"),
        reasons=_column(folder, "reasons"),
    )
    for name in ("kept", "removed"):
        if (np.diff(getattr(outcome, name)) <= 0).any():
            raise _corrupt(folder, f"{name}.npy", "has rows that do not ascend")
    everyone = np.sort(np.concatenate([outcome.kept, outcome.removed]))
    if len(everyone) != rows or not np.array_equal(everyone, np.arange(rows)):
        raise _corrupt(folder, "kept.npy", f"and removed.npy hold rows that are not all {rows} rows")
    known = np.isin(outcome.reasons, np.arange(len(outcome.reason_names))).all()
    if not known or len(outcome.reasons) != len(outcome.removed):
        raise _corrupt(folder, "reasons.npy", "does not hold one known reason for each removed row")
    if metadata["removed_by_reason"] != outcome.counts():
        raise _corrupt(folder, MANIFEST_NAME, "counts other reasons than reasons.npy holds")
    return outcome


def replay_selection(folder: str | os.PathLike[str], fingerprint: str) -> Outcome:
    """Reads a stored outcome for data of the given fingerprint.

    Args:
        folder: directory that `save_selection` made.
        fingerprint: digest of the data at hand, by `caption_fingerprint`, `embedding_fingerprint` and the like.

    Returns:
        The outcome, whose row numbers are rows of that data.

    Raises:
        DataError: it was made on other data; names both fingerprints.
        CorruptArtifactError: as `load_selection`.
    """
    outcome = load_selection(folder)
    if outcome.fingerprint != fingerprint:
        raise DataError(
            f"{folder} selects from data {outcome.fingerprint}, but the data at hand is {fingerprint}; row numbers "
            "would mean other rows. Bring the same data in the same order, or run the filter again."
        )
    return outcome


def _metadata(folder: str | os.PathLike[str], manifest: Manifest) -> dict[str, Any]:
    """What the manifest says of the selection; CorruptArtifactError unless it is of the form that was stored."""
    metadata = dict(manifest.metadata)
    kinds = {
        "name": str,
        "settings": dict,
        "fingerprint": str,
        "rows": int,
        "reason_names": list,
        "removed_by_reason": dict,
    }
    for name, kind in kinds.items():
        if type(metadata.get(name)) is not kind:
            got = repr(metadata[name]) if name in metadata else "nothing"
            raise _corrupt(folder, MANIFEST_NAME, f"has {got} for {name}, expected {kind.__name__}")
    names = metadata["reason_names"]
    if not all(isinstance(name, str) for name in names):
        raise _corrupt(folder, MANIFEST_NAME, f"has the reason names {names}, expected texts")
    # Selections of earlier releases have no digest.
    if metadata.pop("digest", None) not in (None, metadata_digest(metadata)):
        raise _corrupt(folder, MANIFEST_NAME, "was changed after it was stored")
    return metadata


def _column(folder: str | os.PathLike[str], name: str) -> np.ndarray:
    try:
        values = np.load(os.path.join(folder, f"{name}.npy"), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _corrupt(folder, f"{name}.npy", f"cannot be read ({error})") from error
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind != "i":
        got = f"{values.dtype}{list(values.shape)}" if isinstance(values, np.ndarray) else "an archive"
        raise _corrupt(folder, f"{name}.npy", f"holds {got}, expected whole numbers [N]")
    return values


def _corrupt(folder: str | os.PathLike[str], file: str, what: str) -> CorruptArtifactError:
    return CorruptArtifactError(f"{os.path.join(folder, file)} {what}. Make the selection again.")


def _plain(settings: Mapping[str, Any]) -> Any:
    try:
        return json.loads(json.dumps(dict(settings), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"settings {dict(settings)} are no JSON values ({error}).") from error
