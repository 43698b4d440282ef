from __future__ import annotations

import zipfile

import numpy as np
import pytest

from pipeline.demo import excerpts
from pipeline.demo.excerpts import Family, plan_clips, share_out
from pipeline.demo.score import Work, beat_quarters, cut_passage, find_key, find_texture, list_works, read_score
from pipeline.errors import ContractError, ParamsError

SCALE = "X:1\nT:Scale\nM:3/4\nL:1/4\nK:G\nG A B|c d e|f g d|B- B G|\n"
HYMN = "X:1\nT:Hymn\nM:4/4\nL:1/4\nK:C\nV:1\nc d e c|g f e2|\nV:2\nE G c G|B A G2|\n"


def abc_score(tmp_path, text, form="reel"):
    path = tmp_path / "tune.abc"
    path.write_text(text, encoding="latin-1")
    return read_score(Work(name="tune", form=form, path=path))


@pytest.mark.parametrize(("metre", "beat_q"), [("4/4", 1), ("2/2", 2), ("6/8", 1.5), ("3/8", 1.5), ("3/4", 1)])
def test_beat_is_the_felt_one(metre, beat_q):
    assert beat_quarters(metre) == beat_q


def test_score_joins_ties_and_knows_metre_and_signature(tmp_path):
    score = abc_score(tmp_path, SCALE)
    assert score is not None
    assert score.metre == "3/4"
    assert score.sharps_at(5.0) == 1
    assert score.passage.midi.tolist() == [67, 69, 71, 72, 74, 76, 78, 79, 74, 71, 67]
    assert score.passage.length_q.tolist() == [1.0] * 9 + [2.0, 1.0]
    assert score.bar_q.tolist() == [0, 3, 6, 9]


def test_passage_past_the_end_starts_again(tmp_path):
    score = abc_score(tmp_path, SCALE)
    assert score is not None
    passage = cut_passage(score, 9.0, length_q=5.5)
    assert passage.midi.tolist() == [71, 67, 67, 69, 71]
    assert passage.onset_q.tolist() == [0, 2, 3, 4, 5]
    assert passage.length_q.tolist() == [2, 1, 1, 1, 0.5]


@pytest.mark.parametrize(
    "text",
    [
        SCALE.replace("K:G", "K:ADor"),
        SCALE.replace("|f g d|", "|\nM:4/4\nf g d c|"),
        "X:1\nT:Short\nM:3/4\nL:1/4\nK:G\nG A B|c d e|\n",
    ],
    ids=["church mode", "two metres", "few notes"],
)
def test_score_that_a_caption_cannot_name_is_left_out(tmp_path, text):
    assert abc_score(tmp_path, text) is None


def test_key_is_that_of_the_notes_or_none(tmp_path):
    score = abc_score(tmp_path, SCALE)
    assert score is not None
    passage = cut_passage(score, 0.0, length_q=12.0)
    assert find_key(passage, 1) == ("G", "major")
    assert find_key(passage, -3) is None


def test_texture_follows_the_parts(tmp_path):
    solo, hymn = abc_score(tmp_path, SCALE), abc_score(tmp_path, HYMN)
    assert solo is not None
    assert hymn is not None
    assert hymn.num_parts == 2
    whole = cut_passage(hymn, 0.0, length_q=8.0)
    assert find_texture(solo, cut_passage(solo, 0.0, length_q=8.0)) == "solo"
    assert find_texture(hymn, whole) == "homophonic"
    shifted = whole.take(whole.part == 0, shift_q=0.5)
    halves = [
        np.concatenate(pair) for pair in zip(_columns(whole.take(whole.part == 1)), _columns(shifted), strict=True)
    ]
    canon = type(whole)(onset_q=halves[0], length_q=halves[1], midi=halves[2], part=halves[3])
    assert find_texture(hymn, canon) == "polyphonic"


def _columns(passage):
    return passage.onset_q, passage.length_q, passage.midi, passage.part


@pytest.mark.parametrize("family", list(excerpts.FAMILIES))
def test_every_family_has_works_that_can_be_read(family):
    works = list_works(family)
    names = [work.name for work in works]
    assert names == sorted(set(names))
    assert any(read_score(work) for work in works[:3])


def test_archive_without_a_single_score_is_refused(tmp_path):
    path = tmp_path / "broken.mxl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/container.xml", "<container/>")
    with pytest.raises(ContractError, match="reinstall music21"):
        read_score(Work(name="broken", form="chorale", path=path))


def test_shares_add_up():
    assert share_out(10, {"a": 1 / 3, "b": 2 / 3}) == {"a": 3, "b": 7}
    assert sum(share_out(7, {"a": 0.3, "b": 0.3, "c": 0.4}).values()) == 7


def test_more_clips_than_scores_is_refused(monkeypatch):
    rag = Family(share=1.0, clips_per_work=12, bpm=(66, 104), instruments=("piano",))
    monkeypatch.setattr(excerpts, "FAMILIES", {"rag": rag})
    with pytest.raises(ParamsError, match="ask for fewer"):
        list(plan_clips(200, clip_s=10.0, seed=0))
