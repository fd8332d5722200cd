"""The retrieval problem of a run: pictures, texts, towers, and what the towers are fed with."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from erel_jax.artifacts import cache_folder
from erel_jax.benchmark.base_encoders import base_encoders
from erel_jax.benchmark.config import BenchConfig
from erel_jax.benchmark.messages import Messenger
from erel_jax.data.retrieval import RetrievalData, RetrievalSplit, load_retrieval
from erel_jax.errors import ConfigError
from erel_jax.interop.huggingface import Loaded, load_encoder
from erel_jax.layers import precision as precisions

TOKENS = 32
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Everything a retrieval job needs.

    Attributes:
        config: the options.
        cache: cache folder.
        data: pictures and texts.
        towers: loaded encoders, "text" and "image".
        tokens: per split, `ids` int32[T, L] and `mask` bool[T, L] of its texts.
    """

    config: BenchConfig
    cache: Path
    data: RetrievalData
    towers: dict[str, Loaded]
    tokens: dict[str, dict[str, np.ndarray]]

    @property
    def encoders(self) -> dict[str, Any]:
        """The towers' encoders."""
        return {name: tower.encoder for name, tower in self.towers.items()}

    def split(self, name: str) -> RetrievalSplit:
        """A split of the data."""
        return self.data.splits[name]

    def text_inputs(self, split: str, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Token ids and mask of texts."""
        return {name: values[rows] for name, values in self.tokens[split].items()}

    def image_inputs(self, split: str, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Normalized pixels float32[B, H, W, 3] of pictures."""
        images = np.ascontiguousarray(self.data.splits[split].images[rows])
        processor = self.towers["image"].image_processor
        assert processor is not None
        return {"pixels": processor.process(images)}

    def inputs(self, modality: str, split: str, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What the tower of a modality is fed with, for rows of its own table (texts or pictures)."""
        return self.text_inputs(split, rows) if modality == "text" else self.image_inputs(split, rows)

    def rows(self, modality: str, split: str) -> int:
        """How many texts or pictures a split has."""
        return len(self.split(split).texts) if modality == "text" else len(self.split(split))


def load_problem(config: BenchConfig, messenger: Messenger) -> Problem:
    """Loads data and towers, preparing what the cache does not have."""
    cache = config.cache if config.cache is not None else cache_folder()
    data = load_data(config, cache)
    sources: dict[str, str | None] = {"text": config.text_encoder, "image": config.image_encoder}
    precision = precisions.named(config.precision)
    # Those given come first: a wrong folder shows before minutes of training the default ones.
    towers = {
        name: load_encoder(source, modality=name, precision=precision)
        for name, source in sources.items()
        if source is not None
    }
    if len(towers) < len(sources):
        base = load_retrieval("glyphs", cache_dir=cache) if data.name != "glyphs" else data
        folder = base_encoders(cache, base, messenger)
        for name in sources.keys() - towers.keys():
            towers[name] = load_encoder(folder / name, modality=name, precision=precision)
    if towers["image"].image_processor is None:
        raise ConfigError(f"the image encoder {towers['image'].source} has no preprocessor_config.json; add it.")
    return Problem(config=config, cache=cache, data=data, towers=towers, tokens=_tokenize(towers["text"], data))


def _tokenize(tower: Loaded, data: RetrievalData) -> dict[str, dict[str, np.ndarray]]:
    """Tokens of every split's texts, padded to one length, so that a step compiled for one split serves all."""
    if tower.tokenizer is None:
        raise ConfigError(f"the text encoder {tower.source} has no tokenizer; add its tokenizer.json.")
    limit = min(TOKENS, tower.tokenizer.max_length)
    texts = {name: data.splits[name].texts for name in SPLITS}
    return tower.tokenizer.encode_together(texts, limit, (8, 12, 16, 24, limit))


def load_data(config: BenchConfig, cache: Path) -> RetrievalData:
    """The run's pictures and texts; what was left out is listed in `bad_records.jsonl` of the output folder."""
    return load_retrieval(
        config.data or "glyphs",
        cache_dir=cache,
        images=config.images,
        items=config.items,
        image_key=config.image_key,
        text_key=config.text_key,
        bad_records=config.out_folder / "bad_records.jsonl",
    )
