"""Dataset reinforcement: a teacher looks at several augmented copies of every picture once, and many students learn.

What a teacher says of a copy is stored by row and number of the copy; the copy itself is not, since its seed makes it
again (`augmentation`). A store is built chunk by chunk, goes on where it was stopped, and is refused where it was built
from another teacher, other data, another seed or other settings.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from erel_jax.data.state_store import Layout, Progress, StateStore, Storage, open_store
from erel_jax.distillation.augmentation import Augmentation, augment, copy_seeds
from erel_jax.errors import ConfigError


@dataclass(frozen=True, kw_only=True, eq=False)
class ReinforcedSet:
    """Stored embeddings of augmented copies.

    Attributes:
        store: the embeddings, copy by copy: row `copy · rows + row`.
        rows: number of pictures N.
        picture: shape [H, W, C] of each.
        copies: copies of each.
        seed: of the whole set.
        augmentation: what was done to the copies.
    """

    store: StateStore
    rows: int
    picture: tuple[int, ...]
    copies: int
    seed: int
    augmentation: Augmentation

    def embeddings(self, rows: np.ndarray, copies: np.ndarray) -> np.ndarray:
        """What the teacher said of these copies, float32[B, E]; rows and copies are int[B].

        Raises:
            ConfigError: a row or copy that is not stored, or rows and copies of different shapes.
        """
        return self.store.widened(self._places(rows, copies))

    def images(self, images: np.ndarray, rows: np.ndarray, copies: np.ndarray) -> jax.Array:
        """The copies themselves, uint8[B, H, W, C], made again from `images` uint8[N, H, W, C].

        Raises:
            ConfigError: as `embeddings`, or the images are not those of the set by number and shape.
        """
        self._places(rows, copies)
        if np.shape(images) != (self.rows, *self.picture):
            raise ConfigError(
                f"images have shape {list(np.shape(images))}, expected {[self.rows, *self.picture]}; bring all "
                "pictures that the set was built from, in the same order."
            )
        pictures = np.ascontiguousarray(images[rows])
        return augment(pictures, copy_seeds(self.seed, rows, copies), self.augmentation)

    def _places(self, rows: np.ndarray, copies: np.ndarray) -> np.ndarray:
        rows, copies = np.asarray(rows), np.asarray(copies)
        if rows.shape != copies.shape or rows.ndim != 1 or rows.dtype.kind not in "iu" or copies.dtype.kind not in "iu":
            raise ConfigError(
                f"got rows {rows.dtype}{list(rows.shape)} and copies {copies.dtype}{list(copies.shape)}, expected both "
                "as int[B]."
            )
        if rows.size and (rows.min() < 0 or rows.max() >= self.rows or copies.min() < 0 or copies.max() >= self.copies):
            raise ConfigError(
                f"got rows {rows.min()} to {rows.max()} and copies {copies.min()} to {copies.max()}, expected 0 to "
                f"{self.rows - 1} and 0 to {self.copies - 1}."
            )
        return copies.astype(np.int64) * self.rows + rows


def reinforce(
    folder: Path,
    images: np.ndarray,
    teacher: Callable[[jax.Array], jax.typing.ArrayLike],
    *,
    width: int,
    identity: Mapping[str, str],
    copies: int = 4,
    seed: int = 0,
    augmentation: Augmentation | None = None,
    batch: int = 256,
    storage: Storage = "bfloat16",
    progress: Progress = lambda stage, done, total: None,
) -> ReinforcedSet:
    """Opens the stored embeddings of augmented copies; the teacher looks at what is missing or damaged.

    Args:
        folder: of this teacher's store.
        images: uint8[N, H, W, C], in memory or mapped from disk.
        teacher: from copies uint8[batch, H, W, C] to embeddings float[batch, E]; always called with `batch` pictures.
        width: E.
        identity: fingerprints by what they identify, at least of the teacher's weights and of the data.
        copies, seed: copies of each picture, and the seed of the whole set.
        augmentation: what may happen to copies; None is `Augmentation()`.
        batch, storage: pictures per call, which is also the store's chunk, and how embeddings are kept (`Layout`).
        progress: called with (stage, copies done, copies in all).

    Returns:
        The set; `ReinforcedSet.store.encoded_rows` says how much was missing.

    Raises:
        ConfigError: no identity, no copies, images of another kind, or a teacher that gives other rows than asked.
        CheckpointError: the folder was built from something else; every difference is named.
        NonFiniteError: the teacher gave NaN or infinity.

    Reference: MobileCLIP (Vasu et al. 2024), with stored seeds in place of stored parameters; the paper has 10 to 30
    copies. Texts are not augmented: store their embeddings the same way with `data.state_store`.
    """
    chosen = augmentation or Augmentation()
    _check(images, copies, identity)
    count = len(images)

    def encode(start: int, stop: int) -> np.ndarray:
        places = np.minimum(np.arange(start, start + batch), stop - 1)
        rows, numbers = places % count, places // count
        pixels = augment(np.ascontiguousarray(images[rows]), copy_seeds(seed, rows, numbers), chosen)
        return _rows_of(teacher(pixels), batch)[: stop - start]

    settings = {f"augmentation.{name}": repr(value) for name, value in dataclasses.asdict(chosen).items()}
    store = open_store(
        Path(folder),
        name="reinforced",
        identity={**identity, **settings, "seed": str(seed), "copies": str(copies), "pictures": str(count)},
        layout=Layout(rows=count * copies, shape=(width,), storage=storage, chunk=batch),
        encode=encode,
        progress=progress,
    )
    return ReinforcedSet(
        store=store, rows=count, picture=images.shape[1:], copies=copies, seed=seed, augmentation=chosen
    )


def _rows_of(given: jax.typing.ArrayLike, count: int) -> np.ndarray:
    found = np.asarray(given, np.float32)
    if found.shape[:1] != (count,):
        raise ConfigError(
            f"the teacher gave {list(found.shape)} for {count} pictures, expected float[{count}, E]: one row for each, "
            "in their order."
        )
    return found


def _check(images: np.ndarray, copies: int, identity: Mapping[str, str]) -> None:
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) == 0:
        raise ConfigError(f"images are {images.dtype}{list(images.shape)}, expected uint8[N, H, W, C] with N above 0.")
    if copies < 1 or not identity:
        raise ConfigError(
            f"got {copies} copies and identity {dict(identity)}, expected at least one of each: without fingerprints "
            "of the teacher and the data, a store of others would pass for theirs."
        )
