"""Files that are either whole or absent.

Whatever this package stores (checkpoints, cached hidden states, data sets, reports) goes through this file, so that a
killed process, a full disk or a flipped byte is noticed instead of read. A single file is written under a temporary
name and renamed. An artifact that needs several files is a directory: it is filled under `name.tmp-<pid>`, every file
is flushed to disk, a `manifest.json` with the size and SHA-256 of each file is written last, and the directory is
renamed to its final name. Readers call `verify_manifest` first.

    with ArtifactDir(folder / "states", kind="hidden-states") as artifact:
        np.save(artifact.file("layer_0.npy"), states, allow_pickle=False)
    verify_manifest(folder / "states", kind="hidden-states")
"""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from erel_jax.errors import ConfigError, CorruptArtifactError, ErelError
from erel_jax.folders import RunLock, cache_folder, check_writable, safe_join

__all__ = [
    "ArtifactDir",
    "Manifest",
    "RunLock",
    "cache_folder",
    "check_replaceable",
    "check_writable",
    "metadata_digest",
    "process_runs",
    "read_manifest",
    "recover",
    "safe_join",
    "verify_manifest",
    "write_bytes_atomic",
    "write_text_atomic",
]

MANIFEST_NAME = "manifest.json"
MANIFEST_SCHEMA = 1
FULL_VERIFY_LIMIT_BYTES = 2 * 1024**3

Verify = Literal["auto", "full", "size", "off"]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `manifest.json` says about an artifact directory.

    Attributes:
        kind: What the directory holds, e.g. `"checkpoint"`.
        schema_version: Version of the layout inside the directory, owned by whoever writes that kind.
        files: Relative POSIX path to `(size in bytes, SHA-256 hex digest)`.
        metadata: Free JSON values of the writer.
    """

    kind: str
    schema_version: int
    files: Mapping[str, tuple[int, str]]
    metadata: Mapping[str, Any] = field(default_factory=dict)


def write_bytes_atomic(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write a file so that a reader sees the old content or the new, never a part.

    Args:
        path: Final name. Its folder must exist.
        data: The whole content.

    Returns:
        The final path.

    Raises:
        OSError: The disk is full or the folder cannot be written; the old file is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return path


def write_text_atomic(path: str | os.PathLike[str], text: str) -> Path:
    """Write UTF-8 text with the guarantee of `write_bytes_atomic`.

    Args:
        path: Final name. Its folder must exist.
        text: The whole content; line ends are written as they are.

    Returns:
        The final path.
    """
    return write_bytes_atomic(path, text.encode("utf-8"))


class ArtifactDir:
    """Context manager that makes a directory appear whole, with a manifest, or not at all.

    Inside the block `path` is the temporary directory to fill; any writer may create files and folders there. Leaving
    the block normally flushes and hashes every file, writes the manifest and renames. Leaving it by an exception
    removes the temporary directory and keeps an older artifact of the same name.

    Args:
        path: Final directory, or a symbolic link to it. Its parent is created when missing.
        kind: What the directory holds; `verify_manifest` can insist on it.
        schema_version: Layout version of this kind.
        metadata: JSON values stored in the manifest; may be added to inside the block.
        overwrite: Replace an existing directory of this kind. Without it an existing one is refused.

    Raises:
        ConfigError: The directory exists and `overwrite` is false, or it cannot be made; on leaving the block, it holds
            something else (see `check_replaceable`).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        kind: str,
        schema_version: int = 1,
        metadata: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.final = Path(os.path.realpath(path))  # behind a link: the link itself stays what it is
        self.path = self.final.with_name(f"{self.final.name}.tmp-{os.getpid()}")
        self.kind = kind
        self.schema_version = schema_version
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.overwrite = overwrite

    def __enter__(self) -> Self:
        if self.final.exists() and not self.overwrite:
            raise ConfigError(f"{self.final} exists already. Choose another name, or ask to overwrite it.")
        try:
            self.final.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ConfigError(
                f"{self.final} cannot be made: {self.final.parent} is or lies below a file, expected a folder. Choose "
                "another name."
            ) from None
        if self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._commit()
        finally:
            shutil.rmtree(self.path, ignore_errors=True)

    def file(self, name: str) -> Path:
        """Return the path at which to write the file `name`, creating its folder.

        Args:
            name: Relative POSIX path inside the artifact.

        Returns:
            A path inside the temporary directory.
        """
        path = safe_join(self.path, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _commit(self) -> None:
        files: dict[str, dict[str, Any]] = {}
        for path in sorted(self.path.rglob("*")):
            if path.is_symlink():
                raise ErelError(f"{path} is a symbolic link; an artifact holds plain files only.")
            if path.is_dir():
                _sync_folder(path)
            else:
                files[path.relative_to(self.path).as_posix()] = {"size": path.stat().st_size, "sha256": _digest(path)}
        document = {
            "manifest_schema": MANIFEST_SCHEMA,
            "kind": self.kind,
            "schema_version": self.schema_version,
            "metadata": self.metadata,
            "files": files,
        }
        check_replaceable(self.final, self.kind, files)
        write_text_atomic(self.path / MANIFEST_NAME, json.dumps(document, indent=1, sort_keys=True) + "\n")
        replaced = self.final.with_name(f"{self.final.name}.old-{os.getpid()}")
        if self.final.exists():
            os.rename(self.final, replaced)
        try:
            os.rename(self.path, self.final)
        except OSError:
            if replaced.exists():
                os.rename(replaced, self.final)
            raise
        _sync_folder(self.final.parent)
        shutil.rmtree(replaced, ignore_errors=True)


def check_replaceable(path: str | os.PathLike[str], kind: str, files: Collection[str] = ()) -> None:
    """Refuse to put an artifact in the place of something else.

    Args:
        path: Where the artifact shall lie.
        kind: What it holds.
        files: Names of its files: a directory with these at its top, and no others, is the same artifact with a damaged
            manifest.

    Raises:
        ConfigError: A file is there, or a directory that is neither empty nor an artifact of this kind, or one that
            this process runs in.
    """
    final = Path(os.path.realpath(path))
    if Path.cwd().is_relative_to(final):
        raise ConfigError(f"{final} is the folder this process runs in, or above it. Name a folder to make below it.")
    if not final.exists() or (final.is_dir() and not any(final.iterdir())):
        return
    try:
        holds = read_manifest(final).kind
        if holds == kind:
            return
        found = f"holds {holds!r}"
    except CorruptArtifactError:
        names = {entry.name for entry in final.iterdir()} if final.is_dir() else set()
        if files and names - {MANIFEST_NAME} == {name.split("/")[0] for name in files}:
            return
        found = "holds something else" if final.is_dir() else "is a file"
    raise ConfigError(
        f"{final} {found}, expected an artifact of kind {kind!r}, an empty folder or nothing; it is left "
        "as it is. Choose another name, or move it away yourself."
    )


def metadata_digest(metadata: Mapping[str, Any]) -> str:
    """SHA-256 of metadata as JSON, to be kept among it: a manifest's own checksums are of the other files alone."""
    return hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode("ascii")).hexdigest()


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read the manifest of an artifact directory without looking at its files.

    Args:
        path: The artifact directory.

    Returns:
        Its manifest.

    Raises:
        CorruptArtifactError: There is no manifest, or it cannot be understood.
    """
    source = Path(path) / MANIFEST_NAME
    try:
        document = json.loads(source.read_bytes())
        version = document["manifest_schema"]
        files = {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in document["files"].items()}
        manifest = Manifest(
            kind=str(document["kind"]),
            schema_version=int(document["schema_version"]),
            files=files,
            metadata=dict(document["metadata"]),
        )
    except FileNotFoundError:
        raise CorruptArtifactError(
            f"{path} has no {MANIFEST_NAME}: it was not finished, or this package did not write it. Make it again."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptArtifactError(
            f"{source} cannot be read ({error}). Delete the directory and make it again."
        ) from error
    if version != MANIFEST_SCHEMA:
        raise CorruptArtifactError(
            f"{source} has manifest schema {version!r}; this version of erel_jax reads {MANIFEST_SCHEMA}. "
            "Read it with the version that wrote it, or make it again."
        )
    return manifest


def verify_manifest(path: str | os.PathLike[str], verify: Verify = "auto", *, kind: str | None = None) -> Manifest:
    """Check an artifact directory against its manifest before reading it.

    Files that the manifest does not list are ignored. The digests protect against damage, not against an attacker who
    can rewrite the manifest too.

    Args:
        path: The artifact directory.
        verify: `"full"` compares sizes and SHA-256, `"size"` sizes alone, `"off"` only reads the manifest; `"auto"` is
            `"full"` below 2 GB in total and `"size"` above.
        kind: What the directory must hold, or None to accept any kind.

    Returns:
        The manifest.

    Raises:
        CorruptArtifactError: A file is missing, has another size or content, or the kind differs; names the file.
    """
    manifest = read_manifest(path)
    if kind is not None and manifest.kind != kind:
        raise CorruptArtifactError(f"{path} holds {manifest.kind!r}, expected {kind!r}. Point to the right directory.")
    if verify == "off":
        return manifest
    if verify == "auto":
        total = sum(size for size, _ in manifest.files.values())
        verify = "full" if total <= FULL_VERIFY_LIMIT_BYTES else "size"
    for name, (size, digest) in manifest.files.items():
        file = safe_join(path, name)
        advice = "Delete the directory and make it again, or restore it from a copy."
        if not file.is_file():
            raise CorruptArtifactError(f"{file} is missing although the manifest lists it. {advice}")
        if (found := file.stat().st_size) != size:
            raise CorruptArtifactError(f"{file} has {found} bytes, the manifest says {size}. {advice}")
        if verify == "full" and (actual := _digest(file)) != digest:
            raise CorruptArtifactError(
                f"{file} is damaged: SHA-256 {actual[:12]}…, the manifest says {digest[:12]}…. {advice}"
            )
    return manifest


def recover(folder: str | os.PathLike[str]) -> list[str]:
    """Clean up what killed writers left in a folder.

    Removes `name.tmp-<pid>` of processes that no longer run on this host. If a process died in the instant between
    moving an old artifact away and putting the new one in place, the old one is moved back.

    Args:
        folder: The folder that holds artifact directories. It may be missing.

    Returns:
        One line per leftover: what was done with it.
    """
    done: list[str] = []
    for path in sorted(Path(folder).glob("*")):
        name, marker, pid = path.name.rpartition(".tmp-")
        if not marker:
            name, marker, pid = path.name.rpartition(".old-")
        if not marker or not pid.isdigit() or process_runs(int(pid)):
            continue
        if marker == ".old-" and not path.with_name(name).exists():
            os.rename(path, path.with_name(name))
            done.append(f"{name}: moved back from {path.name}")
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        done.append(f"{path.name}: removed, its writer was killed")
    return done


def _digest(path: Path) -> str:
    """Flush a file to disk and hash it."""
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def process_runs(pid: int) -> bool:
    """Whether a process of this host is alive."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
