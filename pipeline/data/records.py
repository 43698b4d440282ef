"""What flows between the stages: the json of clips, drops with their reasons, counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

from pipeline.data.shards import decode_json

TRACKS_FILE = "tracks.jsonl"
AUDIO_SUFFIXES = frozenset(
    {".aac", ".aif", ".aiff", ".alac", ".ape", ".caf", ".flac", ".m4a", ".mka", ".mp2", ".mp3", ".mp4"}
    | {".oga", ".ogg", ".opus", ".wav", ".webm", ".wma", ".wv"}
)
"""Endings by which a file says that it is audio; what it is, decoding tells."""


class Reason(StrEnum):
    """Why an item or a clip was left out; a closed list."""

    # ingest: the recording
    AUDIO_MISSING = "audio_missing"
    NOT_AUDIO = "not_audio"
    UNREADABLE = "unreadable"
    NO_AUDIO_STREAM = "no_audio_stream"
    EMPTY = "empty"
    TRUNCATED = "truncated"
    ANTIPHASE = "antiphase"
    NO_CLIPS = "no_clips"
    BAD_ROW = "bad_row"
    FILTERED = "filtered"
    # ingest: one clip of it
    TOO_SHORT = "too_short"
    SILENT = "silent"
    BAD_VALUES = "bad_values"
    CLIPPED = "clipped"
    # lyrics, transcribe
    NO_LYRICS = "no_lyrics"
    BAD_ENCODING = "bad_encoding"
    BAD_SCORE = "bad_score"
    HAS_LYRICS = "has_lyrics"
    NO_SPEECH = "no_speech"
    # retrieve, pack
    NO_CAPTION = "no_caption"
    TOO_FEW_EXAMPLES = "too_few_examples"
    MISSING_COLUMN = "missing_column"


NORMAL_REASONS = frozenset(
    {Reason.AUDIO_MISSING, Reason.NOT_AUDIO, Reason.FILTERED, Reason.NO_LYRICS, Reason.HAS_LYRICS, Reason.NO_SPEECH}
)
"""Reasons that say nothing bad of the corpus; `max_drop_share` does not count them."""


@dataclass(frozen=True, slots=True)
class Drop:
    """One item, or one clip of it, that was left out."""

    item: str
    """Upstream id of the recording, or the key of the clip in a column stage."""
    reason: Reason
    detail: str = ""
    clip: str | None = None
    """Key of the clip where only that clip is dropped, not the item."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line for a side file of the folder, such as `tracks.jsonl`."""

    file: str
    value: dict[str, Any]


class Caption(TypedDict):
    """A text about a clip."""

    text: str
    source: str
    """`human`, `tags`, `model` or `template`."""
    author: NotRequired[str]


class Phrase(TypedDict):
    """A sung phrase; times in seconds from the start of the recording, in a clip's columns from that of the clip."""

    text: str
    start_s: float | None
    end_s: float | None
    source: str
    """`score`, `tag` or `asr`."""
    kana: NotRequired[str]
    """Reading in katakana, as sung; absent where it is not known, as for other languages."""
    kind: NotRequired[Literal["words", "scat"]]
    section: NotRequired[int]
    """Number of the section within the song, from 0; absent where nothing tells."""
    confidence: NotRequired[float]
    """0 to 1: how far to believe that this was sung here."""
    is_cut: NotRequired[bool]
    """The phrase goes on beyond an edge of the clip."""


class Heard(TypedDict):
    """A stretch of words as a recogniser reports it; times in seconds within the wave."""

    text: str
    start_s: float
    end_s: float
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float


class ClipJson(TypedDict):
    """Member `json` of ingest: what is known of a clip before any model has seen it."""

    key: str
    corpus: str
    track: str
    """Upstream id of the recording."""
    span_s: list[float]
    """Start and end within the decoded recording."""
    sample_rate_hz: int
    num_samples: int
    captions: list[Caption]
    aspects: list[str]
    groups: dict[str, str]
    fingerprint: str
    """Equal for lossless copies of the same sound."""
    acoustic_fingerprint: str
    """Alike for copies of the same recording through mp3, gain and shift: see `pipeline.music.duplicates`."""
    official_split: str | None
    """`train` or `test` where the corpus says so."""
    audio: dict[str, Any]
    """Source format, loudness before and gain applied, true peak, whether the ceiling limited the gain."""
    licence: str | None


class Member(NamedTuple):
    """A recording inside a tar."""

    name: str
    start_byte: int
    num_bytes: int


class Cut(NamedTuple):
    """A clip at given times."""

    start_s: float
    end_s: float
    captions: tuple[Caption, ...] = ()
    """What is said of this clip alone; the track's captions hold for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One recording as it exists upstream, as a source reports it."""

    id: str
    path: Path | None
    """The audio file; None where the corpus names a recording that is not on disk."""
    member: Member | None = None
    """Where in `path`, a tar, the recording lies."""
    missing: str = ""
    """Where audio was looked for, when there is none."""
    fault: str = ""
    """What is wrong with the corpus' own entry, when it cannot be used."""
    unwanted: str = ""
    """Which setting of the source leaves it out, when one does."""
    span_s: tuple[float, float] | None = None
    """The part of a longer file that the corpus means, unless the file is that part; None for the whole file."""
    file_start_s: float | None = None
    """Where within the longer file of `span_s` this file begins; None where nothing tells: it may be the whole, or
    the very span."""
    cuts: tuple[Cut, ...] = ()
    """Given times of the clips, by start; without them the recording is cut by the settings."""
    score: Path | None = None
    """The score of the recording, where the corpus has one."""
    part: str | None = None
    """Which part of the score the recording sings; None for the leading one."""
    lyrics: str = ""
    """Lyrics from beside the recording, plain or LRC; those in its own tags come first."""
    captions: tuple[Caption, ...] = ()
    aspects: tuple[str, ...] = ()
    groups: dict[str, str] = field(default_factory=dict[str, str])
    official_split: str | None = None
    licence: str | None = None


def count_drops(drops: Iterable[Drop]) -> Counter[str]:
    """Count drops by reason."""
    return Counter(str(drop.reason) for drop in drops)


def all_captions(members: Mapping[str, bytes | memoryview]) -> list[Caption]:
    """Captions of a clip from joined columns: its corpus' own, then those that `describe` made.

    Args:
        members: `json`, and `describe.json` if that column was joined.
    """
    own: list[Caption] = decode_json(members["json"])["captions"]
    made: list[Caption] = decode_json(members["describe.json"])["captions"] if "describe.json" in members else []
    return own + made


def known_phrases(members: Mapping[str, bytes | memoryview]) -> list[Phrase]:
    """Phrases of a clip from joined columns: its lyrics, or else what a recogniser heard.

    Args:
        members: `lyrics.json` and `asr.json`, as far as those columns were joined.
    """
    column = next((members[name] for name in ("lyrics.json", "asr.json") if name in members), None)
    return decode_json(column)["phrases"] if column is not None else []
