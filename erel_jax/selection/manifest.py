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

from erel_jax.artifacts import ArtifactDir, verify_manifest
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
        CorruptArtifactError: a file is missing or damaged, or rows do not fit together.
    """
    manifest = verify_manifest(folder, kind=KIND)
    if manifest.schema_version != SCHEMA:
        raise CorruptArtifactError(
            f"{folder} has layout {manifest.schema_version}, this version reads {SCHEMA}. Make the selection again."
        )
    arrays = {name: np.load(os.path.join(folder, f"{name}.npy")) for name in ("kept", "removed", "reasons")}
    try:
        outcome = Outcome(
            name=manifest.metadata["name"],
            settings=manifest.metadata["settings"],
            fingerprint=manifest.metadata["fingerprint"],
            reason_names=tuple(manifest.metadata["reason_names"]),
            **arrays,
        )
        rows = int(manifest.metadata["rows"])
    except KeyError as error:
        raise CorruptArtifactError(f"{folder} lacks {error} in its manifest. Make the selection again.") from error
    everyone = np.sort(np.concatenate([outcome.kept, outcome.removed]))
    fits = np.array_equal(everyone, np.arange(rows)) and len(outcome.reasons) == len(outcome.removed)
    if not fits or not np.isin(outcome.reasons, np.arange(len(outcome.reason_names))).all():
        raise CorruptArtifactError(
            f"{folder}: kept and removed rows are not all {rows} rows. Make the selection again."
        )
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


def _plain(settings: Mapping[str, Any]) -> Any:
    try:
        return json.loads(json.dumps(dict(settings), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"settings {dict(settings)} are no JSON values ({error}).") from error
