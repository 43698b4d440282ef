"""Figures of a trained codec on clips that it has not learnt from, beside three that anybody could have for nothing.

One has the same shapes, random weights and k-means codebooks. The others code frame by frame with residual k-means at
the same bit rate: one the samples themselves, one mel spectra. The latter gets the very values that the distance
compares; so it is measured twice: with the sound that can be made of its codes, as a codec is, and by the codes' own
spectra, which no sound need have.

Shape letters: B clips, N samples, K codebooks, T frames, M mel bands, D latent.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import librosa
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import EncodecConfig
from transformers.models.encodec.modeling_encodec import EncodecResidualVectorQuantizer

from pipeline.demo.calibration import scale_last_layer, set_codebooks
from pipeline.demo.expand_codec import write_encodec
from pipeline.demo.training.codec_loss import (
    MEASURE_HOPS,
    NUM_MELS,
    WINDOWS_SAMPLES,
    mel_bank,
    mel_distance_db,
    mel_scales_db,
    stack_frames,
)
from pipeline.demo.training.music import CODEC_RATE_HZ, HOP_SAMPLES
from pipeline.models.base import Codec
from pipeline.models.codec import load_codec

Waves = Sequence[NDArray[np.float32]]

MIN_HZ, MAX_HZ = 60.0, 2100.0
"""Cello's C to the top of the flute tunes."""
PITCH_WINDOW_SAMPLES = 2048
NEAR_CENTS = 50.0
SOUND_WINDOW, PHASE_ROUNDS = 1024, 32


def measure(
    weights: Path, untrained: Any, *, learnt: Waves, held: Mapping[str, Waves], solos: Waves
) -> dict[str, float]:
    """Take all figures.

    Args:
        weights: folder of the rounded weights.
        untrained: an `EncodecModel` of the same shapes with random weights.
        learnt: training clips, from which both others get their codebooks.
        held: clips to measure on, by kind.
        solos: those whose pitch is compared.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_encodec(Path(folder) / "ours", weights=weights)
        codec = load_codec(f"{folder}/ours")
        start_untrained(untrained, learnt)
        untrained.save_pretrained(f"{folder}/untrained")
        rivals = {"ours": codec, "untrained": load_codec(f"{folder}/untrained")}
    frames, samples = FrameCodebook(learnt), SampleCodebook(learnt)
    figures: dict[str, float] = {}
    for kind, waves in held.items():
        for name, rival in rivals.items():
            figures[f"mel distance, {kind}, {name}, dB"] = codec_distance_db(rival, waves)
        for name, sound in {"samples": samples.sound, "frames made sound": frames.sound}.items():
            figures[f"mel distance, {kind}, k-means of {name}, dB"] = float(
                np.mean([wave_distance_db(sound(wave_N), wave_N) for wave_N in waves])
            )
        figures[f"mel distance, {kind}, k-means of frames without sound, dB"] = frames.distance_db(waves)
        figures |= codebook_use(codec, waves, kind=kind)
    figures["voiced frames of solos within 50 cents after decoding"] = pitch_kept(codec, solos)
    return figures | speed(codec, solos[0])


@torch.no_grad()
def start_untrained(model: Any, learnt: Waves) -> None:
    """Give a random codec k-means codebooks and the loudness of its input."""
    waves_BN = torch.from_numpy(np.stack(learnt[::6]))
    model.eval()
    latent_BDT = model.encoder(waves_BN[:, None])
    set_codebooks(model, latent_BDT.transpose(1, 2).flatten(0, 1))
    decoded_BN = model.decode(model.encode(waves_BN[:, None]).audio_codes, [None]).audio_values[:, 0]
    scale_last_layer(model, float((waves_BN.square().mean() / decoded_BN.square().mean()).sqrt()))


def _fit_quantizer(frames_TD: Tensor) -> Any:
    """4 residual codebooks of 256 by k-means."""
    config = EncodecConfig(
        hidden_size=frames_TD.shape[1], codebook_dim=frames_TD.shape[1], codebook_size=256,
        sampling_rate=CODEC_RATE_HZ, upsampling_ratios=[HOP_SAMPLES], target_bandwidths=[1.6],
    )  # fmt: skip
    quantizer = EncodecResidualVectorQuantizer(config)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        set_codebooks(SimpleNamespace(quantizer=quantizer), frames_TD)
    return quantizer


def _coded(quantizer: Any, frames_TD: Tensor) -> Tensor:
    """What the codes of frames say, [T, D]."""
    return quantizer.decode(quantizer.encode(frames_TD.T[None]))[0].T


class SampleCodebook:
    """Residual k-means over frames of 20 ms of samples: 4 books of 256, 1.6 kbit/s.

    Args:
        learnt: clips that the codebooks are made from.
    """

    def __init__(self, learnt: Waves) -> None:
        self._quantizer = _fit_quantizer(torch.cat([_cut(wave_N) for wave_N in learnt]))

    @torch.no_grad()
    def sound(self, wave_N: NDArray[np.float32]) -> NDArray[np.float32]:
        """A wave as its codes say it, of whole frames, silent after them."""
        said_N = _coded(self._quantizer, _cut(wave_N)).flatten().numpy()
        return np.pad(said_N, (0, wave_N.size - said_N.size))


def _cut(wave_N: NDArray[np.float32]) -> Tensor:
    """Samples of each frame of the codec, [T, D]."""
    return torch.from_numpy(wave_N[: wave_N.size // HOP_SAMPLES * HOP_SAMPLES]).view(-1, HOP_SAMPLES)


class FrameCodebook:
    """Residual k-means over mel frames of 20 ms at all scales of the distance: 4 books of 256, 1.6 kbit/s.

    Args:
        learnt: clips that the codebooks are made from.
    """

    def __init__(self, learnt: Waves) -> None:
        self._quantizer = _fit_quantizer(torch.cat([_frames(wave_N) for wave_N in learnt]))

    @torch.no_grad()
    def code(self, wave_N: NDArray[np.float32]) -> Tensor:
        """What the codes of a wave's frames say, [T, D]."""
        return _coded(self._quantizer, _frames(wave_N))

    def distance_db(self, waves: Waves) -> float:
        """Mean multi-scale mel distance of clips to what their frames' codes say."""
        distances = [mel_distance_db(_unstack(self.code(wave_N)), _unstack(_frames(wave_N))) for wave_N in waves]
        return float(np.mean(distances))

    def sound(self, wave_N: NDArray[np.float32]) -> NDArray[np.float32]:
        """Make sound of the codes: one scale's mel bands spread over its lines, phases by Griffin and Lim (1984)."""
        mel_TM = 10 ** (_unstack(self.code(wave_N))[WINDOWS_SAMPLES.index(SOUND_WINDOW)] / 20)
        lines_FT = (torch.linalg.pinv(mel_bank(SOUND_WINDOW)) @ mel_TM.T).clamp(min=0)
        # Back to magnitudes as the transform has them; a frame more, as it centres frames.
        lines_FT = torch.cat([lines_FT, lines_FT[:, -1:]], dim=1) * (torch.hann_window(SOUND_WINDOW).sum() / 2)
        return librosa.griffinlim(
            lines_FT.numpy(), n_fft=SOUND_WINDOW, hop_length=MEASURE_HOPS[SOUND_WINDOW], length=wave_N.size,
            n_iter=PHASE_ROUNDS, random_state=0,
        )  # fmt: skip


def _frames(wave_N: NDArray[np.float32]) -> Tensor:
    """All mel values of each frame of the codec, [T, D]."""
    return stack_frames(mel_scales_db(torch.from_numpy(wave_N)[None]))[0]


def _unstack(frames_TD: Tensor) -> list[Tensor]:
    """Values per scale, [T, D of the scale]; their order within one does not matter to a distance."""
    sizes = [NUM_MELS[window] * HOP_SAMPLES // MEASURE_HOPS[window] for window in WINDOWS_SAMPLES]
    return list(frames_TD.split(sizes, dim=1))


def codec_distance_db(codec: Codec, waves: Waves) -> float:
    """Mean multi-scale mel distance of clips to what a codec makes of them."""
    distances: list[float] = []
    for wave_N in waves:
        whole_N = wave_N[: wave_N.size // HOP_SAMPLES * HOP_SAMPLES]
        decoded_N = codec.decode(codec.encode([whole_N])[0])
        distances.append(wave_distance_db(decoded_N, whole_N))
    return float(np.mean(distances))


def wave_distance_db(one_N: NDArray[np.float32], other_N: NDArray[np.float32]) -> float:
    """Multi-scale mel distance of two waves of one length."""
    one, other = (mel_scales_db(torch.from_numpy(wave_N)[None]) for wave_N in (one_N, other_N))
    return mel_distance_db(one, other)


def codebook_use(codec: Codec, waves: Waves, *, kind: str) -> dict[str, float]:
    """How many of its codes each codebook uses, and how evenly: the exponential of the codes' entropy."""
    codes_KT = np.concatenate(codec.encode(waves), axis=1)
    figures: dict[str, float] = {}
    for k, codes_T in enumerate(codes_KT):
        shares = np.bincount(codes_T, minlength=codec.codebook_size) / codes_T.size
        used = shares[shares > 0]
        figures[f"codes in use, {kind}, codebook {k + 1}, %"] = 100 * used.size / codec.codebook_size
        figures[f"perplexity, {kind}, codebook {k + 1}"] = float(np.exp(-(used * np.log(used)).sum()))
    return figures


def pitch_kept(codec: Codec, waves: Waves) -> float:
    """Share of the frames voiced in the originals that are voiced, and within 50 cents, in what is decoded."""
    near = voiced = 0
    for wave_N in waves:
        original_T = _pitch_hz(wave_N)
        decoded_T = _pitch_hz(codec.decode(codec.encode([wave_N])[0]))
        is_voiced_T = ~np.isnan(original_T)
        # A comparison with an unvoiced frame's NaN is false.
        near += int((np.abs(1200 * np.log2(decoded_T / original_T)) <= NEAR_CENTS).sum())
        voiced += int(is_voiced_T.sum())
    return near / voiced


def _pitch_hz(wave_N: NDArray[np.float32]) -> NDArray[np.float64]:
    """Pitch by pYIN (Mauch and Dixon 2014), NaN where there is none."""
    return librosa.pyin(
        wave_N, fmin=MIN_HZ, fmax=MAX_HZ, sr=CODEC_RATE_HZ, frame_length=PITCH_WINDOW_SAMPLES, hop_length=HOP_SAMPLES
    )[0]


def speed(codec: Codec, wave_N: NDArray[np.float32]) -> dict[str, float]:
    """Processor time per clip on one thread."""
    codes_KT = codec.encode([wave_N])[0]
    started_s = time.process_time()
    codec.encode([wave_N])
    encoded_s = time.process_time()
    codec.decode(codes_KT)
    decoded_s = time.process_time()
    return {
        "processor time to encode 10 s, s": encoded_s - started_s,
        "processor time to decode 10 s, s": decoded_s - encoded_s,
    }
