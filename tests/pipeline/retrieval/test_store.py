"""Mapped vectors: written once, by one process, and what lies there is what was given."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.retrieval import store
from pipeline.retrieval.index import mix


def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    text, audio = (random.normal(size=(count, 8)).astype(np.float32) for _ in range(2))
    return text, audio


def test_what_is_mapped_is_what_was_given_in_whatever_order_it_came(tmp_path: Path):
    text, audio = rows(9)
    order = np.random.default_rng(1).permutation(9)
    keys = [f"k{n}" for n in range(9)]
    given = ((int(n), text[n], audio[n]) for n in order)
    store.write_vectors(tmp_path, keys, given, num_pool=6, text_weight=0.3)
    assert np.array_equal(store.map_vectors(tmp_path, store.TEXT_FILE), text)
    assert np.array_equal(store.map_vectors(tmp_path, store.AUDIO_FILE), audio)
    mixed = store.map_vectors(tmp_path, store.MIXED_FILE)
    assert np.array_equal(mixed, mix(text[:6], audio[:6], text_weight=0.3))
    assert json.loads((tmp_path / store.KEYS_FILE).read_bytes()) == keys
    with pytest.raises(ValueError, match="read-only"):
        mixed[0] = 0


@pytest.mark.parametrize("missing", [1, 9])
def test_fewer_vectors_than_keys_are_refused(tmp_path: Path, missing: int):
    text, audio = rows(9)
    given = ((n, text[n], audio[n]) for n in range(9 - missing))
    with pytest.raises(ValueError, match=f"{9 - missing} vectors for 9 keys"):
        store.write_vectors(tmp_path, [f"k{n}" for n in range(9)], given, num_pool=6, text_weight=0.5)


def test_many_who_want_it_at_once_build_it_once(tmp_path: Path):
    built: list[int] = []

    def build(folder: Path) -> None:
        built.append(1)
        time.sleep(0.1)
        (folder / "x").write_text("whole")

    def want() -> None:
        assert (store.build_once(tmp_path / "pool", "a", build) / "x").read_text() == "whole"

    threads = [threading.Thread(target=want) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == [1]


def test_other_inputs_replace_it_and_a_kill_leaves_nothing_half_made(tmp_path: Path):
    def build(folder: Path) -> None:
        (folder / "x").write_text(folder.name)

    def killed(folder: Path) -> None:
        build(folder)
        raise KeyboardInterrupt

    old = store.build_once(tmp_path, "a", build)
    with pytest.raises(KeyboardInterrupt):
        store.build_once(tmp_path, "b", killed)
    new = store.build_once(tmp_path, "b", build)
    assert (new / "x").is_file()
    assert not old.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "lock"]
