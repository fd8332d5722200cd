"""Stored rows block by block, the next block read while the current one is scored.

Every block has the same shape, so that scoring compiles once; the last is filled up with zeros. Rows mapped from disk
are copied out and their pages given back at once: the memory of a search is two blocks, however large the corpus.
"""

import mmap
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

Blocks = Generator[tuple[int, int, dict[str, np.ndarray]], None, None]


def blocks_ahead(stored: Mapping[str, np.ndarray], block: int) -> Blocks:
    """Blocks of rows in order.

    Args:
        stored: arrays with N rows each, in memory or mapped from disk.
        block: rows per block.

    Yields:
        First row, number of rows, and arrays of `block` rows (floats as float32), filled up with zeros. None for N = 0.
    """
    rows = len(next(iter(stored.values())))

    def read(start: int) -> dict[str, np.ndarray]:
        return {name: _filled(values, start, min(block, rows - start), block) for name, values in stored.items()}

    with ThreadPoolExecutor(1, thread_name_prefix="blocks") as reader:
        following = reader.submit(read, 0) if rows else None
        for start in range(0, rows, block):
            assert following is not None
            part = following.result()
            following = reader.submit(read, start + block) if start + block < rows else None
            yield start, min(block, rows - start), part


def _filled(values: np.ndarray, start: int, count: int, block: int) -> np.ndarray:
    dtype = np.float32 if np.issubdtype(values.dtype, np.floating) else values.dtype
    filled = np.empty((block, *values.shape[1:]), dtype)
    filled[:count] = values[start : start + count]
    filled[count:] = 0
    _give_back(values, start, count)
    return filled


def _give_back(values: np.ndarray, start: int, count: int) -> None:
    """Unmaps the pages of rows that were read; they stay in the system's cache as long as it has room.

    Only for a whole mapped file, whose base is the map itself: a view of one does not know where it begins.
    """
    if not isinstance(values, np.memmap) or not hasattr(mmap, "MADV_DONTNEED") or not values.flags.c_contiguous:
        return
    pages: object = values.base
    if not isinstance(pages, mmap.mmap):
        return
    stride = values.nbytes // len(values)
    first = values.offset % mmap.ALLOCATIONGRANULARITY + start * stride
    first -= first % mmap.PAGESIZE
    length = min(first + (count + 1) * stride + mmap.PAGESIZE, len(pages)) - first
    pages.madvise(mmap.MADV_DONTNEED, first, length)
