"""Folders of shards, found below whatever a user names."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile

from pipeline.data.shards import INDEX_NAME, ShardEntry, expand_shards, load_index, scan_shard
from pipeline.errors import ContractError, ParamsError


def find_folders(path: Path) -> dict[Path, list[Path]]:
    """Find the tars that a path stands for, by folder.

    Args:
        path: a tar, a brace pattern, a glob, a folder of shards, or a folder above such folders; scratch folders, whose
            names begin with a dot, are passed by.

    Returns:
        Tars by folder, both sorted; a folder whose index names tars that are gone has fewer, down to none.

    Raises:
        ParamsError: there is no shard.
    """
    if not path.is_dir():
        tars = expand_shards(str(path))
        return {
            folder: [tar for tar in tars if tar.parent == folder] for folder in sorted({tar.parent for tar in tars})
        }
    below = [folder for folder in sorted([path, *path.rglob("*")]) if folder.is_dir() and not _is_hidden(folder, path)]
    found = {folder: sorted(folder.glob("*.tar")) for folder in below}
    found = {folder: tars for folder, tars in found.items() if tars or (folder / INDEX_NAME).is_file()}
    if not found:
        raise ParamsError(f"{path}: no shards here; name a tar, or a folder of them such as shards/ingest/CORPUS")
    return found


def _is_hidden(folder: Path, top: Path) -> bool:
    return any(part.startswith(".") for part in folder.relative_to(top).parts)


def known_entries(folder: Path) -> tuple[dict[str, ShardEntry], str]:
    """Read a folder's index.

    Returns:
        Entries by the tar's name, and what is wrong with the index in words, empty where nothing is.
    """
    try:
        return {entry.name: entry for entry in load_index(folder)}, ""
    except ContractError as error:
        return {}, str(error)


def entries_of(folder: Path, tars: list[Path]) -> list[ShardEntry]:
    """What the tars of a folder hold, from its index as far as it goes, and from their headers.

    Raises:
        ContractError: a damaged tar.
    """
    known, _ = known_entries(folder)
    return [known.get(tar.name) or scan_shard(tar) for tar in tars]


@contextmanager
def reading(tar: Path, key: str) -> Generator[None]:
    """Say which sample it is that cannot be understood: other programs write members of our names in other forms."""
    try:
        yield
    except (ContractError, ValueError, LookupError, TypeError, AttributeError, OSError, EOFError, BadZipFile) as error:
        raise ContractError(
            f"{tar}: sample {key}: a member is damaged, or of a form that Setlist does not write "
            f"({type(error).__name__}: {error}); `python -m pipeline verify {tar}` checks it"
        ) from error
