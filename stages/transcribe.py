"""Transcribe: what is sung in recordings that came without lyrics, as far as the recogniser can be believed.

In:    shards/ingest, shards/lyrics; the recogniser (`models.recogniser`), perhaps a separator (`models.separator`).
Out:   shards/transcribe/<corpus>: `asr.json`, `{"phrases": [...]}`, times from the start of the clip; `heard.jsonl`:
       per recording how long somebody sings, what the recogniser was given, and what the gates refused.
Drops: has_lyrics (the recording has); no_speech (no phrase that passed the gates sounds in this clip).
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pipeline.data.columns import join_columns
from pipeline.data.records import ClipJson, Drop, Heard, Line, Reason
from pipeline.data.shards import Sample, encode_json
from pipeline.engine.cli import build_parser, run_main
from pipeline.engine.local import Result, Task
from pipeline.engine.params import at_least
from pipeline.engine.project import ColumnStage, Project, open_project, run_column
from pipeline.errors import ParamsError
from pipeline.lyrics.gates import GateParams
from pipeline.lyrics.vad import ActivityStream, Span, VadParams
from pipeline.models.places import ModelsParams, Port, checkpoint_stamp, place

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.lyrics.packs import Pack
    from pipeline.models.base import Recogniser

HEARD_FILE = "heard.jsonl"
SECOND_TEMPERATURE = 0.4
"""Of the second pass by sampling: warm enough that what is made up comes out otherwise."""
PACKAGES = (
    *("ctranslate2", "faster-whisper", "numpy", "onnxruntime", "openai-whisper", "pyopenjtalk-plus", "silero-vad"),
    *("soundfile", "soxr", "tiktoken", "torch"),
)
Clips = list[tuple[ClipJson, Sample]]
_SEPARATED_S = 60
"""A recording is separated in stretches of this length."""
_MARGIN_S = 1.0
"""A pack takes less than this of what lies before its first span."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscribeParams:
    """Section `transcribe` of params.yaml."""

    language: str | None = "ja"
    """Language sung, as Whisper's code; null lets Whisper guess, and opens the gates that need to know."""
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """Sampling temperatures, tried in turn while a result looks wrong."""
    max_tokens: int = 224
    """Most tokens per 30 s window."""
    beam_size: int = 1
    """Hypotheses that are followed at temperature 0; 5 is Whisper's own choice, and slower."""
    second_pass: Literal["none", "sampled", "mix"] = "none"
    """Listen twice, and believe what was heard twice: `sampled` at a higher temperature, `mix` to the mix beside the
    stem of a separator. Twice the time; inventions that sound like singing are found by nothing else."""
    vad: VadParams = VadParams()
    """Where somebody may be singing: only that is given to the recogniser."""
    gates: GateParams = GateParams()
    """What a phrase must satisfy to be kept."""

    def __post_init__(self) -> None:
        at_least("transcribe", self, 1, "max_tokens", "beam_size")
        if not self.temperatures or not all(0 <= temperature <= 1 for temperature in self.temperatures):
            raise ParamsError(f"transcribe.temperatures: {list(self.temperatures)}, give one or more from 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Where the models lie."""

    recogniser: str
    compute_type: str | None
    separator: str | None
    device: str


@dataclass(slots=True)
class _Heard:
    """What two ears report of a recording."""

    spans_s: list[Span] = field(default_factory=list[Span])
    phrases: list[Heard] = field(default_factory=list[Heard])
    again: list[Heard] = field(default_factory=list[Heard])
    packs_s: float = 0.0


class TranscribeStep:
    """Transcribe the recordings of one shard that have no lyrics, as streams."""

    def __init__(self, params: TranscribeParams, models: Models) -> None:
        from pipeline.lyrics import agreement, gates, packs, phrases, vad
        from pipeline.models.asr import Decoding, load_recogniser
        from pipeline.music import tracks

        self.params = params
        self.agreement, self.gates, self.packs, self.phrases = agreement, gates, packs, phrases
        self.vad, self.tracks = vad, tracks
        decoding = Decoding(
            language=params.language,
            temperatures=params.temperatures,
            max_tokens=params.max_tokens,
            beam_size=params.beam_size,
            max_compression_ratio=params.gates.max_compression_ratio,
            min_avg_logprob=params.gates.min_avg_logprob,
        )
        warm = replace(decoding, temperatures=(SECOND_TEMPERATURE,))
        load = partial(load_recogniser, models.recogniser, device=models.device, compute_type=models.compute_type)
        self.recogniser = load(decoding)
        # The mix is heard by the same recogniser; warmer sampling needs one of its own.
        self.second = load(warm) if params.second_pass == "sampled" else self.recogniser
        self.separator = self.detector = None
        if models.separator is not None:
            from pipeline.models.separator import load_separator

            self.separator = load_separator(models.separator, device=models.device)
        if params.vad.vote != "energy":
            from pipeline.models.vad import load_speech_detector

            self.detector = load_speech_detector()

    def __call__(self, task: Task) -> Iterator[Result]:
        """Yield the transcript, or a drop, for every clip of a shard, and a line for every recording heard."""
        paths, limit = task.payload
        for clips in self.tracks.by_track(join_columns(paths, limit)):
            if any("lyrics.json" in sample.members for _, sample in clips):
                yield from (Drop(sample.key, Reason.HAS_LYRICS) for _, sample in clips)
            else:
                yield from self._track(clips)

    def _track(self, clips: Clips) -> Iterator[Result]:
        heard = self._listen(clips)
        agreements = None
        if self.params.second_pass != "none":
            agreements = self.agreement.agreements(heard.phrases, heard.again)
        kept, refused = self.gates.judge_phrases(
            heard.phrases,
            self.params.gates,
            vocal_spans_s=heard.spans_s,
            language=self.params.language,
            agreements=agreements,
        )
        kept, _ = self.phrases.add_readings(kept, is_sounding=False)
        for clip, sample in clips:
            phrases = self.phrases.phrases_in_span(kept, *clip["span_s"])
            if phrases:
                yield Sample(sample.key, {"asr.json": encode_json({"phrases": phrases})})
            else:
                yield Drop(sample.key, Reason.NO_SPEECH)
        yield Line(HEARD_FILE, _line(clips, heard, len(kept), refused))

    def _listen(self, clips: Clips) -> _Heard:
        """Give the recogniser what may be sung, in packs of 30 s.

        Holds some three minutes of a recording, whatever sounds in it: the reach of a pack, a minute of a sound that
        goes on, what the floor looks ahead, and the last block, which with a separator is a minute more.
        """
        rate_hz = self.recogniser.sample_rate_hz
        tape, heard = _Tape(rate_hz), _Heard()
        spans = self._spans(clips, tape, heard)
        for pack in self.packs.make_packs(spans, quietest=partial(self._quietest, tape)):
            heard.packs_s += pack.duration_s
            heard.phrases += self._hear(self.recogniser, pack, tape, "stem" if self.separator else "mix")
            if self.params.second_pass != "none":
                heard.again += self._hear(self.second, pack, tape, "mix")
            tape.heard_s = pack.spans_s[-1][1]
            tape.forget(tape.heard_s)
        return heard

    def _spans(self, clips: Clips, tape: _Tape, heard: _Heard) -> Iterator[Span]:
        """Play the recording onto the tape, and tell where somebody may be singing; after each block, a clock."""
        import numpy as np

        stream = ActivityStream(tape.sample_rate_hz, self.params.vad)
        played: list[NDArray[np.float32]] = []
        blocks = self._played(clips, tape, played)
        votes: Iterable[Any] = self.detector.stream_probabilities(blocks) if self.detector else (() for _ in blocks)
        for speech_prob_T in votes:
            # The detector takes several blocks before it speaks, or speaks several times of one.
            found = stream.push(np.concatenate([*played, np.zeros(0, np.float32)]), speech_prob_T)
            played.clear()
            heard.spans_s += found
            yield from found
            yield stream.told_s, stream.told_s
            if not heard.spans_s or heard.spans_s[-1][1] <= tape.heard_s:
                tape.forget(stream.told_s - _MARGIN_S)
        found = stream.finish()
        heard.spans_s += found
        yield from found

    def _played(self, clips: Clips, tape: _Tape, played: list[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        blocks = self.tracks.track_blocks(clips, tape.sample_rate_hz)
        if self.separator is None:
            for block_N in blocks:
                tape.append(mix=block_N)
                played.append(block_N)
                yield block_N
            return
        for mix_N in self.tracks.joined_blocks(blocks, _SEPARATED_S * tape.sample_rate_hz):
            stem_N = self.separator.separate(mix_N, tape.sample_rate_hz)
            tape.append(mix=mix_N, stem=stem_N)
            played.append(stem_N)
            yield stem_N

    def _hear(self, recogniser: Recogniser, pack: Pack, tape: _Tape, name: str) -> Iterator[Heard]:
        wave_N = self.packs.cut_pack(pack, tape.waves[name], tape.sample_rate_hz, tape.first_s)
        for phrase in recogniser.transcribe(wave_N):
            placed = Heard(**phrase)
            placed["start_s"], placed["end_s"] = self.packs.to_track_span(pack, phrase["start_s"], phrase["end_s"])
            yield placed

    def _quietest(self, tape: _Tape, start_s: float, end_s: float) -> float:
        """Where to cut singing without a pause."""
        wave_N = next(reversed(tape.waves.values()))
        first = round((start_s - tape.first_s) * tape.sample_rate_hz)
        levels_T = self.vad.frame_levels(
            wave_N[first : first + round((end_s - start_s) * tape.sample_rate_hz)], tape.sample_rate_hz
        )
        return start_s + self.packs.quietest_moment(levels_T, self.vad.FRAMES_PER_S, 0.0, end_s - start_s)


class _Tape:
    """The last stretch of a recording: the mix, and the stem where there is one."""

    def __init__(self, sample_rate_hz: int) -> None:
        self.sample_rate_hz = sample_rate_hz
        self.waves: dict[str, NDArray[np.float32]] = {}
        self.heard_s = 0.0
        """Up to where the recogniser has heard what is sung."""
        self._first = 0

    @property
    def first_s(self) -> float:
        """Where in the recording the tape begins."""
        return self._first / self.sample_rate_hz

    def append(self, **waves: NDArray[np.float32]) -> None:
        """Add what follows."""
        import numpy as np

        for name, wave_N in waves.items():
            self.waves[name] = np.concatenate((self.waves[name], wave_N)) if name in self.waves else wave_N

    def forget(self, before_s: float) -> None:
        """Let go of what lies before a time."""
        num = max(int(before_s * self.sample_rate_hz) - self._first, 0)
        self.waves = {name: wave_N[num:] for name, wave_N in self.waves.items()}
        self._first += num


def _line(clips: Clips, heard: _Heard, num_kept: int, refused: Counter[str]) -> dict[str, Any]:
    return {
        "track": clips[0][0]["track"],
        "vocal_s": round(sum(end_s - start_s for start_s, end_s in heard.spans_s), 3),
        "heard_s": round(heard.packs_s, 3),
        "phrases": num_kept,
        "refused": dict(sorted(refused.items())),
    }


def _stamps(project: Project, models: ModelsParams, ports: Sequence[Port]) -> tuple[dict[str, str], dict[str, Any]]:
    """Places and stamps of the models that the settings name."""
    places = {port: place(models, project.layout.root, port) for port in ports if getattr(models, port)}
    return places, {port: checkpoint_stamp(source, getattr(models, port)) for port, source in places.items()}


def run(args: argparse.Namespace) -> None:
    """Run the stage over the corpora that the flags and settings name."""
    from pipeline.models.base import choose_device

    project = open_project(args)
    params = project.section("transcribe", TranscribeParams)
    models = project.section("models", ModelsParams)
    if params.second_pass == "mix" and not models.separator:
        raise ParamsError("transcribe.second_pass: mix, beside the stem of a separator; set models.separator too")
    places, stamps = _stamps(project, models, ("recogniser", "separator"))
    device = choose_device(models.device)
    where = Models(
        recogniser=places["recogniser"],
        compute_type=models.compute_type,
        separator=places.get("separator"),
        device=device,
    )
    stage = ColumnStage(
        name="transcribe",
        columns=("ingest", "lyrics"),
        params=asdict(params),
        make_step=partial(TranscribeStep, params, where),
        models=stamps | {"compute_type": models.compute_type, "device": device},
        packages=PACKAGES,
        side_files=(HEARD_FILE,),
    )
    for corpus in project.corpora(args.corpus):
        run_column(project, corpus, stage)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage from the command line."""
    parser = build_parser(__doc__, prog="python -m stages.transcribe")
    parser.add_argument("--corpus", help="only this one of `sources`")
    run_main(run, parser, argv)


if __name__ == "__main__":
    from stages.transcribe import main

    main()
