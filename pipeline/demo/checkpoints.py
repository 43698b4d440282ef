"""The demo's checkpoints: small models of the real architectures, trained on the demo's own music and singing.

Their weights are part of the project, as halves, below `weights/`; each folder tells how they were made and how good
they are, and `pipeline/demo/training` makes them anew. Here they become what the published checkpoints are, so the
same code loads both.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers.utils import logging

from pipeline.demo.expand import CARD, WEIGHTS, write_full
from pipeline.demo.expand_codec import write_encodec, write_musicgen
from pipeline.demo.expand_whisper import expand_whisper

WHISPER_CARD = "whisper.md"


def build_checkpoints(folder: Path) -> None:
    """Write `encodec/`, `clap/`, `musicgen/`, `aligner/`, `classifier/` and `whisper.pt`; always the same bytes.

    Args:
        folder: where to write; made if absent.
    """
    threads, level, has_bars = torch.get_num_threads(), logging.get_verbosity(), logging.is_progress_bar_enabled()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    # MusicGen's pad id lies outside its vocabulary, in the published checkpoints too; transformers warns of it.
    logging.set_verbosity_error()
    try:
        # The first weights are drawn before ours take their place: that must not move anybody's generator.
        with torch.random.fork_rng(devices=[]):
            write_encodec(folder / "encodec")
            write_musicgen(folder / "musicgen")
            expand_whisper(WEIGHTS / "whisper", folder / "whisper.pt")
    finally:
        torch.set_num_threads(threads)
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()
    shutil.copyfile(WEIGHTS / "whisper" / CARD, folder / WHISPER_CARD)
    for name in ("clap", "aligner", "classifier"):
        write_full(WEIGHTS / name, folder / name)
