"""Silero's voice activity detector behind the speech detector port, by onnxruntime.

The weights come with the package silero-vad. Of its files this reads the one that takes many frames in a call: bit for
bit the same probabilities as frame by frame at 350 x real time on one thread (frame by frame: 85, TorchScript: 60).

It was trained on speech. Some singing it takes for none: of the labelled soprano of NIT SONG070 it hears 1 %, of a solo
voice in Vocadito 93 %. So it may add to what the energy of the signal says, and should not overrule it.

Shape letters: N samples, T frames, F samples of a frame.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pipeline.errors import ContractError
from pipeline.models.base import Checkpoint, SpeechDetector, make_stamp

SAMPLE_RATE_HZ = 16_000
HOP_SAMPLES = 512
# The end of the frame before, which the network sees again (silero-vad, sequence_vad.py).
_CONTEXT_SAMPLES = 64
# Frames per call, about 16 s. Always this many, whatever the blocks: the last bits depend on it.
_FRAMES_PER_CALL = 512
_MEMORY = (1, 1, 128)
_WEIGHTS = "silero_vad/data/silero_vad_16k_sequence.onnx"


def load_speech_detector(source: str | None = None) -> SpeechDetector:
    """Load silero-vad's network for 16 kHz.

    Args:
        source: an `.onnx` file of the package's sequence form; None for the one that the package brings.

    Raises:
        ContractError: the file is missing or damaged.
    """
    path = Path(source) if source else _packaged_weights()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class below this
        raise ContractError(
            f"speech detector: {path} does not load ({type(error).__name__}); install silero-vad again"
        ) from error
    return _SileroDetector(session, Checkpoint(path, path.name, None))


def _packaged_weights() -> Path:
    # Found without importing the package, which imports torch and sets its threads.
    return Path(str(importlib.metadata.distribution("silero-vad").locate_file(_WEIGHTS)))


class _SileroDetector:
    """A loaded silero-vad; implements `SpeechDetector`."""

    def __init__(self, session: Any, checkpoint: Checkpoint) -> None:
        self._session = session
        self.sample_rate_hz: int = SAMPLE_RATE_HZ
        self.hop_s: float = HOP_SAMPLES / SAMPLE_RATE_HZ
        self.stamp: dict[str, Any] = make_stamp(
            checkpoint, ("onnxruntime", "silero-vad"), sample_rate_hz=SAMPLE_RATE_HZ, hop_samples=HOP_SAMPLES
        )

    def speech_probabilities(self, wave_N: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities of the whole wave; the last frame is filled up with silence."""
        return np.concatenate([*self.stream_probabilities([wave_N]), np.zeros(0, np.float32)])

    def stream_probabilities(self, blocks_N: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Probabilities of a recording that comes in blocks; what the network remembers goes from one to the next."""
        hidden, cell = np.zeros(_MEMORY, np.float32), np.zeros(_MEMORY, np.float32)
        context_F = np.zeros(_CONTEXT_SAMPLES, np.float32)
        for frames_TF in _whole_calls(blocks_N):
            contexts_TF = np.vstack([context_F, frames_TF[:-1, -_CONTEXT_SAMPLES:]])
            context_F = frames_TF[-1, -_CONTEXT_SAMPLES:]
            seen = {"input": np.hstack([contexts_TF, frames_TF]), "h": hidden, "c": cell}
            probabilities, hidden, cell = self._session.run(["speech_probs", "hn", "cn"], seen)
            yield np.asarray(probabilities, np.float32).reshape(-1)


def _whole_calls(blocks_N: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Cut a recording into frames [T, F], as many at a time as a call takes; at its end, as there are."""
    call_samples = _FRAMES_PER_CALL * HOP_SAMPLES
    rest_N = np.zeros(0, np.float32)
    for block_N in blocks_N:
        wave_N = np.concatenate([rest_N, np.asarray(block_N, np.float32)])
        num_whole = wave_N.size - wave_N.size % call_samples
        yield from wave_N[:num_whole].reshape(-1, _FRAMES_PER_CALL, HOP_SAMPLES)
        rest_N = wave_N[num_whole:]
    if rest_N.size:
        padding_N = np.zeros(-rest_N.size % HOP_SAMPLES, np.float32)
        yield np.concatenate([rest_N, padding_N]).reshape(-1, HOP_SAMPLES)
