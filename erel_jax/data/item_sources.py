"""Where the sequences, texts and pictures of a recommendation data set lie.

Three layouts are understood, all read in place:

- a file of sequences, with an items file and pictures named beside it;
- a folder with `users.tsv` (or `sequences.npz`), `items.tsv`, further texts in `texts/<modality>.tsv` and pictures in
  `images/` or `images.zip`;
- the MovieLens-1M folder with `ml1m_sequences.npz`, `ml1m_movies.tsv`, `ml1m_omdb.json.gz` and
  `ml1m_posters_96x144.zip`: titles are the texts, plots and genres two further text modalities, posters the pictures.
"""

import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from erel_jax.data.items import Items, read_items
from erel_jax.data.sequences import Sequences, read_lines, read_sequence_arrays, read_sequences
from erel_jax.errors import DataError

MOVIELENS = "ml1m_sequences.npz"
_NO_PLOT = ("", "N/A")


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemSources:
    """What a data set consists of.

    Attributes:
        sequences: users' sequences.
        texts: by text modality, `text` first where there is one.
        images: folder or zip of pictures, or None.
    """

    sequences: Sequences
    texts: Mapping[str, Items]
    images: Path | None


def read_item_sources(data: str | Path, items: Path | None = None, images: Path | None = None) -> ItemSources:
    """Reads a data set's sequences and texts and finds its pictures.

    Args:
        data: a file of sequences or one of the folders above. A MovieLens `.npz` stands for its folder.
        items: items file, instead of the folder's.
        images: folder or zip of pictures, instead of the folder's.

    Raises:
        DataError: a file is missing, empty or malformed.
    """
    path = Path(data)
    if path.name == MOVIELENS and items is None and path.is_file():
        path = path.parent
    if not path.is_dir():
        sequences = read_sequence_arrays(path) if path.suffix == ".npz" else read_sequences(path)
        texts, pictures = {}, None
    elif (path / MOVIELENS).is_file():
        sequences, texts, pictures = _movielens(path)
    else:
        sequences, texts, pictures = _folder(path)
    if items is not None:
        texts = {"text": read_items(items), **{name: part for name, part in texts.items() if name != "text"}}
    return ItemSources(sequences=sequences, texts=texts, images=images if images is not None else pictures)


def further_folders(data: str | Path) -> list[Path]:
    """Folders that `read_item_sources` reads besides the file or folder that it is given."""
    path = Path(data)
    if path.name == MOVIELENS and path.is_file():
        return [path.parent]
    return [folder for name in ("texts", "images") if (folder := path / name).is_dir()]


def check_folder(folder: Path) -> None:
    """Refuses a folder without sequences.

    Raises:
        DataError: it holds none of the files that this module knows.
    """
    if not any((folder / name).is_file() for name in ("users.tsv", "sequences.npz", MOVIELENS)):
        raise DataError(
            f"{folder} holds neither users.tsv nor sequences.npz. Expected a file of sequences, or a folder with one "
            "of them, items.tsv, texts/<modality>.tsv and images."
        )


def _folder(folder: Path) -> tuple[Sequences, dict[str, Items], Path | None]:
    check_folder(folder)
    users, arrays = folder / "users.tsv", folder / "sequences.npz"
    sequences = read_sequences(users) if users.is_file() else read_sequence_arrays(arrays)
    texts = {"text": read_items(folder / "items.tsv")} if (folder / "items.tsv").is_file() else {}
    for file in sorted((folder / "texts").glob("*.tsv")):
        if file.name.startswith("."):  # such as the `._plot.tsv` that a Mac leaves
            continue
        if file.stem in ("text", "image"):
            raise DataError(f"{file}: a further text may not be called {file.stem!r}; rename the file.")
        texts[file.stem] = read_items(file)
    pictures = [folder / name for name in ("images", "images.zip") if (folder / name).exists()]
    return sequences, texts, pictures[0] if pictures else None


def _movielens(folder: Path) -> tuple[Sequences, dict[str, Items], Path | None]:
    movies = folder / "ml1m_movies.tsv"
    rows = [line.split("\t") for line in read_lines(movies)]
    wrong = next((number for number, row in enumerate(rows, start=1) if len(row) != 3), None)
    if wrong is not None:
        raise DataError(f"{movies}, line {wrong}: got {len(rows[wrong - 1])} columns, expected id, title and genres.")
    ids, titles, genres = zip(*rows, strict=True)
    texts = {
        "text": Items(ids=ids, texts=titles, source=str(movies)),
        "genre": Items(ids=ids, texts=tuple(genre.replace("|", " ") for genre in genres), source=str(movies)),
    }
    plots = folder / "ml1m_omdb.json.gz"
    if plots.is_file():
        texts["plot"] = _plots(plots)
    posters = folder / "ml1m_posters_96x144.zip"
    return read_sequence_arrays(folder / MOVIELENS), texts, posters if posters.is_file() else None


def _plots(path: Path) -> Items:
    try:
        records = json.loads(gzip.decompress(path.read_bytes()))
        plots = {str(record["movie_id"]): str(record["plot"] or "") for record in records}
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error) as error:
        raise DataError(f"{path}: not a readable list of movies with movie_id and plot ({error!r}).") from error
    known = {movie: "" if plot.strip() in _NO_PLOT else plot for movie, plot in plots.items()}
    return Items(ids=tuple(known), texts=tuple(known.values()), source=str(path))
