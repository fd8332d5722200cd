"""What a person can ask of `erel bench`. This module imports nothing heavy: `--help` must be quick."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Literal

from erel_jax.errors import ConfigError

Task = Literal["retrieval", "recommendation"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Compare adaptation methods by quality and cost.

    With no options: all methods on the embedded data set `glyphs`, a table on the terminal, and `report.html`,
    `report.md` and `records.jsonl` in the output folder. Run the same command again to continue a stopped run or to
    reuse finished methods.
    """

    task: Task = "retrieval"
    """retrieval: find the picture of a text and the text of a picture. recommendation: predict a user's next item."""

    data: str | None = None
    """retrieval: glyphs, openmoji, fashion, a folder or CSV/TSV/JSONL/Parquet file with images and texts, or tfds:NAME.
    recommendation: a TSV of `user<TAB>item item …`, oldest first, an .npz of sequences, or a folder with users.tsv,
    items.tsv, texts/<modality>.tsv and images, or MovieLens-1M. Default: glyphs."""

    items: Path | None = None
    """TSV of `item<TAB>title`. Retrieval: for a table of images and item ids instead of texts."""

    images: Path | None = None
    """Folder or zip with the images: the source files of openmoji or fashion, the data folder of a tfds: data set, or
    `<item>.jpg` for recommendation."""

    image_key: str | None = None
    """Retrieval: image feature of a `tfds:` data set that has several."""

    text_key: str | None = None
    """Retrieval: text or label feature of a `tfds:` data set that has several, with `/` between nested names."""

    text_encoder: str | None = None
    """Hugging Face id or folder of the text encoder. Default for retrieval: a small one trained on glyphs."""

    image_encoder: str | None = None
    """Hugging Face id or folder of the image encoder. Default for retrieval: a small one trained on glyphs."""

    modalities: str | None = None
    """Comma-separated, for recommendation: text, image, and the further texts of a data folder. Default: all of them
    that an encoder is given for."""

    split: Literal["warm", "cold"] = "warm"
    """Recommendation: warm ranks each user's last item among all; cold hides a tenth of the items with a picture from
    training and ranks each user's last hidden one among the hidden."""

    methods: str | None = None
    """Comma-separated methods, for example `frozen,lora,iisan_cached`. Default: frozen, linear_probe, full, bitfit,
    lora, houlsby, iisan, iisan_cached, and for recommendation versa_cached and blend; those that do not fit
    the data are left out. By name alone: rslora, dora, ia3, vera, pfeiffer, parallel, compacter, prompt_tuning,
    prefix_tuning, k_adapter, layer_norm, partial_layers, qlora_int8, qlora_nf4, lit, crossan_cached; and for retrieval
    sigmoid, matryoshka, lit_cached, semdedup, small_loss, learnability, jest, student, distilled."""

    seeds: int = 1
    """Runs per method, with seeds 0 … N-1; the report shows mean and spread."""

    epochs: int | None = None
    """Passes over the training data. Default: chosen per task and method, printed before work starts."""

    batch_size: int | None = None
    """Examples (retrieval: pairs; recommendation: users) per step. Default: chosen per task."""

    sub_batch: int | None = None
    """Retrieval: pairs encoded at a time in training; must divide the batch size. The gradients stay those of the whole
    batch, for one more forward pass, so that batches larger than memory can be trained. Default: the whole batch."""

    seconds_per_method: float | None = None
    """Training stops at this many seconds per method and seed, and the report says so. Default: chosen per task."""

    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Operands of matrix products; accumulation, softmax, norms and losses are float32 either way."""

    state_storage: Literal["bfloat16", "int8"] = "bfloat16"
    """How hidden states of cached methods are kept: int8 halves them, with one scale per item and tap."""

    state_placement: Literal["auto", "resident", "sharded", "streamed"] = "auto"
    """Where hidden states live in training: on the device, spread over devices, or read from disk batch by batch.
    auto takes the first that fits and says so."""

    out: Path | None = None
    """Output folder. Default: `erel-bench/<task>-<data>`."""

    cache: Path | None = None
    """Folder for prepared data, pretrained glyph encoders and hidden states. Default: see `erel doctor`."""

    fresh: bool = False
    """Measure again even what the output folder already holds."""

    def __post_init__(self):
        self._check_values()
        self._check_task()

    def _check_values(self) -> None:
        for name in ("seeds", "epochs", "batch_size", "sub_batch", "seconds_per_method"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"--{name.replace('_', '-')} got {value}, expected a number above 0.")
        for name in ("data", "text_encoder", "image_encoder"):
            if getattr(self, name) == "":
                raise ConfigError(f"--{name.replace('_', '-')} got an empty text. Name something, or leave it out.")

    def _check_task(self) -> None:
        foreign = {"retrieval": ("modalities", "split"), "recommendation": ("sub_batch", "image_key", "text_key")}
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in foreign[self.task]:
            if getattr(self, name) != defaults[name]:
                other = next(task for task in foreign if task != self.task)
                raise ConfigError(
                    f"--{name.replace('_', '-')} belongs to --task {other}, and this is {self.task}. Leave it out."
                )
        if self.task == "retrieval" and self.batch_size == 1:
            raise ConfigError("--batch-size got 1, expected at least 2: other pairs are the wrong answers.")
        if self.batch_size is not None and self.batch_size % (self.sub_batch or 1):
            raise ConfigError(
                f"--sub-batch got {self.sub_batch}, expected a divisor of --batch-size {self.batch_size}."
            )
        if self.task == "recommendation" and self.data is None:
            raise ConfigError(
                "--task recommendation got no --data, expected a TSV of `user<TAB>item item …`; give also --items "
                "(a TSV of `item<TAB>title`) and --text-encoder for text methods."
            )

    @property
    def data_name(self) -> str:
        """The data set's name in records and reports."""
        if self.data is None:
            return "glyphs"
        path = Path(self.data)
        return Path(os.path.abspath(path)).name if path.name in ("", "..") else path.stem

    @property
    def out_folder(self) -> Path:
        """The output folder, given or default."""
        return self.out if self.out is not None else Path("erel-bench") / f"{self.task}-{self.data_name}"

    def to_json(self) -> str:
        """All options as JSON, paths as text."""
        return json.dumps(dataclasses.asdict(self), default=str, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "BenchConfig":
        """The inverse of `to_json`."""
        values = json.loads(text)
        for name in ("items", "images", "out", "cache"):
            values[name] = None if values[name] is None else Path(values[name])
        return cls(**values)

    def fingerprint(self) -> str:
        """A digest of every option that can change a measurement (not where it is written or how many seeds)."""
        values = dataclasses.asdict(self)
        for name in ("out", "cache", "fresh", "methods", "seeds"):
            values.pop(name)
        return hashlib.sha256(json.dumps(values, default=str, sort_keys=True).encode()).hexdigest()[:16]
