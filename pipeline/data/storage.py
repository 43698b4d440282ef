"""Files that are whole or not there: atomic writes, and folders swapped into place."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import ContractError, SetlistError, TransientError


@contextmanager
def atomic_path(path: Path) -> Generator[Path]:
    """Give a temporary name beside `path`; on success the file takes its real name, else it vanishes.

    The content is on the disk before the name is, so that a power cut leaves no empty file under it.

    Raises:
        ContractError: the folder cannot be written.
        TransientError: the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        if error.filename not in (None, str(temporary), str(path), str(path.parent)):
            raise  # of another file: whoever was writing had trouble of its own
        raise _cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(path: Path, error: OSError) -> SetlistError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TransientError(f"{path}: the disk is full; make room and run the same command again")
    return ContractError(f"{path}: cannot be written ({error.strerror or error}); free it, or choose another --root")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file at once; readers see the old one or the new one."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a finished file, or copy it where links fail (another file system, or one without links)."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def publish_folder(staged: Path, final: Path, retired: Path) -> None:
    """Swap a finished folder into place.

    The old folder waits under `retired` for the instant between two renames; `recover_folder` mends a kill there.

    Args:
        staged: complete new folder on the same file system.
        final: the name that users see.
        retired: where the old folder goes before it is deleted.
    """
    recover_folder(final, retired)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        retired.parent.mkdir(parents=True, exist_ok=True)
        final.rename(retired)
    staged.rename(final)
    _discard(retired)


def recover_folder(final: Path, retired: Path) -> None:
    """Undo or finish a swap that was killed between its two renames."""
    if not retired.exists():
        return
    if final.exists():
        _discard(retired)
    else:
        retired.rename(final)


def _discard(folder: Path) -> None:
    # Under another name first: half of an old folder must never be taken for one to bring back.
    trash = folder.with_name(f"{folder.name}.trash")
    shutil.rmtree(trash, ignore_errors=True)
    if folder.exists():
        folder.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)


def walk_files(folder: Path) -> list[Path]:
    """All files below a folder, sorted.

    Symbolic links are followed, each real folder once; those that lead nowhere are listed. Pipes and devices are not.
    """
    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [path for name in names if (path := Path(place, name)).is_file() or not path.exists()]
    return sorted(found)
