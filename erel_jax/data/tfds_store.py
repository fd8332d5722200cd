"""TFDS data sets without TensorFlow: prepared as array_record, read as a data source.

TensorFlow Datasets is used for what it does well, a catalog of builders with versioned features and a random-access
store, and TensorFlow itself is never needed: examples are written as array_record, and pictures go in and come out as
encoded bytes. (TFDS would otherwise encode arrays with TensorFlow, and decode with whatever library is installed;
here the guarded `decode_image` alone decodes.)
"""

import contextlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants, file_adapters, read_only_builder

from erel_jax.errors import ConfigError, CorruptArtifactError, DataError

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


def find_prepared(name: str, data_dir: str | os.PathLike[str] | None = None) -> tfds.core.DatasetBuilder:
    """Find a data set that TFDS has prepared before, from its files alone.

    Neither the network nor the code that made the data set is used.

    Args:
        name: `NAME` or `NAME/CONFIG` as TFDS spells it, with `:VERSION` behind where several are there.
        data_dir: TFDS data folder; TFDS's own (`~/tensorflow_datasets`) when None.

    Returns:
        The builder.

    Raises:
        ConfigError: There is no such data set in the folder; says how to prepare one.
        DataError: It is stored in a format without random access.
    """
    place = Path(constants.DATA_DIR if data_dir is None else data_dir)
    said = f"tfds.builder({name!r}, data_dir={os.fspath(place)!r}, file_format='array_record').download_and_prepare()"
    try:
        builder = read_only_builder.builder_from_files(name, data_dir=os.fspath(place))
    except Exception as error:  # an absent, damaged or misspelled one raises what its code path happens to
        found = sorted(entry.name for entry in place.glob("*/") if entry.name != "downloads") if place.is_dir() else []
        raise ConfigError(
            f"TFDS data set {name!r} is not prepared in {place} (data sets there: {', '.join(found) or 'none'}). "
            f'Prepare it once: python -c "import tensorflow_datasets as tfds; {said}"'
        ) from error
    stored = builder.info.available_file_formats()
    if not stored & file_adapters.FileFormat.with_random_access():
        raise DataError(
            f"{builder.data_dir} is stored as {', '.join(sorted(form.value for form in stored)) or 'nothing'}, "
            f"expected array_record, which is read without TensorFlow. Prepare it elsewhere: {said}"
        )
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
    builder: tfds.core.DatasetBuilder, split: str, encoded: str | Sequence[str] | None = None
) -> Iterator[Mapping[str, Any]]:
    """Read one split from its first example to its last.

    Args:
        builder: From `prepare`.
        split: Split name.
        encoded: Name of an image feature to leave as encoded bytes, or several.

    Yields:
        Examples. `Text` features are UTF-8 bytes.

    Raises:
        CorruptArtifactError: A record is damaged; names the folder, the split and the record.
    """
    names = [encoded] if isinstance(encoded, str) else encoded or ()
    decoders = {name: tfds.decode.SkipDecoding() for name in names} or None
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
