"""Transcribe: what is sung in clips that came without lyrics, as far as the recogniser can be believed.

In:    shards/ingest, shards/lyrics; the recogniser (`models.recogniser`).
Out:   shards/transcribe/<corpus>: `asr.json`, `{"phrases": [...], "refused": {gate: number}}`.
Drops: has_lyrics; no_speech (no phrase passed the gates).
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from pipeline.data.columns import join_columns
from pipeline.data.records import Drop, Phrase, Reason
from pipeline.data.shards import Sample, encode_json
from pipeline.engine.cli import build_parser, run_main
from pipeline.engine.local import Result, Task
from pipeline.engine.params import at_least
from pipeline.engine.project import ColumnStage, open_project, run_column
from pipeline.errors import ParamsError
from pipeline.lyrics.gates import GateParams, refusal
from pipeline.models.places import ModelsParams, checkpoint_stamp, place


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscribeParams:
    """Section `transcribe` of params.yaml."""

    language: str | None = "ja"
    """Language sung, as Whisper's code; null lets Whisper guess for every clip."""
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """Sampling temperatures, tried in turn while a result looks wrong."""
    max_tokens: int = 224
    """Most tokens per 30 s window."""
    gates: GateParams = GateParams()
    """What a phrase must satisfy to be kept."""

    def __post_init__(self) -> None:
        at_least("transcribe", self, 1, "max_tokens")
        if not self.temperatures or not all(0 <= temperature <= 1 for temperature in self.temperatures):
            raise ParamsError(f"transcribe.temperatures: {list(self.temperatures)}, give one or more from 0 to 1")


class TranscribeStep:
    """Transcribe the clips of one shard that have no lyrics."""

    def __init__(self, params: TranscribeParams, source: str, device: str) -> None:
        from pipeline.models.asr import Decoding, load_recogniser
        from pipeline.music import audio

        self.params, self.audio = params, audio
        decoding = Decoding(language=params.language, temperatures=params.temperatures, max_tokens=params.max_tokens)
        self.recogniser = load_recogniser(source, decoding, device=device)

    def __call__(self, task: Task) -> Iterator[Result]:
        """Yield the transcript, or a drop, for every clip of a shard."""
        paths, limit = task.payload
        for sample in join_columns(paths, limit):
            if "lyrics.json" in sample.members:
                yield Drop(sample.key, Reason.HAS_LYRICS)
                continue
            wave_N = self.audio.resample(
                *self.audio.decode_flac(sample.members["flac"]), self.recogniser.sample_rate_hz
            )
            heard = self.recogniser.transcribe(wave_N)
            why = [refusal(phrase, self.params.gates) for phrase in heard]
            refused = dict(sorted(Counter(gate for gate in why if gate).items()))
            phrases = [
                Phrase(
                    text=phrase["text"],
                    start_s=phrase["start_s"],
                    end_s=phrase["end_s"],
                    source="asr",
                    confidence=round(phrase["avg_logprob"], 4),
                )
                for phrase, gate in zip(heard, why, strict=True)
                if gate is None
            ]
            if phrases:
                yield Sample(sample.key, {"asr.json": encode_json({"phrases": phrases, "refused": refused})})
            else:
                yield Drop(sample.key, Reason.NO_SPEECH, ", ".join(f"{n} by {gate}" for gate, n in refused.items()))


def run(args: argparse.Namespace) -> None:
    """Run the stage over the corpora that the flags and settings name."""
    from pipeline.models.base import choose_device

    project = open_project(args)
    params = project.section("transcribe", TranscribeParams)
    models = project.section("models", ModelsParams)
    source, device = place(models, project.layout.root, "recogniser"), choose_device(models.device)
    stage = ColumnStage(
        name="transcribe",
        columns=("ingest", "lyrics"),
        params=asdict(params),
        make_step=partial(TranscribeStep, params, source, device),
        models={"recogniser": checkpoint_stamp(source, models.recogniser), "device": device},
        packages=("numpy", "openai-whisper", "soundfile", "soxr", "tiktoken", "torch"),
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
