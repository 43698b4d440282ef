"""A recording's bytes, be it a file of its own, a member of a tar, or in memory: raw, seekable, without a name.

Unbuffered, so that a file's descriptor stands where the file does; an impossible seek answers -1, since the decoders'
callbacks print what is raised in them; and no name, since FFmpeg weighs its ending and libsndfile would take ".raw" at
its word.
"""

from __future__ import annotations

import io
from pathlib import Path

from pipeline.data.records import Member


class BytesSource(io.BytesIO):
    """Bytes in memory."""

    name = ""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move; -1 if that is impossible."""
        try:
            return super().seek(offset, whence)
        except ValueError:
            return -1


class FileSource(io.FileIO):
    """A file on disk."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.name = ""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move; -1 if that is impossible."""
        try:
            return super().seek(offset, whence)
        except OSError:
            return -1


class MemberSource(io.RawIOBase):
    """A stretch of a file, read as if it were a file of its own."""

    name = ""

    def __init__(self, path: Path, member: Member) -> None:
        self._file = path.open("rb", buffering=0)
        self._start, self._num_bytes, self._at = member.start_byte, member.num_bytes, 0

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it can be moved in."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move; -1 if that is impossible."""
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._num_bytes}[whence]
        if at < 0:
            return -1
        self._at = at
        return at

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Fill a buffer as far as the member goes."""
        wanted = min(len(buffer), max(self._num_bytes - self._at, 0))
        self._file.seek(self._start + self._at)
        got = self._file.readinto(memoryview(buffer)[:wanted])
        self._at += got
        return got

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


Source = BytesSource | FileSource | MemberSource


def open_source(source: Path | bytes, member: Member | None = None) -> Source:
    """Open a recording.

    Args:
        source: a file, or the bytes themselves.
        member: the recording within the file, a tar.

    Raises:
        OSError: it cannot be opened.
    """
    if isinstance(source, bytes):
        return BytesSource(source)
    return FileSource(source) if member is None else MemberSource(source, member)
