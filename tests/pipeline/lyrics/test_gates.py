from __future__ import annotations

import json
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.records import Heard
from pipeline.lyrics.gates import GateParams, estimate_moras, judge_each, judge_phrases
from pipeline.lyrics.languages import count_scripts, is_foreign
from pipeline.lyrics.stock_phrases import COURTESIES, STOCK, is_courtesy, is_stock

PARAMS = GateParams()
GOOD = Heard(text="さくら さくら", start_s=1.0, end_s=4.0, avg_logprob=-0.3, no_speech_prob=0.1, compression_ratio=1.0)
SPANS_S = [(0.9, 4.1)]


def heard(**change: object) -> Heard:
    return {**GOOD, **change}  # pyright: ignore[reportReturnType]


def gate_of(
    phrase: Heard, params: GateParams = PARAMS, *, spans_s=SPANS_S, language="ja", agreement=None
) -> str | None:
    agreements = None if agreement is None else [agreement]
    (verdict,) = judge_each([phrase], params, vocal_spans_s=spans_s, language=language, agreements=agreements)
    return verdict.gate


@pytest.mark.parametrize(
    ("change", "gate"),
    [
        ({}, None),
        ({"text": " "}, "empty"),
        ({"text": "♪～ ..."}, "empty"),
        ({"text": "00:12"}, "empty"),
        ({"text": "(拍手)"}, "annotation"),
        ({"text": "【音楽】 [笑]"}, "annotation"),
        ({"text": "*laughs*"}, "annotation"),
        ({"text": "（笑）"}, "annotation"),
        ({"text": "(拍手と歓声)"}, "annotation"),
        ({"text": "[Upbeat music]"}, "annotation"),
        ({"text": "『愛してる』"}, None),
        ({"text": "「愛してる」"}, None),
        ({"text": "（君と僕）"}, None),
        ({"text": "(I love music)"}, None),
        ({"text": "字幕のない映画を見てた"}, None),
        ({"text": "字幕のない映画を見てた", "no_speech_prob": 0.7}, "stock_phrase"),
        ({"text": "Thank you for watching over me"}, None),
        ({"text": "Thank you for watching over me", "no_speech_prob": 0.7}, "stock_phrase"),
        ({"text": "東京大阪名古屋京都"}, None),
        ({"text": "(さくら) さくら"}, None),
        ({"text": "안녕하세요 여러분"}, "language"),
        ({"text": "ご視聴ありがとうございました"}, "stock_phrase"),
        ({"text": "Thanks for watching!"}, "stock_phrase"),
        ({"text": "あ" * 100, "end_s": 30.0}, "loop"),
        ({"start_s": 6.0, "end_s": 9.0}, "silent"),
        ({"start_s": 3.5, "end_s": 9.0}, "silent"),
        ({"avg_logprob": -1.1}, "avg_logprob"),
        ({"no_speech_prob": 0.7, "avg_logprob": -0.95}, "no_speech"),
        ({"no_speech_prob": 0.9}, None),
        ({"text": "さ"}, "mora_rate"),
        ({"text": "むかしむかしあるところにおじいさんとおばあさんがすんでいましたとさ" * 2}, "mora_rate"),
        ({"end_s": 1.0}, "silent"),
        (
            {"text": "はるがきたはるがきたどこにきたやまにきたさとにきたのにもきた", "compression_ratio": 2.5},
            "compression_ratio",
        ),
        ({"compression_ratio": 2.5}, None),
        ({"text": "ありがとうございました"}, None),
        ({"text": "ありがとうございました", "no_speech_prob": 0.5}, "stock_phrase"),
    ],
)
def test_each_gate_refuses_what_it_names(change: dict[str, object], gate: str | None):
    assert gate_of(heard(**change)) == gate


def test_slow_phrases_are_refused_by_pace():
    assert gate_of(heard(text="さ", end_s=4.0), spans_s=[(0.0, 9.0)]) == "mora_rate"
    # A short word held on to the next line counts over the time that sounds alone.
    assert gate_of(heard(text="さくら", end_s=3.0), spans_s=[(1.0, 2.0)]) is None


@pytest.mark.parametrize(
    ("params", "change"),
    [
        (GateParams(min_avg_logprob=-9.0), {"avg_logprob": -1.5}),
        (GateParams(max_no_speech_prob=1.0), {"no_speech_prob": 0.95, "avg_logprob": -0.95}),
        (GateParams(sure_avg_logprob=-1.0), {"no_speech_prob": 0.95, "avg_logprob": -0.95}),
        (GateParams(min_sounding_share=0.0), {"start_s": 3.5, "end_s": 6.0}),
        (
            GateParams(moras_per_s=(0.0, 99.0)),
            {"text": "むかしむかしあるところにおじいさんとおばあさんがすんでいましたとさ" * 2},
        ),
        (GateParams(max_foreign_share=1.0), {"text": "안녕하세요"}),
        (GateParams(also_sung=("en",)), {"text": "I love you baby"}),
    ],
)
def test_a_gate_can_be_opened(params: GateParams, change: dict[str, object]):
    assert gate_of(heard(**change), replace(params, min_confidence=0.0)) is None


def test_gates_can_be_closed_farther():
    assert gate_of(heard(text="I love you baby"), GateParams(also_sung=())) == "language"
    assert gate_of(GOOD, GateParams(min_confidence=0.9)) == "confidence"
    assert gate_of(GOOD, agreement=0.1) == "agreement"
    assert gate_of(GOOD, agreement=0.3) is None


def test_weak_evidence_of_all_kinds_together_is_refused():
    weak = heard(avg_logprob=-0.85, no_speech_prob=0.5, end_s=7.0)
    assert gate_of(weak, spans_s=[(0.0, 4.0)]) is None
    assert gate_of(weak, spans_s=[(0.0, 4.0)], agreement=0.25) == "confidence"


def test_without_vocal_activity_nothing_is_silent():
    assert gate_of(GOOD, spans_s=None) is None
    assert gate_of(GOOD, spans_s=[]) == "silent"


def test_without_a_language_every_language_passes():
    assert gate_of(heard(text="Я помню чудное мгновенье"), language=None) is None


def refusal(phrase: Heard, params: GateParams) -> str | None:
    return judge_each([phrase], params, vocal_spans_s=None, language=None)[0].gate


def test_one_phrase_can_be_judged_by_itself():
    assert refusal(GOOD, PARAMS) is None
    assert refusal(heard(text=" "), PARAMS) == "empty"
    assert refusal(heard(avg_logprob=-5.0), GateParams(min_avg_logprob=-9.0, min_confidence=0.0)) is None


def test_what_is_kept_carries_its_confidence_and_what_is_refused_is_counted():
    phrases = [
        heard(text=" さくら さくら "),
        heard(text="ご視聴ありがとうございました", start_s=5.0, end_s=8.0),
        heard(text="やよいのそらは", start_s=9.0, end_s=12.0, avg_logprob=-0.7),
        heard(text="みわたすかぎり", start_s=20.0, end_s=23.0),
    ]
    kept, refused = judge_phrases(phrases, PARAMS, vocal_spans_s=[(0.9, 4.1), (9.0, 12.0)], language="ja")
    assert [(p["text"], p["start_s"], p["end_s"], p["source"]) for p in kept] == [
        ("さくら さくら", 1.0, 4.0, "asr"),
        ("やよいのそらは", 9.0, 12.0, "asr"),
    ]
    assert refused == Counter(stock_phrase=1, silent=1)
    assert 1 > kept[0]["confidence"] > kept[1]["confidence"] > 0


def test_confidence_falls_with_every_doubt():
    def confidence(change: dict[str, object], spans_s=SPANS_S, agreement: float = 1.0) -> float:
        return judge_each([heard(**change)], PARAMS, vocal_spans_s=spans_s, language="ja", agreements=[agreement])[
            0
        ].confidence

    best = confidence({})
    assert best > confidence({"avg_logprob": -0.6})
    assert best > confidence({"no_speech_prob": 0.5})
    assert best > confidence({}, spans_s=[(0.9, 3.0)])
    assert best > confidence({}, agreement=0.5)
    assert best > confidence({"text": "さくらさくらやよいのそらはみわたすかぎりかすみ"})
    assert best > confidence({"text": "さ"})


def test_a_stuck_decoder_is_found_over_several_phrases():
    phrases = [heard(text="もう一度", start_s=n * 2.0, end_s=n * 2.0 + 2.0) for n in range(8)]
    kept, refused = judge_phrases(phrases, PARAMS, vocal_spans_s=[(0.0, 20.0)], language="ja")
    assert [phrase["start_s"] for phrase in kept] == [0.0, 2.0]
    assert refused == Counter(loop=6)
    assert judge_phrases(phrases, PARAMS, vocal_spans_s=[], language="ja") == ([], Counter(loop=8))


def test_chinese_characters_alone_are_foreign_in_a_track_without_kana():
    texts = ["東京大阪名古屋京都", "天地玄黄宇宙洪荒", "日月盈昃辰宿列張"]
    for more, gate in ([], "language"), (["さくら さくら"], None):
        phrases = [heard(text=text, start_s=n * 4.0, end_s=n * 4.0 + 4.0) for n, text in enumerate([*texts, *more])]
        verdicts = judge_each(phrases, PARAMS, vocal_spans_s=None, language="ja")
        assert [verdict.gate for verdict in verdicts[:3]] == [gate] * 3


@given(
    st.lists(
        st.builds(
            Heard,
            text=st.text(max_size=40),
            start_s=st.floats(0, 100),
            end_s=st.floats(0, 100),
            avg_logprob=st.floats(-5, 1),
            no_speech_prob=st.floats(0, 1),
            compression_ratio=st.floats(0, 30),
        ),
        max_size=8,
    ),
    st.sampled_from([None, "ja", "en", "ko", "xx"]),
)
def test_every_phrase_is_kept_or_counted(phrases: list[Heard], language: str | None):
    kept, refused = judge_phrases(phrases, PARAMS, vocal_spans_s=[(10.0, 60.0)], language=language)
    assert len(kept) + refused.total() == len(phrases)
    assert all(0 <= phrase["confidence"] <= 1 for phrase in kept)


@pytest.mark.parametrize(
    ("text", "moras"),
    [
        ("さくら", 3),
        ("しゃぼんだま", 5),
        ("ぽっぽっぽ", 5),
        ("ラーラ", 3),
        ("ティファニー", 4),
        ("ｼｬﾎﾞﾝ", 3),
        ("love is over", 5),
        ("hmm", 1),
        ("안녕", 2),
        ("", 0),
    ],
)
def test_moras_are_counted(text: str, moras: int):
    assert estimate_moras(text) == moras


def test_moras_of_lyrics_with_kanji_are_near_the_dictionary_reading():
    import pyopenjtalk

    songs = json.loads((Path(__file__).parent / "sung_lines.json").read_text("utf-8"))
    lines = [line for song in songs for line in song["lines"] if count_scripts(line)["han"]]
    with warnings.catch_warnings():
        # pyopenjtalk-plus calls Sudachi by a name of last year.
        warnings.simplefilter("ignore", DeprecationWarning)
        ratios = [estimate_moras(line) / estimate_moras(pyopenjtalk.g2p(line, kana=True)) for line in lines]
    assert len(ratios) > 200
    assert abs(sum(ratios) / len(ratios) - 1) < 0.05
    assert sum(0.75 < ratio < 1.35 for ratio in ratios) > 0.97 * len(ratios)


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("さくらさくら", "ja", False),
        ("花鳥風月", "ja", False),
        ("我们一起走", "ja", True),
        ("感謝大家收看本節目", "ja", True),
        ("東京大阪名古屋京都", "ja", False),
        ("春が来た 안녕하세요", "ja", True),
        ("ごめん 对不起我们不能", "ja", True),
        ("LABADADA LABADADA", "ja", False),
        ("la la la la la la", "ja", False),
        ("Baby I love you and you love me", "ja", False),
        ("no sé que hacer con mi vida", "ja", True),
        ("được rồi cảm ơn bạn", "ja", True),
        ("愛してる I love you", "ja", False),
        ("さくら", "en", True),
        ("ich weiß nicht was das ist", "en", True),
        ("ich weiß nicht was das ist", "de", False),
        ("さくら", "de", True),
        ("안녕하세요", "ko", False),
        ("さくらさくら", "ko", True),
        ("我们一起走", "zh", False),
        ("さくら", "zh", True),
        ("Я помню", "ru", False),
        ("さくら", "xx", False),
        ("123", "ja", False),
    ],
)
def test_texts_of_other_languages_are_told(text: str, language: str, expected: bool):
    assert is_foreign(text, language) is expected


def test_every_stock_line_is_known_however_it_is_written():
    lines = [line for lines in STOCK.values() for line in lines]
    assert len(lines) > 60
    for line in lines:
        assert is_stock(line, 1.1)
        assert is_stock(f"  {line.upper()}。！", 1.1)
    assert all(is_courtesy(line) for line in COURTESIES)


@pytest.mark.parametrize(
    "text",
    [
        "御視聴ありがとうございました",
        "ご視聴、ありがとうございまーす",
        "えー、チャンネル登録おねがいします",
        "Thank you very much for watching",
        "Thank you for watching, see you next time",
        "字幕作成: 田中一郎",
        "Translated by Hanako Y.",
    ],
)
def test_variants_of_stock_lines_are_known(text: str):
    assert is_stock(text, PARAMS.min_stock_similarity)


@pytest.mark.parametrize(
    "text",
    [
        "ありがとう",
        "また会いましょう",
        "お願い",
        "見ていてくれたの",
        "thank you for the music",
        "thank you for watching over me",
        "字幕のない映画",
        "",
    ],
)
def test_lines_of_songs_are_no_stock_lines(text: str):
    assert not is_stock(text, PARAMS.min_stock_similarity)
