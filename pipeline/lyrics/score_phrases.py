"""From the notes that are sung to phrases: syllables joined, cut at rests and marks, numbered by section."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.data.records import Phrase
from pipeline.lyrics.romaji import is_japanese, kana_of, romaji_to_kana
from pipeline.lyrics.scat import is_scat, to_kana
from pipeline.lyrics.score_bars import MELISMA, Text
from pipeline.lyrics.score_singing import SLACK_S, Song, SungNote

NO_TEMPO_CONFIDENCE = 0.5
"""The score has no tempo: the times are those of 120 quarters a minute."""
UNCLEAR_ORDER_CONFIDENCE = 0.7
"""The score says to go where nothing is, such as a dal segno without a segno."""
GUESSED_VERSE_CONFIDENCE = 0.5
"""A verse beyond the passes that the score tells: all after the first where it repeats nothing."""
MIN_ROMAJI_SHARE = 0.8
"""Of the phrases in Latin letters, by which a score is taken for one in romaji."""


@dataclass(slots=True)
class _Open:
    """A phrase in the making."""

    start_s: float
    end_s: float
    starts_section: bool
    is_guess: bool
    texts: list[Text] = field(default_factory=list[Text])

    @property
    def is_within_word(self) -> bool:
        return not self.texts[-1].ends_word


@dataclass(slots=True)
class _Breaks:
    """What ends the open phrase before the next syllable."""

    phrase: bool = False
    section: bool = False
    rest: bool = False

    def note(self, *, section: bool) -> None:
        self.phrase = True
        self.section = self.section or section


def join_phrases(song: Song, *, has_tempo: bool) -> list[Phrase]:
    """Join the syllables of a part to phrases.

    A phrase ends at a rest from a beat or 0.4 s, whichever is shorter, and after a breath mark, caesura, fermata or
    `end-line`. A section begins after a rest of a bar, after `end-paragraph`, at a rehearsal mark, a double bar line,
    a repeat sign, and wherever the singing goes back or on to the coda. Marks wait for the end of a word; notes that
    lead into a section, less than a bar of them, stay with it.

    Args:
        song: notes by time.
        has_tempo: the score has a tempo of its own.

    Returns:
        Phrases by time, with kana where the text is in kana, scat or romaji, kind, section and confidence.
    """
    drafts = _drafts(song.notes)
    keeps_bars = _mixes_kana(drafts)
    texts = [join_syllables(draft.texts, writes_long=keeps_bars) for draft in drafts]
    is_romaji = _is_romaji(texts)
    phrases: list[Phrase] = []
    section = -1
    for draft, text in zip(drafts, texts, strict=True):
        section = max(section + draft.starts_section, 0)
        phrase = Phrase(text=text, start_s=round(draft.start_s, 3), end_s=round(draft.end_s, 3), source="score")
        phrase["kind"] = "scat" if is_scat(text) else "words"
        kana = _kana(text, is_sung_scat=phrase["kind"] == "scat", is_romaji=is_romaji)
        if kana:
            phrase["kana"] = kana
        phrase["section"] = section
        doubts = (
            1.0 if has_tempo else NO_TEMPO_CONFIDENCE,
            1.0 if song.is_clean else UNCLEAR_ORDER_CONFIDENCE,
            GUESSED_VERSE_CONFIDENCE if draft.is_guess else 1.0,
        )
        phrase["confidence"] = min(doubts)
        phrases.append(phrase)
    return phrases


def _drafts(notes: Sequence[SungNote]) -> list[_Open]:
    drafts: list[_Open] = []
    breaks = _Breaks()
    for note in notes:
        if note.section_s is not None:
            _pass_section(note, drafts[-1] if drafts else None, breaks)
        if note.after_rest:
            breaks.rest = True
            breaks.note(section=note.after_bar_rest)
        texts = note.texts
        if drafts and note.is_tied and [t.text for t in texts] == [t.text for t in drafts[-1].texts[-len(texts) :]]:
            texts = ()
        for text in texts:
            _add(text, note, drafts, breaks)
        if drafts and not texts and not breaks.rest and not note.is_rest:
            # A note without a syllable of its own prolongs the one before, but not over a rest.
            drafts[-1].end_s = max(drafts[-1].end_s, note.end_s)
        if note.ends_phrase:
            breaks.note(section=False)
    return drafts


def _pass_section(note: SungNote, phrase: _Open | None, breaks: _Breaks) -> None:
    if phrase is None:
        return
    is_lead_in = note.section_s is not None and phrase.start_s > note.section_s - note.bar_s + SLACK_S
    if is_lead_in and not breaks.phrase and not note.after_rest:
        phrase.starts_section = True
    else:
        breaks.note(section=True)


def _add(text: Text, note: SungNote, drafts: list[_Open], breaks: _Breaks) -> None:
    if text.starts_line:
        breaks.note(section=False)
    is_melisma = not text.text.strip("".join(MELISMA))
    if not is_melisma and (not drafts or breaks.rest or (breaks.phrase and not drafts[-1].is_within_word)):
        drafts.append(_Open(note.start_s, note.end_s, breaks.section, note.is_guess))
        breaks.phrase = breaks.section = breaks.rest = False
    if drafts and not breaks.rest:
        drafts[-1].texts += [text] if text.text else []
        drafts[-1].end_s = max(drafts[-1].end_s, note.end_s)
    if text.ends_line:
        breaks.note(section=text.ends_paragraph)


def _mixes_kana(drafts: Sequence[_Open]) -> bool:
    """Whether katakana stands out from hiragana, as a word does in which ー is written."""
    return any("\u3041" <= letter <= "\u3096" for draft in drafts for text in draft.texts for letter in text.text)


def join_syllables(texts: Sequence[Text], *, writes_long: bool) -> str:
    """Join syllables to a line; words in other letters than Japanese ones are set apart.

    Args:
        texts: in order; one of ー or a like letter alone prolongs the syllable before.
        writes_long: a prolonged katakana syllable is written with ー.
    """
    line = ""
    for text in texts:
        if not text.text.strip("".join(MELISMA)):
            is_katakana = "\u30a1" <= line[-1:] <= "\u30fa"
            line += "ー" if writes_long and is_katakana and "ー" in text.text else ""
            continue
        line += " " if line and text.starts_word and not is_japanese(text.text) else ""
        line += text.text
    return line


def _is_romaji(texts: Sequence[str]) -> bool:
    """Whether a score is in romaji: nothing in Japanese letters, and nearly all the rest can be read so."""
    words = [text for text in texts if not is_scat(text)]
    read = sum(romaji_to_kana(text) is not None for text in words)
    return not any(is_japanese(text) for text in texts) and read >= MIN_ROMAJI_SHARE * len(words)


def _kana(text: str, *, is_sung_scat: bool, is_romaji: bool) -> str | None:
    if is_sung_scat:
        return to_kana(text)
    return romaji_to_kana(text) if is_romaji else kana_of(text)
