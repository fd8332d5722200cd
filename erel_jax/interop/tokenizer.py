"""Texts to padded token ids, with the shapes a compiled program wants.

`TextTokenizer` drives a fast tokenizer from `tokenizer.json` directly. Truncation and padding settings stored in that
file are overridden: lengths are the caller's choice, drawn from a few buckets so that few programs are compiled. How
many texts were cut is counted.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, normalizers

from erel_jax.errors import CheckpointError, ConfigError, CorruptArtifactError, DataError
from erel_jax.folders import safe_join
from erel_jax.interop.configurations import refuse_code
from erel_jax.interop.safetensors_folder import read_json

UNLIMITED = 10**6
SLOW_FILES = ("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model")


class TextTokenizer:
    """A tokenizer with a maximum length, a padding id and a count of truncated texts.

    Args:
        backend: a tokenizer of the `tokenizers` library; its own truncation and padding are switched off.
        max_length: the most tokens a text may have, special tokens included; longer texts are cut.
        pad_id: id in padded places (they are masked, so it never changes a result).
        lowercase: lower-case texts before the tokenizer sees them.

    Attributes:
        truncated: number of texts cut so far.
    """

    def __init__(self, backend: Tokenizer, *, max_length: int, pad_id: int = 0, lowercase: bool = False) -> None:
        self.backend = backend
        self.backend.no_padding()
        self.backend.no_truncation()
        self.max_length = max_length
        self.pad_id = pad_id
        self.lowercase = lowercase
        self.truncated = 0

    @property
    def vocabulary(self) -> int:
        """One more than the largest id."""
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def end_id(self) -> int | None:
        """Id of the last special token put after every text, or None."""
        ids = self.backend.encode("").ids
        return ids[-1] if ids else None

    def encode(
        self, texts: Sequence[str], max_length: int | None = None, buckets: Sequence[int] | None = None
    ) -> dict[str, np.ndarray]:
        """Tokenizes, cuts and pads texts.

        Args:
            texts: N texts; an empty one becomes special tokens alone. Code points that UTF-8 cannot hold (lone
                surrogates) are replaced by `?`.
            max_length: the most tokens, at most the tokenizer's own `max_length`, which is the default.
            buckets: allowed lengths L; the result has the smallest one that holds its longest text. None pads to
                `max_length`, one shape for every call.

        Returns:
            `{"ids": int32[N, L], "mask": bool[N, L]}`, right padded, on the host.

        Raises:
            ConfigError: `max_length` is above the encoder's positions, or no bucket holds it.
            DataError: an entry is not a string.
        """
        limit = self.max_length if max_length is None else max_length
        if not 1 <= limit <= self.max_length:
            raise ConfigError(f"got max_length {limit}, expected 1 to {self.max_length} (the encoder's limit).")
        wrong = [i for i, text in enumerate(texts) if not isinstance(text, str)]
        if wrong:
            raise DataError(f"texts {wrong[:5]} are not strings, first: {texts[wrong[0]]!r}. Pass a list of str.")
        self.backend.enable_truncation(limit)
        try:
            encodings = self.backend.encode_batch([self._clean(text) for text in texts])
        finally:
            self.backend.no_truncation()
        self.truncated += sum(bool(encoding.overflowing) for encoding in encodings)
        rows = [encoding.ids for encoding in encodings]
        length = bucket(max((len(row) for row in rows), default=1), limit, buckets)
        ids = np.full((len(rows), length), self.pad_id, np.int32)
        mask = np.zeros((len(rows), length), bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = True
        return {"ids": ids, "mask": mask}

    def to_json(self) -> str:
        """The tokenizer as the text of a `tokenizer.json`."""
        return self.backend.to_str()

    def _clean(self, text: str) -> str:
        text = text.lower() if self.lowercase else text
        return text.encode("utf-8", "replace").decode("utf-8")


def bucket(length: int, limit: int, buckets: Sequence[int] | None) -> int:
    """The padded length for texts of up to `length` tokens.

    Args:
        length: longest text in tokens.
        limit: the most tokens a text may have.
        buckets: allowed lengths; None gives `limit`. One above `limit` counts as `limit`.

    Raises:
        ConfigError: no bucket holds `length`.
    """
    if buckets is None:
        return limit
    fitting = sorted(min(size, limit) for size in buckets if min(size, limit) >= length)
    if not fitting:
        raise ConfigError(f"no bucket of {tuple(buckets)} holds {length} tokens; add {limit} (the largest length).")
    return fitting[0]


def read_tokenizer(
    folder: str | os.PathLike[str],
    *,
    max_positions: int,
    vocabulary: int,
    max_length: int | None = None,
    lowercase: bool = False,
    link_root: Path | None = None,
) -> TextTokenizer | None:
    """The tokenizer of a Hugging Face folder.

    Args:
        folder: the folder; `tokenizer.json` is read directly, older files through transformers.
        max_positions: positions of the encoder, an upper bound for `max_length`.
        vocabulary: rows of the encoder's embedding table; a tokenizer with larger ids is refused.
        max_length: longest text if the folder's owner limits it further.
        lowercase: lower-case texts first (the tokenizer's own setting is applied besides).
        link_root: see `erel_jax.folders.safe_join`.

    Returns:
        The tokenizer, or None where the folder has no tokenizer files.

    Raises:
        CheckpointError: the tokenizer has ids that the embedding table lacks.
        CorruptArtifactError: a file is damaged, or asks for code.
    """
    config_path = safe_join(folder, "tokenizer_config.json", link_root=link_root)
    config = read_json(config_path) if config_path.is_file() else {}
    refuse_code(config, config_path)
    backend = _backend(Path(folder), config, link_root)
    if backend is None:
        return None
    limits = [max_positions, max_length or max_positions]
    stored = config.get("model_max_length")
    if isinstance(stored, int) and 0 < stored < UNLIMITED:
        limits.append(stored)
    tokenizer = TextTokenizer(backend, max_length=min(limits), pad_id=_pad_id(backend, config), lowercase=lowercase)
    if tokenizer.vocabulary > vocabulary:
        raise CheckpointError(
            f"the tokenizer in {folder} has ids up to {tokenizer.vocabulary - 1}, the embedding table has {vocabulary} "
            "rows. They do not belong together; get the tokenizer of this model."
        )
    return tokenizer


def _backend(folder: Path, config: dict[str, Any], link_root: Path | None) -> Tokenizer | None:
    path = safe_join(folder, "tokenizer.json", link_root=link_root)
    if path.is_file():
        document = read_json(path)
        try:
            backend = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise CorruptArtifactError(f"{path} is not a tokenizer ({error}). Get it again.") from error
        return _with_case(backend, document, config)
    if not any((folder / name).is_file() for name in SLOW_FILES):
        return None
    import transformers

    try:
        slow = transformers.AutoTokenizer.from_pretrained(
            str(folder), use_fast=True, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise CorruptArtifactError(f"the tokenizer files in {folder} cannot be read ({error}).") from error
    backend = getattr(slow, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError(f"{folder} has only a slow tokenizer; save it with transformers as tokenizer.json first.")
    return backend


def _with_case(backend: Tokenizer, document: dict[str, Any], config: dict[str, Any]) -> Tokenizer:
    """Applies `do_lower_case` of the tokenizer config where the stored BERT normalizer says otherwise."""
    normalizer = document.get("normalizer") or {}
    lower = config.get("do_lower_case")
    if normalizer.get("type") == "BertNormalizer" and lower is not None and normalizer.get("lowercase") != lower:
        backend.normalizer = normalizers.BertNormalizer(  # pyright: ignore[reportAttributeAccessIssue]
            clean_text=normalizer.get("clean_text", True),
            handle_chinese_chars=config.get("tokenize_chinese_chars", normalizer.get("handle_chinese_chars", True)),
            strip_accents=config.get("strip_accents", normalizer.get("strip_accents")),
            lowercase=lower,
        )
    return backend


def _pad_id(backend: Tokenizer, config: dict[str, Any]) -> int:
    token = config.get("pad_token")
    token = token.get("content") if isinstance(token, dict) else token
    found = backend.token_to_id(token) if isinstance(token, str) else None
    return 0 if found is None else found
