"""Notes and facts from the scores that ship inside music21.

Only what is quick to read is used: MusicXML archives and single ABC tunes take 20 to 400 ms each, a whole ABC
collection seconds. Bytes are handed to the parser, so nothing is written to music21's cache or settings.
The Essen collection is left out: its licence is for non-commercial use.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from music21 import common, converter, key, meter, note, stream
from music21.analysis.discrete import KrumhanslKessler
from music21.musicxml.xmlObjects import MusicXMLWarning
from numpy.typing import NDArray

from pipeline.errors import ContractError

DANCES = ("reel", "jig", "hornpipe", "strathspey")
# O'Neill's "Music of Ireland" (1903) opens with its airs and songs; the dances come later.
AIR_BOOKS = ("0001-0050", "0051-0100", "0101-0200", "0201-0300")
QUARTETS = ("haydn/opus1no1", "haydn/opus74no1", "mozart/k80", "mozart/k155", "mozart/k156", "mozart/k458")
BEETHOVEN = "beethoven/opus18no1"
TONICS = {
    "major": ("Cb", "Gb", "Db", "Ab", "Eb", "Bb", "F", "C", "G", "D", "A", "E", "B", "F#", "C#"),
    "minor": ("Ab", "Eb", "Bb", "F", "C", "G", "D", "A", "E", "B", "F#", "C#", "G#", "D#", "A#"),
}
"""Tonic names by number of sharps, from 7 flats to 7 sharps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One piece of music21's corpus."""

    name: str
    """Path below music21's corpus without suffix; a tune of a collection adds `#` and its number."""
    form: str
    """chorale, reel, jig, hornpipe, strathspey, air, quartet, rag or sonata."""
    path: Path
    tune: int | None = None
    """Number (`X:`) of the tune in an ABC collection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Notes in order of onset, counted in quarter notes; all arrays are `[J]`, J notes."""

    onset_q: NDArray[np.float64]
    length_q: NDArray[np.float64]
    midi: NDArray[np.int64]
    part: NDArray[np.int64]

    def take(self, keep: NDArray[Any], *, shift_q: float = 0.0) -> Passage:
        """Select notes by index or mask and move them in time."""
        return Passage(
            onset_q=self.onset_q[keep] + shift_q,
            length_q=self.length_q[keep],
            midi=self.midi[keep],
            part=self.part[keep],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A work that was read: one metre throughout, at least one key signature."""

    work: Work
    passage: Passage
    length_q: float
    bar_q: NDArray[np.float64]
    """Onsets of the bars, `[number of bars]`."""
    metre: str
    num_parts: int
    signatures: tuple[tuple[float, int], ...]
    """(onset in quarters, number of sharps; flats are negative) in order."""

    @property
    def beat_q(self) -> float:
        """Length of the felt beat: a dotted quarter in 6/8, a half in 2/2, else a quarter."""
        return beat_quarters(self.metre)

    def sharps_at(self, onset_q: float) -> int:
        """Return the key signature in force."""
        return [sharps for start_q, sharps in self.signatures if start_q <= onset_q + 1e-6][-1]


def beat_quarters(metre: str) -> float:
    """Length in quarter notes of the beat that a listener taps in this metre."""
    numerator, denominator = (int(part) for part in metre.split("/"))
    if denominator == 8 and numerator % 3 == 0:
        return 1.5
    return 4.0 / denominator


def list_works(family: str) -> list[Work]:
    """List the works of a family (chorale, fiddle, air, quartet, rag, sonata), sorted by name."""
    return sorted(_LISTERS[family](Path(common.getCorpusFilePath())), key=lambda work: work.name)


def _chorales(root: Path) -> Iterator[Work]:
    for path in (root / "bach").glob("bwv*.mxl"):
        # Chorales are single movements (`bwv66.6`) and the collected BWV 250 to 438.
        number = re.fullmatch(r"bwv(\d+)(\.\d+)?", path.stem)
        if number and (number[2] or 250 <= int(number[1]) <= 438):
            yield Work(name=f"bach/{path.stem}", form="chorale", path=path)


def _fiddle_tunes(root: Path) -> Iterator[Work]:
    for path in (root / "ryansMammoth").glob("*.abc"):
        for dance in DANCES:
            if path.stem.lower().endswith(dance):
                yield Work(name=f"ryansMammoth/{path.stem}", form=dance, path=path)


def _airs(root: Path) -> Iterator[Work]:
    for book in AIR_BOOKS:
        path = root / "oneills1850" / f"{book}.abc"
        for number in _abc_tunes(path):
            yield Work(name=f"oneills1850/{book}#{number:04d}", form="air", path=path, tune=number)


def _quartets(root: Path) -> Iterator[Work]:
    for folder in (*QUARTETS, BEETHOVEN):
        for path in (root / folder).glob("movement*.mxl"):
            yield Work(name=f"{folder}/{path.stem}", form="quartet", path=path)


def _rags(root: Path) -> Iterator[Work]:
    yield Work(name="joplin/maple_leaf_rag", form="rag", path=root / "joplin" / "maple_leaf_rag.mxl")


def _sonatas(root: Path) -> Iterator[Work]:
    path = root / "mozart" / "k545" / "movement1_exposition.mxl"
    yield Work(name="mozart/k545", form="sonata", path=path)


_LISTERS = {
    "chorale": _chorales,
    "fiddle": _fiddle_tunes,
    "air": _airs,
    "quartet": _quartets,
    "rag": _rags,
    "sonata": _sonatas,
}


@cache
def _abc_tunes(path: Path) -> dict[int, str]:
    """Cut an ABC collection into its tunes: parsing one of them is 100 times quicker than all."""
    text = path.read_text(encoding="latin-1")
    bodies = re.split(r"(?m)^X:\s*(?=\d)", text)[1:]
    return {int(re.match(r"\d+", body)[0]): f"X:{body}" for body in bodies}  # pyright: ignore[reportOptionalSubscript]


def read_score(work: Work) -> Score | None:
    """Parse a work.

    Returns:
        None if it changes its metre, has no notes or bars, or is in a church mode: then a caption could not say
        one metre or one key.
    """
    with warnings.catch_warnings():
        # Two quartet movements have bars that overrun their metre by a rounded tuplet: inaudible.
        warnings.simplefilter("ignore", MusicXMLWarning)
        source = _parse(work)
    parts = list(source.parts)
    metres = {str(item.ratioString) for item in parts[0].recurse().getElementsByClass(meter.TimeSignature)}
    signatures = _read_signatures(parts[0])
    bar_q = np.array([float(bar.offset) for bar in parts[0].getElementsByClass(stream.Measure)])
    passage = _read_notes(parts)
    if len(metres) != 1 or signatures is None or len(bar_q) < 2 or len(passage.midi) < 8:
        return None
    return Score(
        work=work,
        passage=passage,
        length_q=float(source.duration.quarterLength),
        bar_q=bar_q,
        metre=metres.pop(),
        num_parts=len(set(passage.part.tolist())),
        signatures=signatures,
    )


def _parse(work: Work) -> Any:
    if work.path.suffix == ".abc":
        text = _abc_tunes(work.path)[work.tune] if work.tune else work.path.read_text(encoding="latin-1")
        return converter.parseData(text, format="abc")
    with zipfile.ZipFile(work.path) as archive:
        names = [name for name in archive.namelist() if name.endswith("xml") and not name.startswith("META-INF")]
        if len(names) != 1:
            raise ContractError(f"{work.path}: expected one score in the archive, found {names}; reinstall music21")
        return converter.parseData(archive.read(names[0]).decode("utf-8"), format="musicxml")


def _read_signatures(part: Any) -> tuple[tuple[float, int], ...] | None:
    found: list[tuple[float, int]] = []
    for item in part.recurse().getElementsByClass(key.KeySignature):
        if getattr(item, "mode", None) not in (None, "major", "minor"):
            return None
        found.append((float(item.getOffsetInHierarchy(part)), int(item.sharps)))
    if not found:
        return None
    found.sort()
    return ((0.0, found[0][1]), *found[1:])


def _read_notes(parts: list[Any]) -> Passage:
    rows: list[tuple[float, float, int, int]] = []
    for index, part in enumerate(parts):
        rows.extend((*row, index) for row in _part_notes(part))
    rows.sort(key=lambda row: (row[0], row[3], row[2]))
    return Passage(
        onset_q=np.array([row[0] for row in rows], dtype=np.float64),
        length_q=np.array([row[1] for row in rows], dtype=np.float64),
        midi=np.array([row[2] for row in rows], dtype=np.int64),
        part=np.array([row[3] for row in rows], dtype=np.int64),
    )


def _part_notes(part: Any) -> Iterator[tuple[float, float, int]]:
    """Yield onset, length and pitch of a part's notes; ties are joined, grace notes left out."""
    held: dict[int, list[float]] = {}
    for element in part.flatten().notes:
        length_q = float(element.duration.quarterLength)
        if length_q <= 0 or not isinstance(element, note.NotRest):
            continue
        onset_q = float(element.offset)
        tied = element.tie.type if element.tie is not None else None
        for pitch in element.pitches:
            midi = int(pitch.midi)
            if tied in ("stop", "continue") and midi in held:
                held[midi][1] = onset_q + length_q - held[midi][0]
            else:
                if midi in held:
                    yield (*held.pop(midi), midi)  # pyright: ignore[reportReturnType]
                held[midi] = [onset_q, length_q]
            if tied not in ("start", "continue"):
                start_q, total_q = held.pop(midi)
                yield start_q, total_q, midi
    for midi, (start_q, total_q) in held.items():
        yield start_q, total_q, midi


def cut_passage(score: Score, start_q: float, *, length_q: float) -> Passage:
    """Cut a span; after the last bar the piece starts again, as a dance tune does.

    Returns:
        Notes that start inside the span, counted from its start and held no longer than its end.
    """
    source = score.passage
    order = np.arange(len(source.onset_q))
    turns = [
        source.take(order, shift_q=turn * score.length_q - start_q)
        for turn in range(1 + int((start_q + length_q) // score.length_q))
    ]
    onset_q = np.concatenate([turn.onset_q for turn in turns])
    keep = np.flatnonzero((onset_q >= -1e-6) & (onset_q < length_q - 1e-6))
    index = keep % len(order)
    return Passage(
        onset_q=onset_q[keep],
        length_q=np.minimum(source.length_q[index], length_q - onset_q[keep]),
        midi=source.midi[index],
        part=source.part[index],
    )


def find_key(passage: Passage, sharps: int) -> tuple[str, str] | None:
    """Decide between the two keys of a signature by the notes heard (Krumhansl and Kessler 1982).

    Args:
        passage: what is heard.
        sharps: the written signature; flats are negative.

    Returns:
        Tonic and mode, or None when another signature's key fits better: the passage has modulated.
    """
    weights = np.bincount(passage.midi % 12, weights=passage.length_q, minlength=12)
    best = max(
        (float(np.corrcoef(weights, np.roll(_profile(mode), tonic))[0, 1]), mode, tonic)
        for mode in ("major", "minor")
        for tonic in range(12)
    )
    _, mode, tonic = best
    expected = (sharps * 7 + (0 if mode == "major" else 9)) % 12
    return (TONICS[mode][sharps + 7], mode) if tonic == expected else None


@cache
def _profile(mode: str) -> NDArray[np.float64]:
    return np.asarray(KrumhanslKessler().getWeights(mode), dtype=np.float64)


def find_texture(score: Score, passage: Passage) -> str:
    """Name the texture: solo, homophonic or polyphonic.

    Voices that mostly move together are homophonic; so is a tune with its accompaniment on one keyboard.
    """
    if score.num_parts == 1:
        return "solo"
    if score.work.form in ("rag", "sonata"):
        return "homophonic"
    onsets = [{round(q * 24) for q in passage.onset_q[passage.part == part]} for part in np.unique(passage.part)]
    together = [len(a & b) / len(a | b) for i, a in enumerate(onsets) for b in onsets[i + 1 :]]
    return "homophonic" if together and np.mean(together) >= 0.5 else "polyphonic"
