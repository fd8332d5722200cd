"""The tensors of a Hugging Face folder, read lazily from safetensors and from nothing else.

A folder holds `model.safetensors`, or shards listed by `model.safetensors.index.json`. File names in that index are
untrusted: a path that leaves the folder is refused. Pickled weights can run code when they are read, so a folder that
has only those is refused with the way to convert it.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from erel_jax.errors import CheckpointError, CorruptArtifactError
from erel_jax.folders import safe_join

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack", ".npy", ".joblib")


class TensorFolder:
    """The tensors of a folder by name.

    Args:
        folder: a folder in the Hugging Face layout.
        link_root: a second folder into which symbolic links may lead, see `erel_jax.folders.safe_join`.

    Raises:
        CheckpointError: the folder holds no safetensors weights.
        CorruptArtifactError: a file is missing, damaged or not safetensors, or the index leads out of the folder.
    """

    def __init__(self, folder: str | os.PathLike[str], *, link_root: str | os.PathLike[str] | None = None) -> None:
        self.folder = Path(folder)
        self.link_root = link_root
        self.files = self._find()
        self._places: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for file in self.files:
            with _opened(file) as stream:
                for name in stream.keys():  # noqa: SIM118 (not a dict)
                    if name in self._places:
                        raise CorruptArtifactError(f"tensor {name!r} is stored twice: {self._places[name]} and {file}.")
                    self._places[name] = file
                    self._shapes[name] = tuple(stream.get_slice(name).get_shape())

    @property
    def names(self) -> list[str]:
        """Every tensor name, sorted."""
        return sorted(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return self._shapes[name]

    def read(self, names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (name, array) for the given tensors, file by file; arrays are in their stored dtype.

        Raises:
            CorruptArtifactError: a file cannot be read.
        """
        for file in self.files:
            wanted = [name for name in names if self._places[name] == file]
            if wanted:
                with _opened(file) as stream:
                    for name in wanted:
                        yield name, stream.get_tensor(name)

    def digests(self) -> dict[str, str]:
        """SHA-256 hex digest of every weight file by its path inside the folder."""
        found = {}
        for file in self.files:
            with open(file, "rb") as stream:
                found[file.relative_to(self.folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
        return found

    def _find(self) -> list[Path]:
        single = safe_join(self.folder, WEIGHTS, link_root=self.link_root)
        if single.is_file():
            return [single]
        index = safe_join(self.folder, INDEX, link_root=self.link_root)
        if index.is_file():
            return self._shards(index)
        pickled = sorted(p.name for p in self.folder.iterdir() if p.suffix.lower() in PICKLES)
        if pickled:
            raise CheckpointError(
                f"{self.folder} holds no {WEIGHTS}, only {', '.join(pickled)}: such files can run code when they are "
                "read and are refused. Convert them where that is safe, with torch installed: "
                "AutoModel.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER) of transformers writes safetensors."
            )
        raise CheckpointError(f"{self.folder} holds neither {WEIGHTS} nor {INDEX}. Point to a folder with weights.")

    def _shards(self, index: Path) -> list[Path]:
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
            raise CorruptArtifactError(f"{index} has no 'weight_map' from tensor names to file names. Get it again.")
        files = []
        for name in sorted(set(weight_map.values())):
            if not name.endswith(".safetensors"):
                raise CorruptArtifactError(f"{index} lists {name!r}: only .safetensors files are read.")
            file = safe_join(self.folder, name, link_root=self.link_root)
            if not file.is_file():
                raise CorruptArtifactError(f"{file} is missing although {index.name} lists it. Get the folder again.")
            files.append(file)
        if not files:
            raise CorruptArtifactError(f"{index} lists no files. Get it again.")
        return files


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, "np") as stream:
            yield stream
    except (SafetensorError, OSError) as error:
        raise CorruptArtifactError(
            f"{file} is damaged or not a safetensors file ({error}). Get it again from where it came from."
        ) from error


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CorruptArtifactError: the file cannot be read, is not JSON, or holds something other than an object.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CorruptArtifactError(f"{path} cannot be read as JSON ({error}). Get it again.") from error
    if not isinstance(value, dict):
        raise CorruptArtifactError(f"{path} holds a JSON {type(value).__name__}, expected an object.")
    return value
