"""TFDS builder of the embedded data set of drawn characters (see `erel_jax.data.glyphs`).

One example is one character: its name, and its pictures in all fonts that draw it differently.
"""

from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from erel_jax.data.glyph_render import SIDE
from erel_jax.data.glyphs import Glyph, draw_glyphs
from erel_jax.data.tfds_store import metadata_of


class Glyphs(tfds.core.GeneratorBasedBuilder):
    """Pictures of named Unicode characters, drawn when the data set is prepared."""

    # Found by TFDS itself only with importlib_resources installed, which TFDS 4.9.10 does not require.
    code_path = tfds.core.Path(__file__)
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {
        "1.0.0": "DejaVu and STIX, 32x32 pixels, two halves with disjoint scripts and fonts."
    }

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "character": tfds.features.Text(doc="The character, also its id."),
                    "text": tfds.features.Text(doc="Unicode name in lower case."),
                    "fonts": tfds.features.Sequence(tfds.features.Text(), doc="Font of each picture."),
                    "pictures": tfds.features.Tensor(
                        shape=(None, SIDE, SIDE), dtype=np.uint8, encoding="zlib", doc="Black ink on white."
                    ),
                }
            ),
            homepage="https://www.unicode.org/charts/",
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager):
        splits, dropped = draw_glyphs()
        metadata_of(self)["dropped"] = dropped
        return {split: self._generate_examples(glyphs) for split, glyphs in splits.items()}

    def _generate_examples(self, glyphs: list[Glyph]):
        for glyph in glyphs:
            yield (
                ord(glyph.character),
                {
                    "character": glyph.character,
                    "text": glyph.name,
                    "fonts": list(glyph.fonts),
                    "pictures": glyph.pictures,
                },
            )
