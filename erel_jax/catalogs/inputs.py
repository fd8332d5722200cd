"""Rows to batches of prepared inputs: pictures decoded by threads ahead of the encoder, texts of like length together.

Whatever cannot be prepared is handed over as `LeftOut`, never dropped in silence. All batches of pictures have one
shape, and texts a few (powers of two), so that few programs are compiled.
"""

import itertools
import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from erel_jax.catalogs.models import Embedder
from erel_jax.data.catalog_sources import Source
from erel_jax.data.catalog_tables import Row
from erel_jax.data.image_resize import fit_picture
from erel_jax.data.image_sources import MissingImage
from erel_jax.data.images import BadImage, decode_image
from erel_jax.errors import DataError

LONG_TEXT = 10_000
"""Characters from which a text that is cut is listed by itself."""
TOKENIZED_AT_ONCE = 512
AHEAD = 3
"""Batches of pictures that are being decoded while one is encoded."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """One row that was left out, or kept with something cut off.

    Attributes:
        row: its number from 0.
        id: its id, "" where that is not known.
        file: file and line.
        kind: what is wrong, in two or three words; rows are counted by it.
        reason: the same in detail.
        kept: whether the row has a vector nevertheless.
    """

    row: int
    id: str
    file: str
    kind: str
    reason: str
    kept: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Inputs of one step.

    Attributes:
        rows: the rows that it holds, at most its size.
        inputs: arrays with a leading axis of the size; places behind the rows hold filling.
        real: tokens (of texts) or pictures in it.
        padded: tokens or pictures that are computed for it.
    """

    rows: list[Row]
    inputs: dict[str, np.ndarray]
    real: int
    padded: int

    @property
    def shape(self) -> tuple[int, ...]:
        """What decides whether a program is compiled for it."""
        return next(iter(self.inputs.values())).shape


class Preparation:
    """Turns rows of a source into batches; a context manager.

    Args:
        embedder: whose inputs they become.
        source: where rows come from.
        batch: rows per batch.
        decoders: threads that decode pictures.

    Attributes:
        left_out: rows that could not be prepared, or were cut; take and clear it.
        cut: texts that were cut so far.
    """

    def __init__(self, embedder: Embedder, source: Source, *, batch: int, decoders: int) -> None:
        self.embedder, self.source, self.batch = embedder, source, batch
        self.left_out: list[LeftOut] = []
        self.cut = 0
        self._pictures = source.pictures() if embedder.modality == "image" else None
        self._pool = ThreadPoolExecutor(max_workers=decoders, thread_name_prefix="decoder")

    def __enter__(self) -> "Preparation":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._pictures is not None:
            self._pictures.__exit__()

    def batches(self, rows: Iterable[Row]) -> Iterator[Batch]:
        """Batches of some rows; pictures in order, texts from the longest on.

        Raises:
            DataError: the source cannot be read on.
        """
        sound = (row for row in rows if self._is_usable(row))
        return self._picture_batches(sound) if self.embedder.modality == "image" else self._text_batches(list(sound))

    def leave_out(self, row: Row, kind: str, reason: str, *, kept: bool = False) -> None:
        """Lists a row."""
        source = self.source
        file = f"{source.path.name}, {source.line(row.place)}" if source.kind != "pictures" else str(row.image)
        self.left_out.append(LeftOut(row=row.place.number, id=row.id, file=file, kind=kind, reason=reason, kept=kept))

    def _is_usable(self, row: Row) -> bool:
        if row.fault is not None:
            self.leave_out(row, "malformed row", row.fault)
        elif self.embedder.modality == "image" and row.image is None:
            self.leave_out(row, "no picture", "the row names no picture")
        elif self.embedder.modality == "text" and not row.text:
            self.leave_out(row, "no text", "the text is empty" if row.text == "" else "the row has no text")
        else:
            return True
        return False

    def _picture_batches(self, rows: Iterator[Row]) -> Iterator[Batch]:
        waiting: deque[tuple[Row, Future[np.ndarray]]] = deque()
        full: list[tuple[Row, np.ndarray]] = []
        for row in itertools.chain(rows, itertools.repeat(None)):
            if row is not None:
                waiting.append((row, self._pool.submit(self._pixels, row)))
                if len(waiting) < AHEAD * self.batch:
                    continue
            if not waiting:
                break
            full += self._finished(*waiting.popleft())
            if len(full) == self.batch:
                yield self._pictures_together(full)
                full = []
        if full:
            yield self._pictures_together(full)

    def _finished(self, row: Row, future: Future[np.ndarray]) -> list[tuple[Row, np.ndarray]]:
        try:
            return [(row, future.result())]
        except MissingImage as error:
            self.leave_out(row, "picture missing", str(error))
        except BadImage as error:
            # Without the address of the bytes in memory: every worker writes the same about a picture.
            self.leave_out(row, "broken picture", re.sub(r" <_io\.[^>]*>", "", str(error)))
        except DataError as error:  # a path that leads out of the folder
            self.leave_out(row, "path refused", str(error))
        return []

    def _pixels(self, row: Row) -> np.ndarray:
        assert self._pictures is not None and row.image is not None
        picture = decode_image(self._pictures.read(row.image) if isinstance(row.image, str) else row.image)
        settings = self.embedder.settings
        if settings is not None:
            return fit_picture(picture, settings.resize, settings.crop, settings.resample)
        return self.embedder.loaded.image_inputs([picture])["pixels"][0]

    def _pictures_together(self, full: list[tuple[Row, np.ndarray]]) -> Batch:
        first = full[0][1]
        pixels = np.zeros((self.batch, *first.shape), first.dtype)
        for place, (_, picture) in enumerate(full):
            pixels[place] = picture
        return Batch(rows=[row for row, _ in full], inputs={"pixels": pixels}, real=len(full), padded=self.batch)

    def _text_batches(self, rows: list[Row]) -> Iterator[Batch]:
        tokenized = [
            part
            for start in range(0, len(rows), TOKENIZED_AT_ONCE)
            for part in self._tokenized(rows[start : start + TOKENIZED_AT_ONCE])
        ]
        tokenized.sort(key=lambda pair: -len(pair[1]))
        for start in range(0, len(tokenized), self.batch):
            yield self._texts_together(tokenized[start : start + self.batch])

    def _tokenized(self, rows: list[Row]) -> list[tuple[Row, np.ndarray]]:
        tokenizer, limit = self.embedder.loaded.tokenizer, self.embedder.buckets[-1]
        assert tokenizer is not None
        before = tokenizer.truncated
        inputs = tokenizer.encode([row.text or "" for row in rows], limit, self.embedder.buckets)
        cut = tokenizer.truncated - before
        self.cut += cut
        for row in rows if cut else []:
            if len(row.text or "") >= LONG_TEXT:
                reason = f"{len(row.text or '')} characters are cut to {limit} tokens"
                self.leave_out(row, "long text cut", reason, kept=True)
        lengths = inputs["mask"].sum(axis=1)
        return [(row, inputs["ids"][i, : lengths[i]].copy()) for i, row in enumerate(rows)]

    def _texts_together(self, some: list[tuple[Row, np.ndarray]]) -> Batch:
        longest = len(some[0][1])
        length = next(size for size in self.embedder.buckets if size >= longest)
        tokenizer = self.embedder.loaded.tokenizer
        assert tokenizer is not None
        ids = np.full((self.batch, length), tokenizer.pad_id, np.int32)
        mask = np.zeros((self.batch, length), bool)
        for place in range(self.batch):
            # Filling repeats the last text: an attention over no token at all would be no number.
            own = some[min(place, len(some) - 1)][1]
            ids[place, : len(own)] = own
            mask[place, : len(own)] = True
        real = sum(len(tokens) for _, tokens in some)
        return Batch(rows=[row for row, _ in some], inputs={"ids": ids, "mask": mask}, real=real, padded=ids.size)
