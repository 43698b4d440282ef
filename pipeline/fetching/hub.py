"""A data set from the Hugging Face hub: listed first, downloaded with resume, and every file checked."""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ParamsError, SetlistError, TransientError
from pipeline.fetching.http import checksum_of
from pipeline.fetching.state import Entry, StateFile, failed

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile


@dataclass(frozen=True, slots=True, kw_only=True)
class HubParams:
    """A data set on the hub and what to take from it."""

    repo_id: str
    """`owner/name`."""
    revision: str = "main"
    """Branch, tag or commit; a commit gives the same files for ever."""
    patterns: tuple[str, ...] = ("*",)
    """Files to fetch; `*` also matches slashes."""
    endpoint: str | None = None
    """Address of the hub; null is HF_ENDPOINT of the environment, or huggingface.co."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What the hub has, at one commit."""

    commit: str
    files: tuple[RepoFile, ...]


def list_files(params: HubParams) -> Listing:
    """Ask the hub for the files that the patterns match, sorted by name.

    Raises:
        ParamsError: no such data set, no access to it, offline, or nothing matches.
        TransientError: the hub is out of reach.
    """
    from huggingface_hub.hf_api import RepoFile

    with _explained(params):
        api = _api(params)
        commit = api.dataset_info(params.repo_id, revision=params.revision).sha or params.revision
        tree = list(api.list_repo_tree(params.repo_id, repo_type="dataset", revision=commit, recursive=True))
    files = [entry for entry in tree if isinstance(entry, RepoFile)]
    chosen = [file for file in files if any(fnmatch.fnmatchcase(file.path, p) for p in params.patterns)]
    if not chosen:
        raise ParamsError(
            f"hub data set {params.repo_id}: none of its {len(files)} files matches {', '.join(params.patterns)}"
        )
    return Listing(commit, tuple(sorted(chosen, key=lambda file: file.path)))


def fetch_hub(params: HubParams, root: Path, *, state: StateFile, limit: int | None = None) -> None:
    """Fetch the matching files into `root`, each once, and check every one.

    Args:
        params: what to take.
        root: where it goes; the hub's own resume data lie in `.cache` there.
        state: what was fetched before; every checked file is written into it.
        limit: only the first so many files.

    Raises:
        ParamsError: as `list_files`.
        TransientError: the hub is out of reach, or a file came damaged; that one was removed.
    """
    listing = list_files(params)
    todo = [file for file in listing.files[:limit] if not _is_done(file, state, root)]
    if todo:
        with _explained(params):
            _download(params, listing.commit, [file.path for file in todo], root)
    damaged = [file.path for file in todo if not _check(file, root, state)]
    if damaged:
        raise TransientError(
            f"hub data set {params.repo_id}: {len(damaged)} files came damaged and were removed, {damaged[0]} first; "
            "the same command fetches them again"
        )


def _api(params: HubParams) -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(endpoint=params.endpoint, library_name="setlist")


def _download(params: HubParams, commit: str, paths: Sequence[str], root: Path) -> None:
    # Only after the listing came through: out of reach, snapshot_download takes a half-full folder for the whole.
    _api(params).snapshot_download(
        params.repo_id,
        repo_type="dataset",
        revision=commit,
        local_dir=root,
        allow_patterns=[glob.escape(path) for path in paths],
        max_workers=4,
    )


def _is_done(file: RepoFile, state: StateFile, root: Path) -> bool:
    entry = state.entries.get(file.path)
    return entry is not None and entry.checksum == _promised(file) and entry.is_there(root)


def _promised(file: RepoFile) -> str:
    return f"sha256:{file.lfs.sha256}" if file.lfs else f"git-sha1:{file.blob_id}"


def _check(file: RepoFile, root: Path, state: StateFile) -> bool:
    path = root / file.path
    came = _came(path, is_lfs=file.lfs is not None)
    if came == _promised(file):
        size_bytes = path.stat().st_size
        state.write(Entry(id=file.path, state="ok", path=file.path, size_bytes=size_bytes, checksum=came))
        return True
    path.unlink(missing_ok=True)
    detail = f"{came} came instead of {_promised(file)}"
    state.write(failed(state.entries.get(file.path), file.path, detail, max_tries=1 << 30, first_wait_s=0))
    return False


def _came(path: Path, *, is_lfs: bool) -> str:
    if not path.is_file():
        return "nothing"
    if is_lfs:
        return checksum_of(path)
    data = path.read_bytes()
    # Git's name of a blob; small files have no other checksum on the hub.
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return f"git-sha1:{blob.hexdigest()}"


@contextlib.contextmanager
def _explained(params: HubParams) -> Generator[None]:
    """Turn the hub's errors into one line each."""
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled:
        raise ParamsError("the hub is switched off (HF_HUB_OFFLINE); unset it for this command") from None
    except errors.RevisionNotFoundError as error:
        raise ParamsError(f"hub data set {params.repo_id}: has no revision {params.revision!r}") from error
    except errors.HFValidationError as error:
        raise ParamsError(f"hub data set {params.repo_id}: {_first_line(error)}") from error
    except errors.HfHubHTTPError as error:
        raise _refusal(params, error) from error
    except (errors.HTTPError, OSError) as error:
        raise TransientError(
            f"hub data set {params.repo_id}: {_first_line(error)}; the same command goes on from what came so far"
        ) from error


def _refusal(params: HubParams, error: Exception) -> SetlistError:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", 0)
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return ParamsError(
            f"hub data set {params.repo_id} is gated (HTTP {status}): accept its terms at "
            f"https://huggingface.co/datasets/{params.repo_id}, then log in by `hf auth login` or set HF_TOKEN"
        )
    if status in {401, 404}:
        return ParamsError(
            f"hub data set {params.repo_id}: not there, or not for you (HTTP {status}); check the name, and log in by "
            "`hf auth login` or set HF_TOKEN"
        )
    return TransientError(f"hub data set {params.repo_id}: {_first_line(error)}; try again later")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
