from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.retrieval.report import ClipTable, distribution, gini, overlap, report_picks
from pipeline.retrieval.report_tables import comparison_table, report_lines, report_table


def table() -> ClipTable:
    """Three train clips and two targets, in two corpora; the vectors are the axes of the plane."""
    x, y = [1.0, 0.0], [0.0, 1.0]
    return ClipTable(
        keys=["a", "b", "c", "t", "u"],
        text_XD=np.array([x, y, y, x, y], np.float16),
        audio_XD=np.array([x, x, y, y, y], np.float16),
        authors=["1", "2", "", "1", "1"],
        corpora=["one", "one", "two", "one", "two"],
        is_pool=[True, True, True, False, False],
    )


def value(*keys: str, **more: Any) -> dict[str, Any]:
    return {"caption_index": 0, "examples": [{"key": key, "score": 0.0} for key in keys], **more}


def report(**examples: dict[str, Any]) -> dict[str, Any]:
    return report_picks(examples, table(), strategy="structured", num_too_few=4)


def test_a_report_counts_what_was_picked():
    found = report(
        t=value("a", "b", rule="all slow", varied="mode"), u=value("a", "c", fallback={"to": "x", "why": "y"})
    )
    assert (found["targets"], found["targets_without_enough"], found["pool"]) == (2, 4, 3)
    # t-a, t-b, u-a, u-c
    assert found["similarity"]["text_text"]["mean"] == 0.5
    assert found["similarity"]["text_audio"]["mean"] == 0.75
    assert found["similarity"]["audio_audio"]["mean"] == 0.25
    assert found["reuse"] == {"used": 3, "most_used": "a", "most_used_times": 2, "gini": 0.1667}
    # Three pairs with both authors known: 1-1, 1-2, 1-1; one of the pool's two known authors is 1.
    assert found["same_author"] == {"pairs": 3, "rate": 0.6667, "nearest_rate": 1.0, "chance": 0.5}
    assert found["same_corpus"]["rate"] == 0.75
    assert found["fallbacks"] == {"share": 0.5, "to": {"x: y": 1}}
    assert found["varied"] == {"mode": 1}


def test_a_report_says_itself():
    lines = "\n".join(report_lines(report(t=value("a", "b"), u=value("b", "c", fallback={"to": "x", "why": "y"}))))
    for words in (
        "2 targets, 4 without",
        "b 2 times",
        "same author in 33 %",
        "50 % of the targets fell back: 1 to x: y",
    ):
        assert words in lines


def test_the_oracle_is_marked_in_report_and_lines():
    found = report_picks({"t": value("a")}, table(), strategy="oracle", num_too_few=0)
    assert found["uses_target_audio"]
    assert all("upper bound" in line for line in report_lines(found))
    assert not report(t=value("a"))["uses_target_audio"]


def test_without_authors_nothing_is_said_of_them():
    found = report(u=value("c"))
    assert found["same_author"] == {"pairs": 0}
    assert "author" not in "\n".join(report_lines(found))


def test_without_targets_there_is_a_report_all_the_same():
    found = report()
    assert found["targets"] == 0
    assert found["similarity"]["text_text"] == {}
    assert report_lines(found)


def test_an_author_may_be_known_only_beyond_the_nearest():
    found = report(t=value("c", "a"))
    assert found["same_author"] == {"pairs": 1, "rate": 1.0, "nearest_rate": None, "chance": 0.5}


def test_distribution_gives_percentiles():
    assert distribution(np.arange(101.0)) == {"mean": 50.0, "p5": 5.0, "p50": 50.0, "p95": 95.0}


def test_a_table_shows_every_figure_of_the_report():
    found = report(
        t=value("a", "b", rule="all slow", varied="mode"), u=value("a", "c", fallback={"to": "x", "why": "y"})
    )
    lines = report_table(found).splitlines()
    for row in (
        "# Examples by structured",
        "| targets | 2 |",
        "| targets without enough examples | 4 (`drops.jsonl` names them) |",
        "| clips in the pool, used | 3 of 3 |",
        "| most used | a, 2 times |",
        "| Gini of use | 0.167 |",
        "| targets that fell back | 50 % |",
        "| fell back to x: y | 1 |",
        "| sets that vary the mode | 1 |",
        # t-a 1, t-b 0, u-a 0, u-c 1
        "| prompt and example's caption | 0.500 | 0.000 | 0.500 | 1.000 |",
        "| author | 3 | 67 % | 100 % | 50 % |",
        "| corpus | 4 | 75 % | 50 % | 50 % |",
    ):
        assert row in lines


def test_strategies_stand_side_by_side():
    reports = {
        "semantic": report(t=value("a", "b"), u=value("b", "c")),
        "oracle": report_picks({"t": value("a")}, table(), strategy="oracle", num_too_few=0),
    }
    lines = comparison_table(reports, {"semantic": {"oracle": 0.5}, "oracle": {"semantic": 0.5}}).splitlines()
    assert (
        "| semantic | 2 | 4 | 0 % | 0.750 | 0.750 | 0.250 | 100 % | 2 | 0.167 | 33 % | 50 % | 50 % | 75 % | 50 % |"
        in lines
    )
    assert "`oracle` uses the target's audio: an upper bound." in lines
    assert "| semantic |  | 50 % |" in lines
    assert len({line.count("|") for line in lines[2:6]}) == 1


@given(times=st.lists(st.integers(0, 50), min_size=1, max_size=40))
def test_gini_is_the_mean_difference(times: list[int]):
    counts = np.array(times)
    differences = np.abs(counts[:, None] - counts[None]).mean()
    expected = differences / (2 * counts.mean()) if counts.any() else 0.0
    assert gini(counts) == pytest.approx(expected, abs=1e-9)


def test_overlap_is_the_share_in_common():
    one, other = {"t": ["a", "b"], "u": ["c", "d"], "v": ["a"]}, {"t": ["b", "c"], "u": ["d", "c"], "w": []}
    assert overlap(one, other) == overlap(other, one) == 0.75
    assert overlap(one, {"w": ["a"]}) is None
