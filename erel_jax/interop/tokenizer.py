"""Texts to padded token ids, with the shapes a compiled program wants.

`TextTokenizer` drives a fast tokenizer from `tokenizer.json` directly. Truncation and padding settings stored in that
file are overridden: lengths are the caller's choice, drawn from a few buckets so that few programs are compiled. How
many texts were cut is counted. A prompt around the texts is never cut.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer, normalizers

from erel_jax.errors import CheckpointError, ConfigError, CorruptArtifactError, DataError
from erel_jax.folders import safe_join
from erel_jax.interop.configurations import refuse_code
from erel_jax.interop.prompts import Prompts
from erel_jax.interop.safetensors_folder import read_json

UNLIMITED = 10**6
SLOW_FILES = ("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model")


class TextTokenizer:
    """A tokenizer with a maximum length, a padding id and a count of truncated texts.

    Args:
        backend: a tokenizer of the `tokenizers` library; its own truncation and padding are switched off.
        max_length: the most tokens a text may have, special tokens included; longer texts are cut.
        pad_id: id in padded places. It may be that of a real token, as where a decoder pads with its end token: the
            mask says what is padding, the id never does.
        lowercase: lower-case texts before the tokenizer sees them.
        prompts: words around every text.

    Attributes:
        truncated: number of texts cut so far.
    """

    def __init__(
        self,
        backend: Tokenizer,
        *,
        max_length: int,
        pad_id: int = 0,
        lowercase: bool = False,
        prompts: Prompts | None = None,
    ) -> None:
        self.backend = backend
        self.backend.no_padding()
        self.backend.no_truncation()
        self.max_length = max_length
        self.pad_id = pad_id
        self.lowercase = lowercase
        self.prompts = prompts or Prompts()
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
        self,
        texts: Sequence[str],
        max_length: int | None = None,
        buckets: Sequence[int] | None = None,
        prompt: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Tokenizes, cuts and pads texts.

        Args:
            texts: N texts; an empty one becomes special tokens alone. Code points that UTF-8 cannot hold (lone
                surrogates) are replaced by `?`.
            max_length: the most tokens, at most the tokenizer's own `max_length`, which is the default.
            buckets: allowed lengths L; the result has the smallest one that holds its longest text. None pads to
                `max_length`, one shape for every call.
            prompt: name of a prompt, a template with `{text}`, or "" for none; None takes the default of `prompts`.

        Returns:
            `{"ids": int32[N, L], "mask": bool[N, L]}`, right padded, on the host.

        Raises:
            ConfigError: `max_length` is above the encoder's positions or leaves no token for the text beside the
                prompt, the special tokens alone exceed it, no bucket holds it, or an unknown prompt.
            DataError: an entry is not a string, or one string was given in place of a list.
        """
        if isinstance(texts, str):  # its characters would be texts
            raise DataError(f"got one string {texts[:50]!r}, expected a list of texts: [text].")
        limit = self.max_length if max_length is None else max_length
        if not 1 <= limit <= self.max_length:
            raise ConfigError(f"got max_length {limit}, expected 1 to {self.max_length} (the encoder's limit).")
        special = self.backend.num_special_tokens_to_add(is_pair=False)
        if limit < special:
            raise ConfigError(f"got max_length {limit}, the tokenizer puts {special} special tokens around every text.")
        wrong = [i for i, text in enumerate(texts) if not isinstance(text, str)]
        if wrong:
            raise DataError(f"texts {wrong[:5]} are not strings, first: {texts[wrong[0]]!r}. Pass a list of str.")
        chosen = self.prompts if prompt is None else self.prompts.choose(prompt)
        rows = [encoding.ids for encoding in self._encodings([self._clean(text) for text in texts], limit, chosen)]
        length = bucket(max((len(row) for row in rows), default=1), limit, buckets)
        ids = np.full((len(rows), length), self.pad_id, np.int32)
        mask = np.zeros((len(rows), length), bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = True
        return {"ids": ids, "mask": mask}

    def encode_together(
        self, texts: Mapping[str, Sequence[str]], max_length: int, buckets: Sequence[int]
    ) -> dict[str, dict[str, np.ndarray]]:
        """`encode` of named lists, all padded to one length, so that a program compiled for one serves all."""
        encoded = self.encode([text for part in texts.values() for text in part], max_length, buckets)
        ends = np.cumsum([len(part) for part in texts.values()])[:-1]
        parts = {key: np.split(values, ends) for key, values in encoded.items()}
        return {name: {key: values[i] for key, values in parts.items()} for i, name in enumerate(texts)}

    def to_json(self) -> str:
        """The tokenizer as the text of a `tokenizer.json`."""
        return self.backend.to_str()

    def _encodings(self, texts: list[str], limit: int, prompts: Prompts) -> list[Encoding]:
        """Tokens of every text in its prompt, at most `limit`; what is cut is the end of the text."""
        before, after = (self._clean(words) for words in prompts.around)
        alone = len(self.backend.encode(before + after)) if before or after else 0
        if alone >= limit:
            raise ConfigError(
                f"prompt {prompts.default!r} takes {alone} tokens without a text, max_length is {limit}. Allow more "
                "tokens or shorten the prompt."
            )
        prompted = [before + text + after for text in texts]
        if after:
            encodings = self.backend.encode_batch(prompted)
            for i, encoding in enumerate(encodings):
                if len(encoding) > limit:
                    encodings[i] = self._cut(encoding, texts[i], before, after, limit)
                    self.truncated += 1
            return encodings
        self.backend.enable_truncation(limit)
        try:
            encodings = self.backend.encode_batch(prompted)
        finally:
            self.backend.no_truncation()
        self.truncated += sum(bool(encoding.overflowing) for encoding in encodings)
        return encodings

    def _cut(self, encoding: Encoding, text: str, before: str, after: str, limit: int) -> Encoding:
        """The encoding of as much of a text's beginning as fits between the two parts of its prompt.

        Shortened text may fall into more tokens than were counted, so this repeats until it fits.
        """
        while len(encoding) > limit and text:
            end = len(before) + len(text)
            starts = [start - len(before) for start, stop in encoding.offsets if len(before) <= start < min(stop, end)]
            excess = len(encoding) - limit
            text = text[: starts[-excess] if excess < len(starts) else 0]
            encoding = self.backend.encode(before + text + after)
        return encoding

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
    prompts: Prompts | None = None,
    link_root: Path | None = None,
) -> TextTokenizer | None:
    """The tokenizer of a Hugging Face folder.

    Args:
        folder: the folder; `tokenizer.json` is read directly, older files through transformers.
        max_positions: positions of the encoder, an upper bound for `max_length`.
        vocabulary: rows of the encoder's embedding table; a tokenizer with larger ids is refused.
        max_length: longest text if the folder's owner limits it further.
        lowercase: lower-case texts first (the tokenizer's own setting is applied besides).
        prompts: words around every text.
        link_root: see `erel_jax.folders.safe_join`.

    Returns:
        The tokenizer, or None where the folder has no tokenizer files.

    Raises:
        CheckpointError: the tokenizer has ids that the embedding table lacks.
        ConfigError: a setting of `tokenizer_config.json` is of another kind than meant.
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
    if isinstance(stored, int) and not isinstance(stored, bool) and 0 < stored < UNLIMITED:
        limits.append(stored)
    named = _named_pad(folder, config, link_root)
    pad = None if named is None else backend.token_to_id(named)
    tokenizer = TextTokenizer(backend, max_length=min(limits), pad_id=pad or 0, lowercase=lowercase, prompts=prompts)
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
    for key in ("do_lower_case", "tokenize_chinese_chars", "strip_accents"):
        if not isinstance(config.get(key), bool | None):
            raise ConfigError(f"tokenizer_config.json has {key} = {config[key]!r}, expected true, false or null.")
    if normalizer.get("type") == "BertNormalizer" and lower is not None and normalizer.get("lowercase") != lower:
        backend.normalizer = normalizers.BertNormalizer(  # pyright: ignore[reportAttributeAccessIssue]
            clean_text=normalizer.get("clean_text", True),
            handle_chinese_chars=config.get("tokenize_chinese_chars", normalizer.get("handle_chinese_chars", True)),
            strip_accents=config.get("strip_accents", normalizer.get("strip_accents")),
            lowercase=lower,
        )
    return backend


def _named_pad(folder: str | os.PathLike[str], config: dict[str, Any], link_root: Path | None) -> str | None:
    """The padding token that the folder names, in the tokenizer config or in the older file of special tokens."""
    path = safe_join(folder, "special_tokens_map.json", link_root=link_root)
    for settings in (config, read_json(path) if path.is_file() else {}):
        token = settings.get("pad_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            return token
    return None
