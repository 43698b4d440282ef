"""Files that are whole or not there: atomic writes, and folders swapped into place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import ContractError


@contextmanager
def atomic_path(path: Path) -> Generator[Path]:
    """Give a temporary name beside `path`; on success the file takes its real name, else it vanishes.

    Raises:
        ContractError: the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise ContractError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


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
    shutil.rmtree(retired, ignore_errors=True)


def recover_folder(final: Path, retired: Path) -> None:
    """Undo or finish a swap that was killed between its two renames."""
    if not retired.exists():
        return
    if final.exists():
        shutil.rmtree(retired)
    else:
        retired.rename(final)
