"""The tensors of a Hugging Face folder, read one at a time from safetensors and from nothing else.

A folder holds `model.safetensors`, or shards listed by `model.safetensors.index.json`. File names in that index are
untrusted: a path that leaves the folder is refused. Pickled weights can run code when they are read, so a folder that
has only those is refused with the way to convert it.

Headers are checked by the safetensors library. Values are then read from their place in the file into fresh memory: a
mapped file would stay resident as far as it was read, which for a shard of a large model is gigabytes.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from erel_jax.errors import CheckpointError, CorruptArtifactError
from erel_jax.folders import safe_join

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack", ".npy", ".joblib")
FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


class _Place(NamedTuple):
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


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
        self._places: dict[str, _Place] = {}
        for file in self.files:
            for name, place in _header(file).items():
                if name in self._places:
                    known = self._places[name].file
                    raise CorruptArtifactError(f"tensor {name!r} is stored twice: {known} and {file}.")
                self._places[name] = place

    @property
    def names(self) -> list[str]:
        """Every tensor name, sorted."""
        return sorted(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return self._places[name].shape

    def read(self, name: str) -> np.ndarray:
        """One tensor in its stored dtype, in memory of its own.

        Raises:
            CheckpointError: it is not of floating point (a quantized checkpoint).
            CorruptArtifactError: its file cannot be read.
        """
        place = self._places[name]
        if place.dtype not in FLOATS:
            raise CheckpointError(
                f"tensor {name!r} is {place.dtype}, expected one of {', '.join(FLOATS)}; "
                "quantized folders are not read."
            )
        buffer = np.empty(place.stop - place.start, np.uint8)
        try:
            with open(place.file, "rb", buffering=0) as stream:
                stream.seek(place.start)
                _fill(memoryview(buffer), stream)
        except OSError as error:
            raise CorruptArtifactError(f"{place.file} cannot be read ({error}). Get it again.") from error
        return buffer.view(FLOATS[place.dtype]).reshape(place.shape)

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


def _header(file: Path) -> dict[str, _Place]:
    """Where each tensor of a file lies; offsets, sizes and the file's length were checked by the library."""
    try:
        with safe_open(file, "np"), open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptArtifactError(
            f"{file} is damaged or not a safetensors file ({error}). Get it again from where it came from."
        ) from error
    header.pop("__metadata__", None)
    places = {}
    for name, entry in header.items():
        start, stop = (8 + length + offset for offset in entry["data_offsets"])
        places[name] = _Place(file, entry["dtype"], tuple(entry["shape"]), start, stop)
    return places


def _fill(view: memoryview, stream: Any) -> None:
    while view:
        count = stream.readinto(view)
        if not count:
            raise OSError("it ends early")
        view = view[count:]


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
