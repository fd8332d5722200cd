"""The recommendation problem of a run: sequences, item texts and pictures, towers, and what the towers are fed with."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from erel_jax.artifacts import cache_folder
from erel_jax.benchmark.config import BenchConfig
from erel_jax.benchmark.messages import Messenger
from erel_jax.data.item_pictures import load_item_pictures
from erel_jax.data.items import Items, align_texts, read_items
from erel_jax.data.sequence_splits import SequenceData, split_sequences
from erel_jax.data.sequences import read_sequence_arrays, read_sequences
from erel_jax.errors import ConfigError
from erel_jax.interop.huggingface import Loaded, load_encoder
from erel_jax.layers import precision as precisions

TOKENS = 30


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Everything a recommendation job needs; item 0 is padding, items are 1..N.

    Attributes:
        config: the options.
        cache: cache folder.
        sequences: split user sequences.
        titles: N + 1 texts, "" for padding and for items without one.
        towers: loaded encoders by modality, those the options name.
        tokens: `ids` int32[N + 1, L] and `mask` bool[N + 1, L]; None without a text tower.
        pictures: uint8[N + 1, H, W, 3], mapped from disk; None without an image tower.
        presence: bool[N + 1, M], which modality each item has, in the order of `towers`.
        dropped: counts of what was left out or is missing.
        fingerprint: digest of sequences, texts and pictures.
    """

    config: BenchConfig
    cache: Path
    sequences: SequenceData
    titles: tuple[str, ...]
    towers: dict[str, Loaded]
    tokens: dict[str, np.ndarray] | None
    pictures: np.ndarray | None
    presence: np.ndarray
    dropped: dict[str, int]
    fingerprint: str

    @property
    def encoders(self) -> dict[str, Any]:
        """The towers' encoders."""
        return {name: tower.encoder for name, tower in self.towers.items()}

    @property
    def items(self) -> int:
        """N, without padding."""
        return self.sequences.item_count

    def inputs(self, modality: str, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What the tower of a modality is fed with for item numbers `rows`."""
        if modality == "text":
            assert self.tokens is not None
            return {name: values[rows] for name, values in self.tokens.items()}
        assert self.pictures is not None
        pixels = np.ascontiguousarray(self.pictures[rows])
        processor = self.towers["image"].image_processor
        assert processor is not None
        return {"pixels": processor.process(pixels)}


def load_problem(config: BenchConfig, messenger: Messenger) -> Problem:
    """Reads and splits the sequences and loads the towers that the options name.

    Raises:
        ConfigError: no tower is named, or one lacks its items.
        DataError: a file is missing, empty or malformed.
    """
    cache = config.cache if config.cache is not None else cache_folder()
    assert config.data is not None
    sequences = read_sequence_arrays(config.data) if config.data.endswith(".npz") else read_sequences(config.data)
    items = read_items(config.items) if config.items is not None else None
    split = split_sequences(sequences, item_order=items.ids if items is not None else None)
    titles = align_texts(items if items is not None else Items(ids=(), texts=(), source="none"), split.item_ids)
    towers = _load_towers(config)
    dropped = {"users_too_short": split.dropped_users, "items_not_in_items_file": split.unknown_items}
    presence, tokens, pictures = [], None, None
    digest = hashlib.sha256(split.windows.tobytes())
    digest.update(split.test.targets.tobytes() + split.valid.targets.tobytes())
    digest.update("\x1f".join((*split.item_ids, *titles.texts)).encode("utf-8", "replace"))
    if "text" in towers:
        tokenizer = towers["text"].tokenizer
        if tokenizer is None:
            raise ConfigError(f"--text-encoder {config.text_encoder} has no tokenizer; add its tokenizer.json.")
        tokens = tokenizer.encode(list(titles.texts), max_length=min(TOKENS, tokenizer.max_length))
        dropped |= {"items_without_text": titles.missing, "texts_cut": tokenizer.truncated}
        presence.append(titles.present)
    if "image" in towers:
        loaded = load_item_pictures(
            config.images,
            split.item_ids,
            size=towers["image"].encoder.config.image_size,
            cache_dir=cache,
            bad_records=config.out_folder / "bad_records.jsonl",
            progress=messenger.progress,
        )
        pictures = loaded.pictures
        dropped |= {"items_without_image": loaded.missing, "bad_images": loaded.bad}
        presence.append(loaded.present)
        digest.update(loaded.fingerprint.encode())
    return Problem(
        config=config,
        cache=cache,
        sequences=split,
        titles=titles.texts,
        towers=towers,
        tokens=tokens,
        pictures=pictures,
        presence=np.stack(presence, axis=1),
        dropped=dropped,
        fingerprint=digest.hexdigest(),
    )


def _load_towers(config: BenchConfig) -> dict[str, Loaded]:
    precision = precisions.named(config.precision)
    towers = {}
    if config.text_encoder is not None:
        if config.items is None:
            raise ConfigError("--text-encoder needs --items, a TSV of `item<TAB>title`.")
        towers["text"] = load_encoder(config.text_encoder, modality="text", precision=precision)
    if config.image_encoder is not None:
        if config.images is None:
            raise ConfigError("--image-encoder needs --images, a folder or zip of `<item>.jpg` or `<item>.png`.")
        towers["image"] = load_encoder(config.image_encoder, modality="image", precision=precision)
        if towers["image"].image_processor is None:
            raise ConfigError(f"--image-encoder {config.image_encoder} has no preprocessor_config.json; add it.")
    if not towers:
        raise ConfigError(
            "--task recommendation needs something to adapt: --text-encoder with --items, or --image-encoder with "
            "--images, or both."
        )
    return towers
