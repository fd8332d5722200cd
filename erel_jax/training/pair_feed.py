"""What a dual encoder reads while it trains on pictures with texts: pixels and tokens, or stored embeddings.

A locked tower says the same about a picture in every epoch. `PairFeed.store_images` asks it once per picture; from then
on batches carry the stored embeddings, and the training step needs no image tower (LiT, Zhai et al. 2022, without its
largest cost).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from erel_jax.data.pipeline import BatchStream, GatheredBatches
from erel_jax.data.retrieval import RetrievalData
from erel_jax.data.splits import join_groups
from erel_jax.data.state_store import Layout, StateStore, open_store
from erel_jax.errors import ConfigError
from erel_jax.interop.huggingface import Loaded
from erel_jax.sharding import compile_step

CHUNK = 256
SPLITS = ("train", "test")


class PairFeed:
    """Training pairs, and the texts and pictures of the test split, as encoders read them.

    Args:
        data: Pictures with texts.
        towers: Encoders by modality, "text" and "image".
        tokens: Longest text in tokens; longer ones are cut and counted.

    Attributes:
        groups: int32[N], group of each training pair: pairs that share a text or a picture, directly or through others,
            are of one group and no negatives of each other.
        cut: Number of texts that were cut.
        store: Embeddings of the training pictures, once `store_images` has run.

    Raises:
        ConfigError: The text encoder has no tokenizer, or the image encoder no settings.
    """

    def __init__(self, data: RetrievalData, towers: Mapping[str, Loaded], *, tokens: int) -> None:
        tokenizer = towers["text"].tokenizer
        if tokenizer is None or towers["image"].image_processor is None:
            raise ConfigError(
                "the text encoder needs its tokenizer.json and the image encoder its preprocessor_config.json; "
                "copy them into the folders."
            )
        self.data, self.towers = data, towers
        limit, before = min(tokens, tokenizer.max_length), tokenizer.truncated
        texts = {name: data.splits[name].texts for name in SPLITS}
        self._tokens = tokenizer.encode_together(texts, limit, (*range(8, limit, 8), limit))
        self.cut = tokenizer.truncated - before
        train = data.splits["train"]
        named = [train.texts[row] for row in train.text_of_image]
        linked = join_groups(list(zip(train.image_ids, named, strict=True)))
        self.groups = np.unique(linked, return_inverse=True)[1].astype(np.int32)
        self.store: StateStore | None = None

    def text(self, split: str, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Token ids int32[B, L] and mask bool[B, L] of some texts of a split."""
        return {name: values[rows] for name, values in self._tokens[split].items()}

    def image(self, split: str, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Normalized pixels float32[B, H, W, 3] of some pictures of a split."""
        return self.towers["image"].image_inputs(np.ascontiguousarray(self.data.splits[split].images[rows]))

    def batch(self, rows: np.ndarray, *, live: bool = False) -> dict[str, Any]:
        """What the training step reads of some training pairs.

        Args:
            rows: int32[B].
            live: Pixels also where embeddings are stored.

        Returns:
            `inputs` with `text` and `image` (`pixels`, or `vectors` float32[B, E] from the store); `group` int32[B].
        """
        image = self.image("train", rows) if self.store is None or live else {"vectors": self.store.widened(rows)}
        text = self.text("train", self.data.splits["train"].text_of_image[rows])
        return {"inputs": {"text": text, "image": image}, "group": self.groups[rows]}

    def stream(self, batch: int, seed: int) -> GatheredBatches:
        """Endless training batches with exact resume; an epoch visits every pair once, in an order of its own.

        Raises:
            ConfigError: There are fewer pairs than `batch`.
        """
        train = self.data.splits["train"]
        rows = BatchStream(len(train), batch=batch, seed=seed, data_fingerprint=self.data.fingerprint)
        return GatheredBatches(rows, self.batch, train.image_ids)

    def store_images(self, cache: Path, progress: Callable[[str, int, int], None]) -> None:
        """Asks the image tower about every training picture once; a store from an earlier run is opened.

        Args:
            cache: Folder of stores; one per tower and data set.
            progress: Called with (stage, done, total).

        Raises:
            NonFiniteError: The tower gave NaN or infinity; names the first row.
        """
        tower = self.towers["image"]
        step = compile_step(lambda params, inputs: tower.encoder.module.apply(params, inputs).embedding)

        def encode(start: int, stop: int) -> np.ndarray:
            places = np.minimum(np.arange(start, start + CHUNK), stop - 1)
            return np.asarray(step(tower.params, self.image("train", places)))[: stop - start]

        identity = {"weights": tower.fingerprint, "items": self.data.fingerprint, "split": "train"}
        width = tower.encoder.embedding_width
        layout = Layout(rows=len(self.groups), shape=(width,), storage="float32", chunk=CHUNK)
        folder = cache / "states" / f"pictures-{tower.fingerprint[:12]}-{self.data.fingerprint[:12]}"
        name = "image embeddings"
        self.store = open_store(folder, name=name, identity=identity, layout=layout, encode=encode, progress=progress)
