"""Unpack a zip from elsewhere: every name is judged before anything is written, every file is whole or not there."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from pipeline.data.storage import atomic_path
from pipeline.engine.progress import progress
from pipeline.errors import ContractError

_LITTER = "__MACOSX"


def unpack_zip(archive: Path, folder: Path) -> list[Path]:
    """Unpack an archive into a folder; files that already have the right size are passed over.

    Args:
        archive: the zip.
        folder: where it goes; made if need be.

    Returns:
        All its files, in the archive's order; what macOS leaves in archives is left out.

    Raises:
        ContractError: it is no zip, is damaged or encrypted, holds a name that leads out of the folder or a link,
            or unpacks to more than the disk has.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            members = [member for member in source.infolist() if not member.is_dir() and not _is_litter(member)]
            targets = [folder / _safe_name(archive, member) for member in members]
            todo = [pair for pair in zip(members, targets, strict=True) if not _is_unpacked(*pair)]
            _check_space(archive, sum(member.file_size for member, _ in todo), folder)
            for member, target in progress(todo, desc=f"unpack {archive.name}", unit="file"):
                with source.open(member) as packed, atomic_path(target) as temporary, temporary.open("wb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        # RuntimeError is zipfile's word for "encrypted".
        raise ContractError(f"{archive}: cannot be unpacked ({error}); delete it and fetch it again") from error
    return targets


def _is_litter(member: zipfile.ZipInfo) -> bool:
    parts = PurePosixPath(member.filename).parts
    return bool(parts) and (parts[0] == _LITTER or parts[-1].startswith("._"))


def _safe_name(archive: Path, member: zipfile.ZipInfo) -> PurePosixPath:
    name = PurePosixPath(member.filename)
    leads_out = name.is_absolute() or ".." in name.parts or "\\" in member.filename or ":" in member.filename
    if leads_out or not name.parts or stat.S_ISLNK(member.external_attr >> 16):
        raise ContractError(
            f"{archive}: {member.filename!r} leads out of its folder or is a link; nothing was unpacked"
        )
    return name


def _is_unpacked(member: zipfile.ZipInfo, target: Path) -> bool:
    return target.is_file() and target.stat().st_size == member.file_size


def _check_space(archive: Path, needed_bytes: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise ContractError(
            f"{archive}: unpacks to {needed_bytes:,} bytes, and {folder} has {free_bytes:,} free; make room, then go on"
        )
