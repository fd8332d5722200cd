"""Users' item sequences as they come from files, before any split.

A sequence file holds one user per line: the user's id, a tab, and the ids of the items the user interacted with,
separated by spaces, oldest first. `read_sequences` turns such a file into one flat array of item codes with offsets
(the layout of a sparse matrix), which is quick to slice for millions of users. Ids stay strings on the host, because
real ids overflow int32; only positions in a vocabulary ever reach a device. `sequence_splits` turns the result into
training windows and evaluation targets.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from erel_jax.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class Sequences:
    """Item sequences of many users in one flat array.

    Attributes:
        user_ids: U user ids, in file order.
        codes: int32[interactions], position of each item in `vocabulary`, users one after the other, oldest first.
        offsets: int64[U + 1]; user u owns `codes[offsets[u]:offsets[u + 1]]`.
        vocabulary: Item ids in the order of their first appearance.
        source: Where the sequences came from, for messages and records.
    """

    user_ids: tuple[str, ...]
    codes: np.ndarray
    offsets: np.ndarray
    vocabulary: tuple[str, ...]
    source: str

    @property
    def lengths(self) -> np.ndarray:
        """Number of interactions of each user, int64[U]."""
        return np.diff(self.offsets)

    def items_of(self, user: int) -> list[str]:
        """Item ids of the user at position `user`, oldest first."""
        return [self.vocabulary[code] for code in self.codes[self.offsets[user] : self.offsets[user + 1]]]


def read_lines(path: str | Path) -> list[str]:
    """Read a UTF-8 text file into lines without their line ends.

    Args:
        path: Text file; a byte-order mark and Windows line ends are accepted.

    Returns:
        The lines; line `i` of the file is element `i - 1`.

    Raises:
        DataError: The file is missing, unreadable, empty, or not UTF-8 (the message names the line).
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. Expected a tab-separated text file; check the path.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Expected a readable text file.") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 text ({error.reason}). Convert the file to UTF-8.") from error
    if not text.strip():
        raise DataError(f"{path}: the file is empty. Expected one tab-separated row per line.")
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def read_sequences(path: str | Path) -> Sequences:
    """Read a behavior file: `user<TAB>item item …`, oldest item first, no header.

    Args:
        path: UTF-8 text file. Item ids must not contain white space.

    Returns:
        The sequences of all users, whatever their length; `split_sequences` drops and counts the short ones.

    Raises:
        DataError: The file is missing or empty, a row does not have exactly two columns, a user id is empty, or a
            user has two rows (the order between them would be unknown). The message names file and line.

    Reference: the behavior format of the MoRec, MicroLens, NineRec and IISAN data sets.
    """
    vocabulary: dict[str, int] = {}
    users: dict[str, int] = {}
    codes: list[int] = []
    offsets = [0]
    for number, line in enumerate(read_lines(path), start=1):
        columns = line.split("\t")
        if len(columns) != 2:
            raise DataError(
                f"{path}, line {number}: got {len(columns)} columns, expected 2 (user<TAB>item item …). "
                "Give each user one row with all items, oldest first: one tab after the user, spaces between the items."
            )
        user, items = columns
        if not user.strip():
            raise DataError(f"{path}, line {number}: the user id is empty. Give every row a user id before the tab.")
        if user in users:
            raise DataError(
                f"{path}, line {number}: user {user!r} already has line {users[user]}. Expected one row per user; "
                "join the rows in time order."
            )
        users[user] = number
        codes.extend([vocabulary.setdefault(item, len(vocabulary)) for item in items.split()])
        offsets.append(len(codes))
    return Sequences(
        user_ids=tuple(users),
        codes=np.asarray(codes, np.int32),
        offsets=np.asarray(offsets, np.int64),
        vocabulary=tuple(vocabulary),
        source=str(path),
    )


def read_sequence_arrays(path: str | Path) -> Sequences:
    """Read sequences from a compact `.npz` file, the layout used for MovieLens-1M.

    Args:
        path: NumPy archive with `user_id[U]`, `offsets[U + 1]` and `movie_id[interactions]`, integers, time order.

    Returns:
        The sequences; user and item ids become decimal strings.

    Raises:
        DataError: The file is missing, is no NumPy archive, lacks an array, holds arrays of another type or
            shape, or its offsets do not run from 0 to the number of interactions.
    """
    path = Path(path)
    expected = "user_id[U], offsets[U + 1] and movie_id[interactions], all integers"
    if not path.is_file():
        raise DataError(f"{path}: no such file. Expected a NumPy archive with {expected}.")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: not a readable NumPy archive (no zip directory). Expected {expected}.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            user_id, offsets, movie_id = (archive[name] for name in ("user_id", "offsets", "movie_id"))
    except KeyError as error:
        raise DataError(f"{path}: an array is missing ({error.args[0]}). Expected {expected}.") from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a readable NumPy archive ({error}). Expected {expected}.") from error
    arrays = {"user_id": user_id, "offsets": offsets, "movie_id": movie_id}
    for name, array in arrays.items():
        if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
            raise DataError(f"{path}: {name} is {array.dtype}{list(array.shape)}. Expected {expected}.")
    offsets = offsets.astype(np.int64)
    sound = len(offsets) == len(user_id) + 1 and offsets[0] == 0 and offsets[-1] == len(movie_id)
    if not sound or np.any(np.diff(offsets) < 0):
        raise DataError(
            f"{path}: offsets do not run from 0 to {len(movie_id)} in {len(user_id) + 1} steps that never fall. "
            f"Expected {expected}."
        )
    if not len(user_id):
        raise DataError(f"{path}: the file holds no user. Expected at least one.")
    users, counts = np.unique(user_id, return_counts=True)
    if (counts > 1).any():
        raise DataError(
            f"{path}: user {users[counts > 1][0]} is there {counts[counts > 1][0]} times, expected once. Join the "
            "sequences of one user in time order."
        )
    distinct, codes = np.unique(movie_id, return_inverse=True)
    return Sequences(
        user_ids=tuple(map(str, user_id.tolist())),
        codes=codes.astype(np.int32),
        offsets=offsets,
        vocabulary=tuple(map(str, distinct.tolist())),
        source=str(path),
    )
