"""Checkpoints are found, named and digested the same way for every port."""

from __future__ import annotations

import hashlib

import huggingface_hub.constants
import pytest
import torch

from pipeline.errors import ContractError, ParamsError
from pipeline.models.base import choose_device, find_checkpoint, same_length_groups, weights_digest


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An offline hub cache that holds one repository."""
    cache = tmp_path / "hub"
    repository = cache / "models--setlist--toy"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return snapshot


def test_find_checkpoint_takes_a_folder(tmp_path):
    found = find_checkpoint(str(tmp_path), role="codec")
    assert (found.path, found.name, found.revision) == (tmp_path, tmp_path.name, None)


def test_find_checkpoint_takes_a_hub_id(hub):
    found = find_checkpoint("setlist/toy", role="codec")
    assert (found.path, found.name, found.revision) == (hub, "setlist/toy", "a" * 40)
    assert weights_digest("setlist/toy") == weights_digest(hub)


@pytest.mark.parametrize("source", ["/absent/folder", "setlist/absent", "absent", "", "a/b/c"])
def test_find_checkpoint_says_what_is_missing(hub, source):
    with pytest.raises(ContractError, match=f"codec: .*{source}.*section models") as caught:
        find_checkpoint(source, role="codec")
    assert "\n" not in str(caught.value)


def test_weights_digest_depends_on_what_is_loaded(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = weights_digest(tmp_path)
    (tmp_path / "README.md").write_text("not read")
    (tmp_path / "pytorch_model.bin").write_bytes(b"the same in an older format, never read")
    assert weights_digest(str(tmp_path)) == first
    (tmp_path / "config.json").write_text("{}")
    second = weights_digest(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"others")
    assert len({first, second, weights_digest(tmp_path)}) == 3


def test_weights_digest_of_a_file(tmp_path):
    (tmp_path / "whisper.pt").write_bytes(b"weights")
    inner = hashlib.sha256(b"weights").digest()
    assert weights_digest(tmp_path / "whisper.pt") == hashlib.sha256(inner).hexdigest()


def test_weights_digest_refuses_a_folder_without_weights(tmp_path):
    with pytest.raises(ContractError, match="holds no weights"):
        weights_digest(tmp_path)
    with pytest.raises(ContractError, match="no folder"):
        weights_digest(tmp_path / "absent")


def test_choose_device_resolves_auto():
    has_cuda = torch.cuda.is_available()
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") == ("cuda" if has_cuda else "cpu")
    with pytest.raises(ParamsError, match="gpu"):
        choose_device("gpu")


def test_choose_device_refuses_cuda_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ParamsError, match="no CUDA device"):
        choose_device("cuda")


def test_same_length_groups_cover_all_items_once():
    assert same_length_groups([5, 3, 5, 5, 3, 0]) == [(5, [0, 2, 3]), (3, [1, 4]), (0, [5])]
    assert same_length_groups([]) == []
