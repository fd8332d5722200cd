"""Where encoded picture files lie: a folder or a zip archive, read without leaving it.

File names come from tables that other people wrote. A `Pictures` object turns such a name into the bytes of a file
below one folder, or of one member of one zip archive. Names that lead elsewhere (`../x`, absolute paths, symbolic
links out) are refused, archives are never unpacked to disk, and a member is read up to a size limit whatever its
header promises.
"""

import lzma
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Self

from erel_jax.data.images import MAX_FILE_BYTES, BadImage
from erel_jax.errors import DataError
from erel_jax.folders import safe_join


class MissingImage(DataError):
    """A picture that a table names and its folder or archive lacks: a missing modality, not a damaged one."""


class Pictures:
    """Encoded pictures of one folder or one zip archive; a context manager.

    Args:
        root: The folder, or a `.zip` file.
        listed: Names come from a listing of the folder, not from a table: a backslash in them is a letter on POSIX.

    Raises:
        DataError: It does not exist, or is neither a folder nor a readable zip archive.
    """

    def __init__(self, root: str | os.PathLike[str], *, listed: bool = False) -> None:
        self.root, self._listed = Path(root), listed
        self._archive: zipfile.ZipFile | None = None
        if self.root.is_dir():
            return
        if not self.root.exists():
            raise DataError(f"{self.root}: no such folder or zip archive of pictures. Check the path (--images).")
        try:
            self._archive = zipfile.ZipFile(self.root)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(
                f"{self.root} is neither a folder nor a readable zip archive of pictures ({error}). Download it again."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._archive is not None:
            self._archive.close()

    def read(self, name: str) -> bytes:
        """Read one encoded picture.

        Args:
            name: Relative path with `/` between its parts.

        Returns:
            The bytes of the file, not decoded.

        Raises:
            MissingImage: There is no such file or member.
            BadImage: It is too large or no regular file or, in an archive, damaged or encrypted.
            DataError: The name would leave the folder.
        """
        path = self._path(name) if self._archive is None else None
        try:
            if path is not None:
                mode = path.stat().st_mode
                if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # reading a pipe may wait for ever
                    raise BadImage(f"{name}: no regular file")
                with open(path, "rb") as stream:
                    data = stream.read(MAX_FILE_BYTES + 1)
            else:
                data = self._read_member(name)
        except (FileNotFoundError, IsADirectoryError, KeyError):
            raise MissingImage(f"{name}: not in {self.root}") from None
        except OSError as error:
            raise BadImage(f"{name}: cannot be read ({error.strerror or error})") from error
        if len(data) > MAX_FILE_BYTES:
            raise BadImage(f"{name}: larger than {MAX_FILE_BYTES} bytes")
        return data

    def names(self) -> list[str]:
        """Names of all files directly in the folder, or of all members of the archive."""
        if self._archive is not None:
            return [member.filename for member in self._archive.infolist() if not member.is_dir()]
        return sorted(path.name for path in self.root.iterdir() if path.is_file())

    def stamp(self, name: str) -> str:
        """Describe the present state of a file without reading it, to notice when a cached copy is stale.

        Args:
            name: Relative path as for `read`.

        Returns:
            Size and modification time of the file, or size and checksum of the member; "missing" where there is none.
        """
        if self._archive is not None:
            try:
                member = self._archive.getinfo(name)
            except KeyError:
                return "missing"
            return f"{member.file_size} {member.CRC}"
        try:
            status = self._path(name).stat()
        except (OSError, BadImage):
            return "missing"
        return f"{status.st_size} {status.st_mtime_ns}"

    def _path(self, name: str) -> Path:
        # A colon in the first part would be a drive, elsewhere than on Windows it is a letter like any other.
        letter = os.name == "posix" and ":" in name.split("/")[0]
        try:
            joined = f"./{name}" if letter else name
            return safe_join(self.root, joined, backslash=self._listed, error=DataError)
        except RuntimeError:
            raise BadImage(f"{name}: a symbolic link that leads to itself") from None

    def _read_member(self, name: str) -> bytes:
        assert self._archive is not None
        member = self._archive.getinfo(name)
        if member.file_size > MAX_FILE_BYTES:
            raise BadImage(f"{name}: larger than {MAX_FILE_BYTES} bytes")
        try:
            with self._archive.open(member) as stream:
                return stream.read(MAX_FILE_BYTES + 1)
        # RuntimeError is what zipfile raises for an encrypted member, struct.error for headers that are cut off.
        except (
            zipfile.BadZipFile,
            zlib.error,
            lzma.LZMAError,
            struct.error,
            EOFError,
            RuntimeError,
            NotImplementedError,
        ) as error:
            raise BadImage(f"{name}: damaged in the archive ({error})") from error
