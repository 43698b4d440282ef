from __future__ import annotations

import ast
import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.demo.captions import STYLES
from pipeline.demo.corpus import COLUMNS, CSV_NAME, FACTS_NAME, NUM_WITHOUT_AUDIO, build_corpus
from pipeline.demo.excerpts import plan_clips
from pipeline.errors import ParamsError

NUM_CLIPS, CLIP_S = 24, 4.0


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    build_corpus(folder, num_clips=NUM_CLIPS, clip_s=CLIP_S, seed=3)
    return folder


@pytest.fixture(scope="module")
def rows(corpus: Path) -> list[dict[str, str]]:
    return read_table(corpus / CSV_NAME)


@pytest.fixture(scope="module")
def facts(corpus: Path) -> dict[str, dict[str, str]]:
    return {row["ytid"]: row for row in read_table(corpus / FACTS_NAME)}


def test_table_has_the_columns_and_rows_of_musiccaps(rows, facts):
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == NUM_CLIPS + NUM_WITHOUT_AUDIO
    assert {row["ytid"] for row in rows} == set(facts)
    assert all(int(row["end_s"]) - int(row["start_s"]) == CLIP_S for row in rows)
    assert {int(row["author_id"]) for row in rows} <= set(STYLES)
    assert {row["is_audioset_eval"] for row in rows} == {"True", "False"}
    assert all(row["is_audioset_eval"] == "True" for row in rows if row["is_balanced_subset"] == "True")


def test_ytids_are_sorted_and_as_awkward_as_real_ones(rows):
    ytids = [row["ytid"] for row in rows]
    assert ytids == sorted(ytids)
    assert len({ytid.lower() for ytid in ytids}) == len(ytids)
    assert all(len(ytid) == 11 for ytid in ytids)
    assert any(ytid.startswith("-") for ytid in ytids)
    assert any(ytid.startswith("_") for ytid in ytids)


def test_rows_end_in_crlf_and_captions_break_lines(corpus, rows):
    raw = (corpus / CSV_NAME).read_bytes()
    assert raw.count(b"\r\n") == len(rows) + 1
    assert raw.count(b"\n") > raw.count(b"\r\n")
    broken = [row["caption"] for row in rows if "\n" in row["caption"]]
    assert 1 <= len(broken) <= 2


def test_captions_differ_and_tell_facts(rows, facts):
    assert len({row["caption"] for row in rows}) == len(rows)
    for row in rows:
        fact = facts[row["ytid"]]
        aspects = ast.literal_eval(row["aspect_list"])
        assert fact["instrument"] in aspects
        assert fact["instrument"] in row["caption"].lower() or "Instrumental" in row["caption"]
        said = [phrase for phrase in aspects if phrase.endswith("bpm")]
        assert said in ([], [f"{fact['bpm']} bpm"])
        assert ("no voice" not in aspects) or fact["instrument"] != "choir"


def test_no_work_lies_in_both_eval_and_train(rows, facts):
    held = {facts[row["ytid"]]["work"] for row in rows if row["is_audioset_eval"] == "True"}
    kept = {facts[row["ytid"]]["work"] for row in rows if row["is_audioset_eval"] == "False"}
    assert held
    assert not held & kept
    share = sum(row["is_audioset_eval"] == "True" for row in rows) / len(rows)
    assert 0.1 <= share <= 0.4


def test_audio_is_as_long_and_as_loud_as_said(corpus, facts):
    paths = sorted((corpus / "audio").iterdir())
    assert {path.stem for path in paths} == {ytid for ytid, fact in facts.items() if fact["has_audio"] == "True"}
    assert len(paths) == NUM_CLIPS
    channels = set()
    for path in paths:
        wave_NC, rate_hz = soundfile.read(path, always_2d=True)
        channels.add(wave_NC.shape[1])
        assert len(wave_NC) == CLIP_S * rate_hz
        assert soundfile.info(path).subtype == "PCM_16"
        rms_dbfs = 20 * np.log10(np.sqrt(np.mean(wave_NC**2)))
        assert -30 < rms_dbfs < -14
        assert np.abs(wave_NC).max() < 0.95
        assert abs(wave_NC.mean()) < 1e-3
        seconds = wave_NC.reshape(int(CLIP_S), -1)
        assert np.sqrt(np.mean(seconds**2, axis=1)).min() > 1e-3
    assert channels == {1, 2}


def test_excerpts_of_one_work_share_no_note():
    clips = list(plan_clips(16, clip_s=CLIP_S, seed=5))
    heard: dict[str, list[set[float]]] = {}
    for clip in clips:
        onsets = {round(q, 3) for q in (clip.start_q + clip.passage.onset_q) % clip.score.length_q}
        heard.setdefault(clip.score.work.name, []).append(onsets)
    several = [spans for spans in heard.values() if len(spans) > 1]
    assert several
    for spans in several:
        assert sum(map(len, spans)) == len(set.union(*spans))


def test_same_arguments_give_same_bytes_and_another_seed_others(tmp_path):
    folders = [tmp_path / name for name in ("one", "two", "other")]
    for folder, seed in zip(folders, (7, 7, 8), strict=True):
        folder.mkdir()
        build_corpus(folder, num_clips=6, clip_s=2.0, seed=seed)
    one, two, other = (read_bytes(folder) for folder in folders)
    assert len(one) == 6 + 2
    assert one == two
    assert one[CSV_NAME] != other[CSV_NAME]


@pytest.mark.parametrize(("num_clips", "clip_s"), [(0, 10.0), (6, 0.5)])
def test_refuses_an_empty_corpus(tmp_path, num_clips, clip_s):
    with pytest.raises(ParamsError, match="at least 1"):
        build_corpus(tmp_path, num_clips=num_clips, clip_s=clip_s, seed=0)
