"""Caption filters: captions that are too short, too long, repetitive, hardly text, or said too often.

The rules look at one caption at a time, so captions can be streamed; only a digest of each distinct caption is kept in
memory to count copies. The first rule that a caption breaks is its reason.
"""

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from erel_jax.errors import ConfigError, DataError
from erel_jax.selection.fingerprint import Fingerprint
from erel_jax.selection.outcome import KEPT, Outcome, decide

REASONS = ("empty", "too_long", "too_few_words", "too_few_characters", "repetitive", "hardly_letters", "duplicate")

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")


@dataclass(frozen=True, kw_only=True)
class CaptionRules:
    """Which captions are kept; the defaults of the lengths are DataComp's basic filter, without its language rule.

    Attributes:
        min_words: fewest words; each Chinese character and each Japanese one counts as a word.
        min_characters: fewest characters, white space at the ends not counted.
        max_characters: most characters; longer ones are not looked at further.
        max_word_share: largest share of a caption's words that one word may take, judged from `repetition_words` on.
        repetition_words: fewest words of a caption that is judged for repetition.
        min_letter_share: smallest share of letters among the characters that are not white space.
        max_copies: how many rows with one caption are kept, in row order; None keeps all. Captions are equal if they
            differ in case, width forms and white space alone. Where several pictures rightly share a caption (products
            by title), keep all and group them with `group_equal_texts`.
    """

    min_words: int = 3
    min_characters: int = 6
    max_characters: int = 10_000
    max_word_share: float = 0.5
    repetition_words: int = 6
    min_letter_share: float = 0.5
    max_copies: int | None = 1

    def __post_init__(self) -> None:
        for name in ("min_words", "min_characters", "repetition_words"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected a finite number from 0.")
        if not self.max_characters >= max(1, self.min_characters):
            raise ConfigError(
                f"max_characters is {self.max_characters} with min_characters {self.min_characters}, expected at least "
                "as many."
            )
        for name in ("max_word_share", "min_letter_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected a share in 0..1.")
        if self.max_copies is not None and not self.max_copies >= 1:
            raise ConfigError(f"max_copies is {self.max_copies}, expected at least 1, or None to keep all.")


def filter_captions(captions: Iterable[str | None], rules: CaptionRules | None = None) -> Outcome:
    """Judges captions one by one.

    Args:
        captions: N texts, also a stream; None is a missing caption and counts as empty.
        rules: what is kept, `CaptionRules()` by default.

    Returns:
        The outcome; the reasons are `REASONS`, and a caption has the first one that applies.

    Raises:
        DataError: a caption is no text (names the row), there are none, or none would be kept.

    Reference: the basic filter of DataComp (Gadre et al. 2023) for the lengths.
    """
    chosen = rules or CaptionRules()
    digest = Fingerprint("captions")
    copies: Counter[bytes] = Counter()
    codes = []
    for row, caption in enumerate(captions):
        if caption is not None and not isinstance(caption, str):
            raise DataError(f"caption of row {row} is {type(caption).__name__}, expected text or None.")
        digest.text(caption)
        reason = _fault(caption or "", chosen)
        if reason is None and chosen.max_copies is not None:
            key = caption_key(caption or "")
            copies[key] += 1
            reason = "duplicate" if copies[key] > chosen.max_copies else None
        codes.append(KEPT if reason is None else REASONS.index(reason))
    return decide("captions", asdict(chosen), digest.digest(), np.asarray(codes, np.int16), REASONS)


def caption_key(text: str) -> bytes:
    """16-byte digest that equal captions share; case, width forms (NFKC) and white space do not count."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _fault(caption: str, rules: CaptionRules) -> str | None:
    text = caption.strip()
    if not text:
        return "empty"
    if len(text) > rules.max_characters:
        return "too_long"
    words = [word.casefold() for word in _WORD.findall(text)]
    if len(words) < rules.min_words:
        return "too_few_words"
    if len(text) < rules.min_characters:
        return "too_few_characters"
    if len(words) >= max(1, rules.repetition_words):
        most = Counter(words).most_common(1)[0][1]
        if most > rules.max_word_share * len(words):
            return "repetitive"
    return "hardly_letters" if _letter_share(text) < rules.min_letter_share else None


def _letter_share(text: str) -> float:
    """Share of letters and of marks that belong to letters among the characters that are not white space."""
    solid = "".join(text.split())
    letters = sum(map(str.isalpha, solid))
    if not solid.isascii():
        letters += sum(unicodedata.category(character)[0] == "M" for character in solid)
    return letters / len(solid)
