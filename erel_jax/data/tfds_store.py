"""TFDS data sets without TensorFlow: prepared as array_record, read as a data source.

TensorFlow Datasets is used for what it does well, a catalog of builders with versioned features and a random-access
store, and TensorFlow itself is never needed: examples are written as array_record, and pictures go in and come out as
encoded bytes. (TFDS would otherwise encode arrays with TensorFlow, and decode with whatever library is installed;
here the guarded `decode_image` alone decodes.)
"""

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from erel_jax.errors import DataError

FILE_FORMAT = "array_record"


def prepare(
    builder_class: type[tfds.core.GeneratorBasedBuilder],
    data_dir: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
) -> tfds.core.DatasetBuilder:
    """Write a data set as array_record, or find it written.

    Args:
        builder_class: A builder of `erel_jax.data.builders`.
        data_dir: TFDS data folder; the data set lies below it as `<name>/<version>`.
        folder: The person's folder with the source files, for builders that need one.

    Returns:
        The prepared builder. Its `info.metadata` holds what the builder left out.

    Raises:
        DataError: A source file is missing, or `folder` is not a folder.
    """
    if folder is not None and not Path(folder).is_dir():
        raise DataError(f"{folder}: no such folder. Expected the source files of {builder_class.name!r} in it.")
    builder = builder_class(data_dir=os.fspath(data_dir), file_format=FILE_FORMAT)
    settings = tfds.download.DownloadConfig(manual_dir=None if folder is None else os.fspath(folder))
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=settings)
    finally:
        tfds.enable_progress_bar()
    return builder


def read_split(builder: tfds.core.DatasetBuilder, split: str, encoded: str | None = None) -> Sequence[Mapping[str, Any]]:
    """Open one split for random access.

    Args:
        builder: From `prepare`.
        split: Split name.
        encoded: Name of an image feature to leave as encoded bytes.

    Returns:
        A sequence of examples. `Text` features are UTF-8 bytes.
    """
    decoders = None if encoded is None else {encoded: tfds.decode.SkipDecoding()}
    return builder.as_data_source(split=split, decoders=decoders)
