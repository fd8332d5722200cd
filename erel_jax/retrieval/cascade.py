"""Cheap stages before dear ones: stop at the first stage where it is sure, or search by entities before the summary.

`cascaded` keeps the first stage's hits of a query whose best score leads by more than a margin, and asks the second
stage for the others. `calibrated_margin` chooses the smallest margin that reaches a recall on queries whose answers are
known.

`EntityCascade` finds images for long texts with any dual encoder: every entity of the text is a query of its own, the
union of what they find is ranked by the embedding of a summary. Rankings of entities are kept, so that an entity is
encoded and searched once for all texts.

Reference: CFIR (Long et al., SIGIR 2024), arXiv 2402.15276, for entities and summaries.
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from erel_jax.errors import ConfigError
from erel_jax.retrieval.checks import check_count
from erel_jax.retrieval.hits import Hits
from erel_jax.retrieval.ids import ids_of
from erel_jax.retrieval.index import Found, Index, search_index
from erel_jax.retrieval.metric import prepared

Encode = Callable[[Sequence[str]], np.ndarray]
"""Texts to float[N, E] in the space of the corpus."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Margin:
    """A calibrated margin.

    Attributes:
        margin: a query whose best score leads by more than this stops at the first stage.
        recall: of the cascade on the queries it was calibrated on.
        stopped: share of them that stopped.
        wanted: the recall asked for.
    """

    margin: float
    recall: float
    stopped: float
    wanted: float

    def describe(self) -> str:
        """What was reached, and what to change where it is too little."""
        line = f"margin {self.margin:.4g}: recall {self.recall:.3f}, {self.stopped:.0%} of queries stop early"
        if self.recall >= self.wanted:
            return line
        return f"{line}. Below the recall of {self.wanted:g} asked for: the second stage has to become better"


def leads(hits: Hits) -> np.ndarray:
    """By how much the best score of each query leads, float32[Q]; infinite where there is one hit alone or none.

    Raises:
        ConfigError: there is only one hit per query.
    """
    if hits.rows.shape[1] < 2:
        raise ConfigError("hits have 1 place per query, expected 2 or more to compare the best with the next.")
    alone = hits.rows[:, 1] < 0
    next_best = np.where(alone, 0, hits.scores[:, 1])
    return np.where(alone, np.inf, np.where(alone, 0, hits.scores[:, 0]) - next_best).astype(np.float32)


def calibrated_margin(lead: np.ndarray, first: np.ndarray, second: np.ndarray, wanted: float) -> Margin:
    """The smallest margin with which a cascade reaches a recall.

    Args:
        lead: float[Q], from `leads`, of queries whose answers are known; some hundreds of them.
        first: recall of each query where it stops at the first stage, bool or float[Q] in [0, 1].
        second: recall of each query where it goes on.
        wanted: recall to reach, in (0, 1].

    Returns:
        The margin; infinity where only asking the second stage always reaches it, or even that does not.

    Raises:
        ConfigError: shapes or the wanted recall do not fit.
    """
    lead, first, second = (np.asarray(side, np.float64) for side in (lead, first, second))
    if (
        lead.ndim != 1
        or not len(lead)
        or first.shape != lead.shape
        or second.shape != lead.shape
        or not 0 < wanted <= 1
    ):
        raise ConfigError(
            f"lead, first and second have shapes {lead.shape}, {first.shape}, {second.shape} and the wanted recall is "
            f"{wanted}; expected [Q] three times, and above 0 and at most 1."
        )
    # Stopping only the n surest queries, for every n: ties in lead stop together.
    order = np.argsort(-lead, kind="stable")
    gained = np.concatenate([[0.0], np.cumsum((first - second)[order])])
    recalls = (second.sum() + gained) / len(lead)
    sure = lead[order]
    whole = np.concatenate([[True], np.append(sure[1:] < sure[:-1], True)])
    enough = np.flatnonzero(whole & (recalls >= wanted - 1e-12))
    count = int(enough[-1]) if len(enough) else 0
    margin = np.inf if count == 0 else (-np.inf if count == len(lead) else float(sure[count]))
    return Margin(margin=margin, recall=float(recalls[count]), stopped=count / len(lead), wanted=wanted)


def cascaded(first: Hits, margin: float, second: Callable[[np.ndarray], Hits]) -> tuple[Hits, np.ndarray]:
    """Hits of the first stage where it is sure, else of the second.

    Args:
        first: hits of every query with two places or more, e.g. of a short dimension or a cheap modality.
        margin: lead above which a query stops.
        second: hits of the queries with the given numbers, int64[n], with at most as many places as `first`; not called
            where all queries stop.

    Returns:
        (hits with the places of the second stage, or of the first where all stop; bool[Q], which queries stopped).
        Scores of the two stages need not be comparable.

    Raises:
        ConfigError: there is one place per query, or the second stage gives other queries or more places.
    """
    stopped = leads(first) > margin
    on = np.flatnonzero(~stopped)
    if not len(on):
        return first, stopped
    later = second(on)
    places = later.rows.shape[1]
    if len(later) != len(on) or places > first.rows.shape[1]:
        raise ConfigError(
            f"the second stage gave {len(later)} × {places} hits for {len(on)} queries, expected one row each and at "
            f"most {first.rows.shape[1]} places."
        )
    rows, scores = first.rows[:, :places].copy(), first.scores[:, :places].copy()
    rows[on], scores[on] = later.rows, later.scores
    return Hits(rows=rows, scores=scores), stopped


def capitalized_spans(text: str) -> list[str]:
    """Runs of capitalized words, each once, in the order of the text; a simple stand-in for an entity recognizer.

    Example:
        >>> capitalized_spans("The tower of Pisa, seen by Galileo Galilei in 1589.")
        ['The', 'Pisa', 'Galileo Galilei']
    """
    return list(dict.fromkeys(re.findall(r"\b[^\W\d_a-z]\w*(?:[ -][^\W\d_a-z]\w*)*", text)))


def first_sentences(text: str, count: int = 2) -> str:
    """The first sentences of a text; a simple stand-in for a summary."""
    return " ".join(re.split(r"(?<=[.!?])\s+", text.strip())[:count])


class EntityCascade:
    """Entities first, summary second; see the module docstring.

    Args:
        index: the corpus, e.g. embeddings of images.
        encode: encoder of texts in the same space.
        entities: finds the entities of a text.
        summarize: shortens a text to what the encoder can hold.
        per_entity: rows that each entity contributes.

    Raises:
        ConfigError: `per_entity` is below 1.
    """

    def __init__(
        self,
        index: Index,
        encode: Encode,
        *,
        entities: Callable[[str], Sequence[str]] = capitalized_spans,
        summarize: Callable[[str], str] = first_sentences,
        per_entity: int = 100,
    ) -> None:
        check_count(per_entity)
        self.index, self.encode, self.per_entity = index, encode, per_entity
        self._entities, self._summarize = entities, summarize
        self._rankings: dict[bytes, np.ndarray] = {}
        self._row = {name: row for row, name in enumerate(index.ids.tolist())}

    def prepare(self, entities: Sequence[str]) -> int:
        """Ranks entities beforehand, and returns how many were not known before."""
        new = {_key(entity): entity for entity in entities if _key(entity) not in self._rankings}
        if new:
            found = search_index(self.index, self.encode(list(new.values())), self.per_entity).ids
            for key, names in zip(new, found.tolist(), strict=True):
                self._rankings[key] = np.array([self._row[name] for name in names if name in self._row], np.int64)
        return len(new)

    def candidates(self, text: str) -> np.ndarray:
        """Rows that an entity of the text found, ascending; all rows where it has no entity."""
        entities = list(self._entities(text))
        self.prepare(entities)
        if not entities:
            return np.flatnonzero(self.index.alive)
        return np.unique(np.concatenate([self._rankings[_key(entity)] for entity in entities]))

    def search(self, texts: Sequence[str], k: int) -> Found:
        """The K candidates of each text that are nearest to its summary.

        Args:
            texts: Q long texts.
            k: hits per text; a text with fewer candidates has -1 or "" in the places left over.

        Raises:
            ConfigError: k is below 1, there are no texts, or the encoder gives another width.
            NonFiniteError: the encoder gives NaN or infinity.

        Ties stand in row order. Cost: the entities not seen before and one summary are encoded, and as many rows are
        scored as there are candidates.
        """
        check_count(k)
        if not len(texts):
            raise ConfigError("got no texts, expected 1 or more.")
        self.prepare([entity for text in texts for entity in self._entities(text)])
        asked = prepared(
            "summaries",
            self.encode([self._summarize(text) for text in texts]),
            self.index.metric,
            self.index.code.width,
        )
        rows, scores = np.full((len(texts), k), -1, np.int64), np.full((len(texts), k), -np.inf, np.float32)
        for number, text in enumerate(texts):
            near = self.candidates(text)
            values = self._scores(asked[number : number + 1], near)
            best = np.argsort(-values, kind="stable")[:k]
            rows[number, : len(best)], scores[number, : len(best)] = near[best], values[best]
        return Found(ids=ids_of(self.index.ids, rows), scores=scores)

    def _scores(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        query = np.asarray(query, np.float32)
        if self.index.vectors is not None:
            return np.asarray(self.index.vectors[rows], np.float32) @ query[0]
        code = self.index.code
        vectors = np.asarray(code.decode({name: values[rows] for name, values in self.index.stored.items()}))
        return vectors @ np.asarray(code.project(jnp.asarray(query)))[0]


def _key(entity: str) -> bytes:
    return hashlib.sha256(" ".join(entity.split()).encode("utf-8")).digest()
