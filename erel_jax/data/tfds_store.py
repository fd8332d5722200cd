"""TFDS data sets without TensorFlow: prepared as array_record, read as a data source.

TensorFlow Datasets is used for what it does well, a catalog of builders with versioned features and a random-access
store, and TensorFlow itself is never needed: examples are written as array_record, and pictures go in and come out as
encoded bytes. (TFDS would otherwise encode arrays with TensorFlow, and decode with whatever library is installed;
here the guarded `decode_image` alone decodes.)
"""

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from erel_jax.errors import CorruptArtifactError, DataError

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
        The prepared builder. `metadata_of` it holds what the builder left out.

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


def metadata_of(builder: tfds.core.DatasetBuilder) -> dict[str, Any]:
    """Return the free part of a data set's description, stored with it.

    Args:
        builder: A builder whose `_info` gives a `MetadataDict`.

    Returns:
        The dictionary itself; what is put into it while examples are generated is stored.
    """
    metadata = builder.info.metadata
    assert isinstance(metadata, dict), "the builder declares metadata=tfds.core.MetadataDict()"
    return metadata


def read_split(
    builder: tfds.core.DatasetBuilder, split: str, encoded: str | None = None
) -> Iterator[Mapping[str, Any]]:
    """Read one split from its first example to its last.

    Args:
        builder: From `prepare`.
        split: Split name.
        encoded: Name of an image feature to leave as encoded bytes.

    Yields:
        Examples. `Text` features are UTF-8 bytes.

    Raises:
        CorruptArtifactError: A record is damaged; names the folder, the split and the record.
    """
    decoders = None if encoded is None else {encoded: tfds.decode.SkipDecoding()}
    position = -1
    try:
        # The decorator on this method of TFDS hides its parameters.
        source = builder.as_data_source(split=split, decoders=decoders)  # pyright: ignore[reportCallIssue]
        for position in range(len(source)):
            yield source[position]
    except Exception as error:  # what a damaged record raises is not documented
        raise CorruptArtifactError(
            f"{builder.data_dir}: record {position} of split {split!r} is damaged ({type(error).__name__}). "
            "Delete this folder and run again; it is made from the source files."
        ) from error
