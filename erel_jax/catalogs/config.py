"""What a person can ask of `erel embed`, `erel index` and `erel search`. Nothing heavy is imported, for `--help`."""

import dataclasses
import os
from pathlib import Path
from typing import Literal

from erel_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Turn a folder of pictures, or a table of pictures and texts, into vectors on disk.

    Vectors are float32 of length 1, so that inner products are cosines. They are written shard by shard: run the same
    command again to continue after a stop, or in as many processes as you like at once, on one computer or on several
    that share the output folder; each item is embedded exactly once. Rows that cannot be used are counted, and listed
    in `left_out.jsonl`. Then: `erel index`.
    """

    model: str
    """Hugging Face id or folder of the encoder: CLIP or SigLIP for pictures and texts in one space; ViT, DINOv2, …
    for pictures; sentence-transformers, BERT, … for texts."""

    data: Path
    """A folder or zip with pictures, or a table (.csv, .tsv, .jsonl, .parquet) of pictures and texts, or a folder with
    one table in it."""

    out: Path
    """Output folder, shared by all workers."""

    modality: Literal["auto", "image", "text"] = "auto"
    """What is embedded. auto: pictures where the data have them and the model reads them, else texts."""

    images: Path | None = None
    """Folder or zip of the pictures that a table names. Default: the table's folder. Parquet may hold them itself."""

    id_key: str | None = None
    """Column of ids. Default: id, item_id or key; without one, rows are called 1, 2, 3, …"""

    image_key: str | None = None
    """Column of pictures. Default: image, file_name, filename, image_path or path."""

    text_key: str | None = None
    """Column of texts. Default: text, caption, title, name or item."""

    precision: Literal["bfloat16", "float32", "int8", "int4", "nf4"] = "bfloat16"
    """Operands of matrix products; int8, int4 and nf4 (both 4 bits) shrink the weights, with bfloat16 around them.
    Sums, norms and the vectors are float32 either way."""

    pooling: str | None = None
    """How token states become one vector: cls, mean, last or pooler. Default: what the model's folder says."""

    prompt: str | None = None
    """Words around every text: the name of one of the model's prompts, or a template with {text}."""

    dims: int | None = None
    """Keep the first N dimensions, for models trained so (Matryoshka); vectors are brought to length 1 after that."""

    max_length: int | None = None
    """Longest text in tokens; longer ones are cut and counted. Default: the model's."""

    store: Literal["float32", "float16"] = "float32"
    """Number format of the vectors on disk; float16 halves them at an error of about 0.0005 per cosine."""

    batch: int = 64
    """Items per step; workers of one output folder may differ in this."""

    shard_rows: int = 4096
    """Rows per shard: what is lost at most when a worker is killed."""

    worker: int | None = None
    """Number of this worker from 0, with --workers: it does every N-th shard and ends. Default: workers take whatever
    shard is free, and wait until all are done."""

    workers: int | None = None
    """How many workers there are, with --worker."""

    decoders: int | None = None
    """Threads that read and decode pictures while the encoder works. Default: one per processor core, at most 16."""

    lease_seconds: float = 60.0
    """A shard of a worker on another computer that has not been heard of for so long is done again."""

    def __post_init__(self):
        for name in ("batch", "shard_rows", "dims", "max_length", "workers", "decoders", "lease_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"--{name.replace('_', '-')} got {value}, expected a number above 0.")
        if (self.worker is None) != (self.workers is None):
            raise ConfigError("--worker and --workers belong together: --worker 3 --workers 8, or neither.")
        if self.worker is not None and not 0 <= self.worker < (self.workers or 0):
            raise ConfigError(f"--worker got {self.worker}, expected 0 to {(self.workers or 0) - 1}.")
        if not self.model:
            raise ConfigError("--model got an empty text. Name a folder or a Hugging Face id.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """Make a searchable index of what `erel embed` wrote.

    The index measures itself: recall@10 against exact search on a sample, bytes per vector, seconds to build, and time
    per query. It remembers which encoder made its vectors. Then: `erel search`.
    """

    vectors: Path
    """Output folder of a finished `erel embed`."""

    out: Path
    """Folder of the index."""

    code: Literal[
        "float32",
        "int8",
        "int8_per_dimension",
        "eden8",
        "eden4",
        "eden2",
        "eden1",
        "binary",
        "product",
        "residual",
        "lists_int8",
    ] = "int8"
    """How vectors are stored. Bytes for 256 dimensions: float32 1,024; int8 260; int8_per_dimension 256; eden8 260,
    eden4 132, eden2 68 and eden1 36 (random rotation, then 8 to 1 bits); binary 32 (signs alone); product (OPQ) and
    residual 32, fitted to the vectors. lists_int8 files int8 codes in lists and looks into an eighth of them: the
    fastest for hundreds of thousands of vectors."""

    keep_vectors: bool = False
    """Keep the float32 vectors too, on disk, and order the best hits by them: small codes come close to exact."""

    recall: float = 0.95
    """Recall@10 against exact search that you want; below it the command says what to change."""

    overwrite: bool = False
    """Replace an index that is there already."""

    def __post_init__(self):
        if not 0 < self.recall <= 1:
            raise ConfigError(f"--recall got {self.recall}, expected above 0 and at most 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Find the items of an index that are nearest to a text, a picture, or many of them.

    An index of pictures by CLIP or SigLIP answers texts as well as pictures.
    """

    index: Path
    """Folder of the index, from `erel index`."""

    model: str | None = None
    """The encoder. Default: where `erel embed` found it; another model than that one is refused."""

    text: str | None = None
    """Search with this text."""

    image: Path | None = None
    """Search with this picture."""

    queries: Path | None = None
    """Search with every row of a table, or every picture of a folder, as in `erel embed --data`."""

    k: int = 10
    """Hits per query."""

    out: Path | None = None
    """Write hits as JSON Lines: one object per query, with ids and scores, best first."""

    html: Path | None = None
    """Write a page with pictures and texts of the hits; it opens offline."""

    data: Path | None = None
    """Where the page finds pictures and texts. Default: what `erel embed` read, where it read it."""

    images: Path | None = None
    """Folder or zip of the pictures that --data names. Default: as with `erel embed`."""

    precision: Literal["bfloat16", "float32", "int8", "int4", "nf4"] = "bfloat16"
    """Operands of matrix products when the queries are encoded."""

    prompt: str | None = None
    """Words around every text: the name of one of the model's prompts, or a template with {text}. Default: what the
    model's folder says, not what the catalog was embedded with."""

    def __post_init__(self):
        given = [name for name in ("text", "image", "queries") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(f"got {' and '.join(given) or 'no query'}, expected one of --text, --image or --queries.")
        if self.k < 1:
            raise ConfigError(f"--k got {self.k}, expected at least 1.")
        self._keep_files_apart()

    def _keep_files_apart(self) -> None:
        """Refuses to write over what is read, or one result over the other."""
        named = {name: getattr(self, name) for name in ("queries", "image", "data", "images", "out", "html")}
        real = {name: os.path.realpath(path) for name, path in named.items() if path is not None}
        for written in ("out", "html"):
            other = next((name for name, path in real.items() if name != written and path == real.get(written)), None)
            if other is not None:
                raise ConfigError(
                    f"--{written} and --{other} are the same file, {named[written]}, which would be written over. "
                    f"Choose another --{written}."
                )
