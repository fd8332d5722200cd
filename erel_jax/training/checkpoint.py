"""Checkpoints of a run that are whole, verified and its own.

One step is one directory `step_00000042`: the state's arrays written by Orbax under `arrays/`, and `checkpoint.json`
with the data stream's position, the run's fingerprint and the shape of every array. It is written as an
`ArtifactDir`, so a killed process leaves complete steps only, and every byte is verified before it is read (Orbax alone
restores other numbers after a flipped byte). Frozen parameters are not stored: they come from where they came from.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax import tree
from erel_jax.artifacts import ArtifactDir, check_writable, recover, verify_manifest
from erel_jax.errors import CheckpointError, ConfigError, CorruptArtifactError, NonFiniteError
from erel_jax.training.state import TrainState

KIND = "checkpoint"
SCHEMA_VERSION = 1
ARRAYS = "arrays"
DOCUMENT = "checkpoint.json"
PREFIX = "step_"

Fingerprint = Mapping[str, Any]


class Restored(NamedTuple):
    """What `Checkpoints.restore` found: the state, the data stream's position (None if none was stored), the step."""

    state: TrainState
    stream_state: dict[str, Any] | None
    step: int


class Checkpoints:
    """The checkpoints of one run in one folder.

    Opening the folder refuses one that cannot be written, removes what killed writers left and reports it. The folder's
    owner should hold a `RunLock` on it.

    Args:
        folder: Where steps are stored; created when missing.
        fingerprint: JSON values that decide what is trained on what (method, data set, seed, batch size …). A
            checkpoint with another fingerprint is refused.
        keep: How many of the newest steps to keep.
        report: Called with each warning line; prints to stderr by default.

    Raises:
        ConfigError: The folder cannot be written, `keep` is below 1, the fingerprint is no JSON, or there are several
            processes (each would write its own copy).
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        fingerprint: Fingerprint,
        keep: int = 2,
        *,
        report: Callable[[str], None] | None = None,
    ) -> None:
        if keep < 1:
            raise ConfigError(f"got keep={keep}, expected at least 1.")
        if jax.process_count() > 1:
            raise ConfigError("checkpoints of several processes are not supported; train in one process.")
        self.folder = check_writable(folder)
        self.keep = keep
        self.report = report or _print_warning
        self.fingerprint = _plain(fingerprint)
        self._damaged: set[int] = set()
        for line in recover(self.folder):
            self.report(f"{self.folder}: {line}")

    def steps(self) -> list[int]:
        """The stored steps, oldest first; whether they can be read is not checked."""
        names = [path.name.removeprefix(PREFIX) for path in self.folder.glob(f"{PREFIX}*") if path.is_dir()]
        return sorted(int(name) for name in names if name.isdigit())

    def latest(self) -> int | None:
        """The newest stored step, or None."""
        return max(self.steps(), default=None)

    def path(self, step: int) -> Path:
        """The directory of a step."""
        return self.folder / f"{PREFIX}{step:08d}"

    def refuse_later(self, step: int) -> None:
        """Refuses to train on from `step` into steps that are stored already; damaged ones do not count.

        Raises:
            ConfigError: There are later steps.
        """
        later = [other for other in self.steps() if other > step and other not in self._damaged]
        if later:
            raise ConfigError(
                f"{self.folder} holds steps {later}, training would start at {step}. "
                "Resume from the newest, delete them, or choose another folder."
            )

    def save(
        self,
        step: int,
        state: TrainState,
        stream_state: Mapping[str, Any] | None = None,
        *,
        overwrite: bool = False,
        save_nonfinite: bool = False,
    ) -> Path:
        """Stores a state; returns when it is safe on disk.

        Args:
            step: The step number, that of `state.step`.
            state: The state; arrays may live on any number of devices.
            stream_state: JSON values from which the data stream goes on.
            overwrite: Replace an existing step. One that `restore` found damaged is replaced in any case.
            save_nonfinite: Store NaN and infinity too, to look at them.

        Returns:
            The step's directory. Older steps beyond `keep` are deleted.

        Raises:
            ConfigError: The step exists, or `stream_state` is no JSON.
            NonFiniteError: A parameter or optimizer value is not finite; nothing is written.
            OSError: The disk is full; older steps are untouched.
        """
        arrays = _host_arrays(state)
        if not save_nonfinite:
            _refuse_nonfinite(step, arrays)
        document = {
            "step": step,
            "fingerprint": self.fingerprint,
            "stream": None if stream_state is None else _plain(stream_state),
            "arrays": _describe(state),
        }
        overwrite = overwrite or step in self._damaged
        with ArtifactDir(
            self.path(step), kind=KIND, schema_version=SCHEMA_VERSION, metadata={"step": step}, overwrite=overwrite
        ) as artifact:
            _write_arrays(artifact.path / ARRAYS, arrays)
            artifact.file(DOCUMENT).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        self._damaged.discard(step)
        self._prune(step)
        return self.path(step)

    def restore(self, template: TrainState, resume: Literal["auto", "latest"] | int = "auto") -> Restored | None:
        """Reads a state back, bit for bit.

        Args:
            template: A state of the wanted structure, shapes and placement (a new one, placed as for training); only
                its shapes and shardings are used, so the number of devices may differ from that of the saving run.
            resume: "auto": the newest step that is sound, with a warning for each damaged one passed over; "latest":
                the newest, or an error; a number: that step.

        Returns:
            The state in the template's placement, the stream's position and the step; None when there is no
            checkpoint at all (never for a number).

        Raises:
            ConfigError: The checkpoint has another fingerprint; both are shown.
            CheckpointError: Arrays are missing, superfluous or of another shape; all are listed.
            CorruptArtifactError: The step (for "auto": every step) is damaged; names the file.
        """
        if isinstance(resume, int):
            if resume not in self.steps():
                raise CheckpointError(f"{self.folder} has no step {resume}; it has {self.steps() or 'none'}.")
            return self._read(resume, template)
        candidates = sorted(self.steps(), reverse=True)
        if resume == "latest":
            candidates = candidates[:1]
        for index, step in enumerate(candidates):
            try:
                return self._read(step, template)
            except CorruptArtifactError as error:
                self._damaged.add(step)
                if index + 1 == len(candidates):
                    raise
                self.report(f"step {step} is damaged, falling back to step {candidates[index + 1]}: {error}")
        return None

    def _read(self, step: int, template: TrainState) -> Restored:
        path = self.path(step)
        manifest = verify_manifest(path, kind=KIND)
        if manifest.schema_version != SCHEMA_VERSION:
            raise CheckpointError(
                f"{path} has checkpoint schema {manifest.schema_version}, this version of erel_jax reads "
                f"{SCHEMA_VERSION}. Resume with the version that wrote it, or start anew in another folder."
            )
        document = _read_document(path / DOCUMENT)
        self._compare(path, document, template)
        state = _rebuild(template, _read_arrays(path / ARRAYS))
        return Restored(state, document["stream"], document["step"])

    def _compare(self, path: Path, document: dict[str, Any], template: TrainState) -> None:
        arrays = _array_differences(document["arrays"], _describe(template))
        differing = _fingerprint_differences(document["fingerprint"], self.fingerprint)
        if differing:
            raise ConfigError(
                f"{path} belongs to another run: {'; '.join([*differing, *arrays])}. "
                "Resume with the options it was made with, or choose another folder."
            )
        if arrays:
            raise CheckpointError(
                f"{path} does not fit: {'; '.join(arrays)}. Resume with the model and optimizer it was made with."
            )

    def _prune(self, newest: int) -> None:
        sound = [step for step in self.steps() if step not in self._damaged]
        stale = {step for step in self._damaged if step <= newest} | set(sound[: -self.keep])
        for step in stale - {newest}:
            shutil.rmtree(self.path(step), ignore_errors=True)
            self._damaged.discard(step)


def _print_warning(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as JSON gives them back, so that a tuple equals the list it is stored as."""
    try:
        return json.loads(json.dumps(dict(values), sort_keys=True, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"got values that JSON cannot hold ({error}); use strings, numbers, lists, dicts.") from error


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _describe(state: TrainState) -> dict[str, list[Any]]:
    """path → [dtype, shape] of every array; a random key's dtype names its algorithm."""
    return {name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in tree.paths(state).items()}


def _host_arrays(state: TrainState) -> dict[str, np.ndarray]:
    bare = jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, state)
    return {name: np.asarray(leaf) for name, leaf in tree.paths(jax.device_get(bare)).items()}


def _refuse_nonfinite(step: int, arrays: Mapping[str, np.ndarray]) -> None:
    wrong = [
        name
        for name, array in arrays.items()
        if jnp.issubdtype(array.dtype, jnp.floating) and not np.isfinite(array).all()
    ]
    if wrong:
        raise NonFiniteError(
            f"step {step} has NaN or infinity in {len(wrong)} arrays ({', '.join(wrong[:5])}) and is not saved; the "
            "last finite step stays. Lower the learning rate or clip gradients."
        )


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    import orbax.checkpoint as ocp

    nested: dict[str, Any] = {}
    for name, array in arrays.items():
        if array.size == 0:
            continue  # Orbax refuses empty arrays; `_rebuild` makes them from the template.
        *parents, last = name.split("/")
        branch = nested
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = array
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as writer:
        writer.save(path.absolute(), args=ocp.args.StandardSave(nested))


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp

    try:
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            nested = reader.restore(path.absolute())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptArtifactError(
            f"{path} cannot be read ({error}). Delete the step, or resume an older one."
        ) from error
    return {name: np.asarray(leaf) for name, leaf in tree.paths(nested).items()}


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
        return {name: document[name] for name in ("step", "fingerprint", "stream", "arrays")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptArtifactError(
            f"{path} cannot be read ({error}). Delete the step, or resume an older one."
        ) from error


def _rebuild(template: TrainState, arrays: Mapping[str, np.ndarray]) -> TrainState:
    def build(name: str, like: Any) -> jax.Array:
        if 0 not in like.shape and name not in arrays:
            raise CorruptArtifactError(f"array {name} is missing from the checkpoint although its list names it.")
        array = arrays.get(name, np.zeros(like.shape, like.dtype) if 0 in like.shape else None)
        home = getattr(like, "sharding", None)
        if _is_key(like):
            return jax.device_put(jax.random.wrap_key_data(jnp.asarray(array), impl=_key_name(like)), home)
        return jax.device_put(array, home)

    return tree.map_with_path(build, template)


def _key_name(key: Any) -> str:
    return str(jax.random.key_impl(key))


def _array_differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    def listing(title: str, names: list[str]) -> list[str]:
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        return [f"{title}: {', '.join(names[:10])}{more}"] if names else []

    changed = [
        f"{name} stored {stored[name][0]}{stored[name][1]}, expected {wanted[name][0]}{wanted[name][1]}"
        for name in wanted
        if name in stored and stored[name] != wanted[name]
    ]
    return [
        *listing("missing arrays", [name for name in wanted if name not in stored]),
        *listing("extra arrays", [name for name in stored if name not in wanted]),
        *listing("changed arrays", changed),
    ]


def _fingerprint_differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    absent = "(absent)"
    return [
        f"{name} is {stored.get(name, absent)!r} there and {wanted.get(name, absent)!r} here"
        for name in sorted({*stored, *wanted})
        if stored.get(name, absent) != wanted.get(name, absent)
    ]
