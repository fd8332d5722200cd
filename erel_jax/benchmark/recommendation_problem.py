"""The recommendation problem of a run: sequences, item texts and pictures, towers, and what the towers are fed with."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from erel_jax.artifacts import cache_folder
from erel_jax.benchmark.config import BenchConfig
from erel_jax.benchmark.messages import Messenger
from erel_jax.data.cold_items import hide_items, split_cold_items
from erel_jax.data.image_sources import Pictures
from erel_jax.data.item_pictures import load_item_pictures
from erel_jax.data.item_sources import ItemSources, read_item_sources
from erel_jax.data.items import AlignedTexts, Items, align_pictures, align_texts
from erel_jax.data.sequence_splits import SequenceData, split_sequences
from erel_jax.errors import ConfigError, DataError, suggest
from erel_jax.interop.huggingface import Loaded, load_encoder
from erel_jax.layers import precision as precisions

REPEATED = 0.05
"""Share of users with a repeated test item from which it is pointed out."""
TOKENS, TOKENS_FURTHER = 30, 64  # of titles, and of further texts such as plots


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Everything a recommendation job needs; item 0 is padding, items are 1..N.

    Attributes:
        config: the options.
        cache: cache folder.
        sequences: split user sequences.
        titles: N + 1 texts, "" for padding and for items without one.
        texts: the same by text modality, for those with a tower.
        towers: loaded encoders by modality, those the options name.
        tokens: by text modality `ids` int32[N + 1, L] and `mask` bool[N + 1, L].
        pictures: uint8[N + 1, H, W, 3], mapped from disk; None without an image tower.
        presence: bool[N + 1, M], which modality each item has, in the order of `towers`.
        dropped: counts of what was left out or is missing.
        fingerprint: digest of sequences, texts and pictures.
        pictures_fingerprint: digest of the pictures alone.
    """

    config: BenchConfig
    cache: Path
    sequences: SequenceData
    titles: tuple[str, ...]
    towers: dict[str, Loaded]
    tokens: dict[str, dict[str, np.ndarray]]
    pictures: np.ndarray | None
    presence: np.ndarray
    dropped: dict[str, int]
    fingerprint: str
    texts: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    pictures_fingerprint: str = ""

    def content(self, modality: str) -> str:
        """A digest of what one tower reads of all items: its stored states serve every run that has the same."""
        if modality not in self.tokens:
            return self.pictures_fingerprint
        digest = hashlib.sha256()
        for name, values in sorted(self.tokens[modality].items()):
            digest.update(f"{name} {values.shape} {values.dtype}".encode() + np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the data do to every method's figures, for the report."""
        test, found = self.sequences.test, []
        repeated = (test.seen == test.targets[:, None]).any(axis=1).mean()
        if repeated >= REPEATED:
            found.append(
                f"{repeated:.0%} of the users end with an item that they had before, which is never a hit under this "
                f"protocol: no method can reach more than {1 - repeated:.2f} of any metric"
            )
        unknown = int((~self.presence[1:].any(axis=1)).sum())
        if unknown:
            found.append(
                f"{unknown:,} of {self.items:,} items have no {' and no '.join(self.towers)}: in training they are "
                "neither target nor negative, and in the ranking methods cannot tell them apart"
            )
        return tuple(found)

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
        if modality in self.tokens:
            return {name: values[rows] for name, values in self.tokens[modality].items()}
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
    sources = read_item_sources(config.data, config.items, config.images)
    split = _split(config, sources)
    nothing = Items(ids=(), texts=(), source="none")
    titles = align_texts(sources.texts.get("text", nothing), split.item_ids)
    towers = _load_towers(config, sources)
    dropped = {"users_too_short": split.dropped_users, "items_not_in_items_file": split.unknown_items}
    digest = hashlib.sha256(split.windows.tobytes())
    digest.update(split.test.targets.tobytes() + split.valid.targets.tobytes())
    digest.update("\x1f".join((*split.item_ids, *titles.texts)).encode("utf-8", "replace"))
    tokens, texts, presence = {}, {}, {}
    for name, tower in towers.items():
        if name == "image":
            continue
        aligned = titles if name == "text" else align_texts(sources.texts[name], split.item_ids)
        tokens[name], cut = _tokenized(config, name, tower, aligned)
        texts[name], presence[name] = aligned.texts, aligned.present
        prefix = "" if name == "text" else f"{name}_"
        dropped |= {f"items_without_{name}": aligned.missing, f"{prefix}texts_cut": cut}
        if name != "text":
            digest.update("\x1f".join((name, *aligned.texts)).encode("utf-8", "replace"))
    pictures, pictures_fingerprint = None, ""
    if "image" in towers:
        loaded = load_item_pictures(
            sources.images,
            split.item_ids,
            size=towers["image"].encoder.config.image_size,
            cache_dir=cache,
            bad_records=config.out_folder / "bad_records.jsonl",
            progress=messenger.progress,
        )
        pictures, pictures_fingerprint = loaded.pictures, loaded.fingerprint
        dropped |= {"items_without_image": loaded.missing, "bad_images": loaded.bad}
        presence["image"] = loaded.present
        digest.update(loaded.fingerprint.encode())
    _check_modalities(split, presence, sources)
    return Problem(
        config=config,
        cache=cache,
        sequences=split,
        titles=titles.texts,
        texts=texts,
        towers=towers,
        tokens=tokens,
        pictures=pictures,
        presence=np.stack([presence[name] for name in towers], axis=1),
        dropped=dropped,
        fingerprint=digest.hexdigest(),
        pictures_fingerprint=pictures_fingerprint,
    )


def _check_modalities(split: SequenceData, presence: Mapping[str, np.ndarray], sources: ItemSources) -> None:
    """Refuses a modality that no training item has: nothing could be learned from it."""
    for name, there in presence.items():
        if (there & (split.train_counts > 0)).any():
            continue
        source = sources.images if name == "image" else sources.texts[name].source
        others = [other for other in presence if other != name]
        advice = f" Or leave it out with --modalities {','.join(others)}." if others else ""
        raise DataError(
            f"no item that trains has a {name} in {source}, expected the ids of {sources.sequences.source} there, such "
            f"as {split.item_ids[0]!r}. Check that both belong together.{advice}"
        )


def _split(config: BenchConfig, sources: ItemSources) -> SequenceData:
    order = sources.texts["text"].ids if "text" in sources.texts else None
    if config.split == "warm":
        return split_sequences(sources.sequences, item_order=order)
    used = set(sources.sequences.vocabulary)
    candidates = [item for item in order or sources.sequences.vocabulary if item in used]
    if sources.images is not None:
        with Pictures(sources.images) as pictures:
            present = align_pictures(pictures.names(), candidates).present[1:]
        candidates = [item for item, there in zip(candidates, present, strict=True) if there]
    return split_cold_items(sources.sequences, hide_items(candidates), item_order=order)


def _tokenized(
    config: BenchConfig, name: str, tower: Loaded, aligned: AlignedTexts
) -> tuple[dict[str, np.ndarray], int]:
    """Tokens of a text modality, and how many texts were cut."""
    tokenizer = tower.tokenizer
    if tokenizer is None:
        raise ConfigError(f"--text-encoder {config.text_encoder} has no tokenizer; add its tokenizer.json.")
    limit = TOKENS if name == "text" else TOKENS_FURTHER
    tokens = tokenizer.encode(list(aligned.texts), max_length=min(limit, tokenizer.max_length))
    return tokens, tokenizer.truncated


def _load_towers(config: BenchConfig, sources: ItemSources) -> dict[str, Loaded]:
    precision = precisions.named(config.precision)
    towers, texts, images = {}, list(sources.texts), sources.images is not None
    if config.text_encoder is not None and "text" not in texts:
        raise ConfigError("--text-encoder needs --items, a TSV of `item<TAB>title`.")
    if config.image_encoder is not None and not images:
        raise ConfigError("--image-encoder needs --images, a folder or zip of `<item>.jpg` or `<item>.png`.")
    found = [*(texts if config.text_encoder is not None else []), *(["image"] if config.image_encoder else [])]
    chosen = _chosen(config, found)
    if any(name != "image" for name in chosen):
        assert config.text_encoder is not None
        loaded = load_encoder(config.text_encoder, modality="text", precision=precision)
        towers = {name: loaded for name in chosen if name != "image"}
    if "image" in chosen:
        assert config.image_encoder is not None
        towers["image"] = load_encoder(config.image_encoder, modality="image", precision=precision)
        if towers["image"].image_processor is None:
            raise ConfigError(f"--image-encoder {config.image_encoder} has no preprocessor_config.json; add it.")
    if not towers:
        raise ConfigError(
            "--task recommendation needs something to adapt: --text-encoder with --items, or --image-encoder with "
            "--images, or both."
        )
    return towers


def _chosen(config: BenchConfig, found: list[str]) -> list[str]:
    """The modalities that the options ask for, in the order found."""
    if config.modalities is None:
        return found
    names = [name.strip() for name in config.modalities.split(",") if name.strip()]
    if not names:
        raise ConfigError(f"--modalities got no name, expected some of {', '.join(found)}, or leave it out.")
    for name in names:
        if name not in found:
            raise ConfigError(
                f"--modalities got {name!r}, which this data and these encoders do not give. {suggest(name, found)}"
            )
    return [name for name in found if name in names]
