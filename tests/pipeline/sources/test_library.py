from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ParamsError
from pipeline.sources.table import corpus_tracks


def test_every_file_is_listed_with_its_side_text(tmp_path: Path):
    (tmp_path / "lib" / "sub").mkdir(parents=True)
    for name in ("b.wav", "sub/a.mp3", ".hidden.wav", "sub/._a.mp3", "notes.pdf", "c.flac", "d.flac", "e.flac"):
        (tmp_path / "lib" / name).touch()
    (tmp_path / "lib" / "b.txt").write_text("a  slow\nwaltz")
    (tmp_path / "lib" / "c.json").write_text('{"description": "a fast reel", "bpm": 120}')
    (tmp_path / "lib" / "d.json").write_text("no json")
    (tmp_path / "lib" / "e.json").write_text('["a list"]')
    found = {track.id: track for track in corpus_tracks("library", {"root": "lib"}, tmp_path)}
    assert list(found) == [
        "b.txt",
        "b.wav",
        "c.flac",
        "c.json",
        "d.flac",
        "d.json",
        "e.flac",
        "e.json",
        "notes.pdf",
        "sub/a.mp3",
    ]
    captions = {
        name: [caption["text"] for caption in track.captions] for name, track in found.items() if track.captions
    }
    assert captions == {"b.wav": ["a slow waltz"], "c.flac": ["a fast reel"]}
    assert found["sub/a.mp3"].groups == {"track": "library:sub/a.mp3"}


def test_a_folder_that_is_missing_or_empty_is_named(tmp_path: Path):
    with pytest.raises(ParamsError, match="no such folder"):
        corpus_tracks("library", {"root": "none"}, tmp_path)
    (tmp_path / "lib").mkdir()
    with pytest.raises(ParamsError, match="holds no files"):
        corpus_tracks("library", {"root": "lib"}, tmp_path)
