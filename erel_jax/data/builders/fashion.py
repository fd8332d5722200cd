"""TFDS builder of Fashion Product Images (Small), product photos with titles, from a person's own folder.

The folder holds `fashion15k_styles.csv` (columns `id`, `productDisplayName`, `image` among others) and
`fashion15k_60x80.zip`. Many products share a title; equal titles (without regard to case) stay on one side of the
split, and every picture of a title is a right answer for it.
"""

from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from erel_jax.data.image_sources import MissingImage, Pictures
from erel_jax.data.images import BadImage
from erel_jax.data.pair_tables import normalize_text, read_rows
from erel_jax.data.splits import SPLITS, split_groups
from erel_jax.data.tfds_store import metadata_of
from erel_jax.errors import DataError

STYLES = "fashion15k_styles.csv"
ARCHIVE = "fashion15k_60x80.zip"
SOURCES = (STYLES, ARCHIVE)
COLUMNS = ("id", "productDisplayName", "image")


class Fashion(tfds.core.GeneratorBasedBuilder):
    """Product photos with their titles."""

    # Found by TFDS itself only with importlib_resources installed, which TFDS 4.9.10 does not require.
    code_path = tfds.core.Path(__file__)
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "15k products, 60x80 pixels; split by title."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"A folder with {STYLES} and {ARCHIVE}."

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image_id": tfds.features.Text(doc="Product id."),
                    "text": tfds.features.Text(doc="Product title."),
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                }
            ),
            homepage="https://www.kaggle.com/datasets/paramaggarwal/fashion-product-images-small",
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager):
        folder = Path(dl_manager.manual_dir)
        products, blank = read_products(folder / STYLES)
        metadata_of(self)["dropped"] = {"blank_text": blank}
        metadata_of(self)["problems"] = []
        splits: dict[str, list[tuple[str, str, str]]] = {split: [] for split in SPLITS}
        for product, split in zip(products, split_groups([text for _, text, _ in products]), strict=True):
            splits[split].append(product)
        return {split: self._generate_examples(folder / ARCHIVE, kept, split) for split, kept in splits.items()}

    def _generate_examples(self, archive: Path, products: list[tuple[str, str, str]], split: str):
        with Pictures(archive) as pictures:
            for key, (image_id, text, name) in enumerate(products):
                try:
                    image = pictures.read(name)
                except (MissingImage, BadImage) as error:
                    missing = isinstance(error, MissingImage)
                    metadata_of(self)["problems"].append(
                        [split, image_id, f"{archive.name}/{name}", str(error), missing]
                    )
                else:
                    yield key, {"image_id": image_id, "text": text, "image": image}


def read_products(path: Path) -> tuple[list[tuple[str, str, str]], int]:
    """Read the table of products.

    Args:
        path: The CSV file.

    Returns:
        Id, title and picture name of every product with a title, in file order, and how many had none.

    Raises:
        DataError: The file is missing, empty, lacks a column, or has a row with another number of columns.
    """
    rows = read_rows(path, ",")
    header = rows[0][1]
    if missing := [name for name in COLUMNS if name not in header]:
        raise DataError(f"{path}, line 1: no column {', '.join(missing)}. Expected {', '.join(COLUMNS)} in the header.")
    places = [header.index(name) for name in COLUMNS]
    products = []
    for _, row in rows[1:]:
        image_id, title, name = (row[place] for place in places)
        if text := normalize_text(title):
            products.append((image_id, text, name))
    return products, len(rows) - 1 - len(products)
