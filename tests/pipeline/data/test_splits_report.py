"""The page on the splits says how much is where, what was joined and why, and what overlaps."""

from __future__ import annotations

from typing import Any

from pipeline.data.splits import SplitClip, assign_splits
from pipeline.data.splits_report import count_cells, find_overlaps, write_report


def clip(corpus: str, track: str, number: int = 0, **groups: str) -> dict[str, Any]:
    return {
        "key": f"{corpus}-{track}-{number:04d}",
        "corpus": corpus,
        "track": track,
        "groups": groups | {"track": f"{corpus}:{track}"},
        "fingerprint": f"{corpus}{track}{number}",
        "num_samples": 3600 * 100,
        "sample_rate_hz": 100,
    }


def split(clips: list[dict[str, Any]], **settings: float) -> Any:
    items = [SplitClip(c["key"], c["groups"], "test" if c["track"] == "tested" else None) for c in clips]
    return assign_splits(items, held_out_share=0.2, seed=0, **settings)


def test_the_page_counts_groups_clips_and_hours():
    clips = [clip("one", f"t{n}", number) for n in range(10) for number in range(2)]
    result = split(clips)
    cells = count_cells(clips, result)["one"]
    assert [(cell.groups, cell.clips, cell.hours) for cell in cells.values()] == [(6, 12, 12), (2, 4, 4), (2, 4, 4)]
    page = "\n".join(write_report(clips, result, []))
    assert "| one | train | 6 | 12 | 12.000 |" in page
    assert "10 groups; 0 join several recordings" in page


def test_the_page_names_what_was_joined_and_by_what():
    clips = [clip("one", "tested", song="title:hato"), clip("two", "cover", song="title:hato"), clip("two", "other")]
    clips += [clip("two", "copy"), clip("two", "alone")]
    clips[3]["groups"]["duplicate"] = clips[2]["groups"]["duplicate"] = "x"
    result = split(clips)
    page = "\n".join(write_report(clips, result, [("two-copy-0000", "two-other-0000")]))
    assert "3 groups; 2 join several recordings, 1 of these across corpora." in page
    assert "- `one-tested-0000`, by song: one tested; two cover" in page
    assert "- `two-copy-0000` = `two-other-0000`" in page


def test_the_page_reports_the_overlap_of_a_level_that_would_swallow_a_corpus():
    clips = [clip("one", f"t{n}", artist="the only one") for n in range(60)]
    result = split(clips, max_group_share=0.5)
    assert result.levels_left_out == {"artist": 60}
    assert find_overlaps(clips, result, ["artist"]) == {"artist": {"the only one": ["test", "train", "val"]}}
    page = "\n".join(write_report(clips, result, []))
    assert "groups by artist: one of them would hold 60 of 60 clips" in page
    assert "`the only one`: test, train, val" in page


def test_the_page_stays_short():
    clips = [clip("one", f"t{n}", number=0, song=f"s{n // 2}") for n in range(200)]
    page = "\n".join(write_report(clips, split(clips), []))
    assert "- and 50 more: see split.json" in page
    assert "Moved to test" not in page
    clips = [clip("one", "tested", song="s"), clip("two", "cover", song="s")]
    items = [SplitClip(c["key"], c["groups"], official) for c, official in zip(clips, ("test", "train"), strict=True)]
    page = "\n".join(write_report(clips, assign_splits(items, held_out_share=0.0, seed=0), []))
    assert "1 clips of an official train split share a group with a test clip." in page
