"""EnCodec behind the codec port, by transformers, whichever library wrote the weights.

Shape letters: B batch, N samples, K codebooks, T frames.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import EncodecModel

from pipeline.errors import ContractError, ParamsError
from pipeline.models.base import (
    Checkpoint,
    Codec,
    choose_device,
    exact_inference,
    find_checkpoint,
    load_pretrained,
    make_stamp,
    same_length_groups,
)
from pipeline.models.batching import Batcher
from pipeline.models.codec_audiocraft import find_audiocraft, load_audiocraft
from pipeline.models.codec_encodec import find_released, load_released, refuse_chunks
from pipeline.models.codec_windows import cut_encoder, encode_in_windows

# Fastest on one core at the size of the 32 kHz model; larger ones gain nothing.
_BATCH_SIZE = 4
# Every clip of the usual lengths goes in one pass, as in the libraries; 30 s of MusicGen's codec take about 2 GB.
_WINDOW_S = 30.0
_GOLDEN_S = 1.0
# On a CPU a batch goes through the LSTM in eights, filled up with silence: products of other sizes round otherwise,
# and a code that was a tie within rounding would depend on its company.
_CPU_ROWS = 8


def load_codec(
    source: str,
    *,
    device: str = "cpu",
    batch_size: int = _BATCH_SIZE,
    bandwidth_kbps: float | None = None,
    num_codebooks: int | None = None,
    window_s: float = _WINDOW_S,
) -> EncodecCodec:
    """Load a mono EnCodec, in float32; `codec_precision` brings it to bfloat16.

    MusicGen's codec ("facebook/encodec_32khz") has one bandwidth: 4 codebooks of 2,048 at 50 Hz. The 24 kHz one has
    five, from 1.5 to 24 kbit/s: 2 to 32 codebooks of 1,024 at 75 Hz. The first codebooks are the same at all of them.

    Args:
        source: a folder of transformers', or a hub id; a file of the `encodec` package (`encodec_24khz-*.th`); or
            audiocraft's `compression_state_dict.bin`; or a folder with one of these.
        device: auto, cpu or cuda.
        batch_size: waves of one length encoded together, as long as memory lasts.
        bandwidth_kbps: one of the checkpoint's; its smallest, unless `num_codebooks` says otherwise.
        num_codebooks: how many of its codebooks, from the first.
        window_s: longer waves are encoded in windows of this length; the codes are those of one pass.

    Raises:
        ContractError: the checkpoint is missing or damaged, or a codec that works in stereo or in chunks.
        ParamsError: it has no such bandwidth, or fewer codebooks.
    """
    model, checkpoint = load_encodec(source)
    config: Any = model.config
    if config.audio_channels != 1 or config.chunk_length_s or config.normalize:
        raise refuse_chunks(checkpoint.name)
    width = _choose_codebooks(model, bandwidth_kbps=bandwidth_kbps, num_codebooks=num_codebooks)
    placed: Any = model.to(choose_device(device))  # pyright: ignore[reportArgumentType]
    codec = EncodecCodec(placed, num_codebooks=width, batch_size=batch_size, window_s=window_s)
    codec.stamp = _stamp(codec, checkpoint)
    return codec


def load_encodec(source: str) -> tuple[EncodecModel, Checkpoint]:
    """Load transformers' own EnCodec from a checkpoint in whichever of the three formats it is.

    Args:
        source: as `load_codec` takes it.

    Raises:
        ContractError: it is missing, damaged, or of another kind.
    """
    path = Path(source)
    if source and not (path / "config.json").is_file():
        if released := find_released(path):
            return load_released(released), Checkpoint(released, released.name, None)
        if exported := find_audiocraft(path):
            loaded = load_audiocraft(exported)
            if isinstance(loaded, str):
                return _load_transformers(loaded)
            name = (path if path.is_dir() else path.resolve().parent).name
            # The path as it was given: whoever checks codes against `models.codec` digests the same files.
            return loaded, Checkpoint(path, name, None)
    return _load_transformers(source)


def _load_transformers(source: str) -> tuple[EncodecModel, Checkpoint]:
    checkpoint = find_checkpoint(source, role="codec")
    return load_pretrained(EncodecModel, checkpoint, role="codec"), checkpoint


def _choose_codebooks(model: Any, *, bandwidth_kbps: float | None, num_codebooks: int | None) -> int:
    """How many codebooks the settings ask for."""
    bandwidths: Sequence[float] = model.config.target_bandwidths
    if bandwidth_kbps is not None and num_codebooks is not None:
        raise ParamsError("codec: bandwidth_kbps and num_codebooks both say how many codebooks; set one of them")
    if num_codebooks is not None:
        if not 1 <= num_codebooks <= len(model.quantizer.layers):
            raise ParamsError(f"codec: num_codebooks is {num_codebooks}, of {len(model.quantizer.layers)}")
        return num_codebooks
    if bandwidth_kbps is not None and bandwidth_kbps not in bandwidths:
        known = ", ".join(f"{known:g}" for known in bandwidths)
        raise ParamsError(f"codec: bandwidth_kbps is {bandwidth_kbps:g}; this codec has {known}")
    return model.quantizer.get_num_quantizers_for_bandwidth(bandwidth_kbps or bandwidths[0])


def _stamp(codec: EncodecCodec, checkpoint: Checkpoint) -> dict[str, Any]:
    return make_stamp(
        checkpoint,
        ("torch", "transformers"),
        sample_rate_hz=codec.sample_rate_hz,
        frame_rate_hz=codec.frame_rate_hz,
        num_codebooks=codec.num_codebooks,
        codebook_size=codec.codebook_size,
        precision="fp32",
        golden_sha256=golden_digest(codec),
    )


def golden_wave(num_samples: int) -> NDArray[np.float32]:
    """A wave that is the same to the bit everywhere: a falling saw under noise, both of whole numbers.

    Args:
        num_samples: its length.

    Returns:
        Samples [N] within ±0.75, steps of 2**-16.
    """
    index_N = np.arange(num_samples, dtype=np.uint64)
    # The period grows from 64 samples on: a chirp without a sine, which differs between libraries.
    saw_N = (index_N * np.uint64(1 << 10) // (np.uint64(1) + index_N // np.uint64(512))) % np.uint64(1 << 16)
    mixed_N = (index_N + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)  # splitmix64's increment and first mix
    mixed_N = (mixed_N ^ (mixed_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    noise_N = mixed_N >> np.uint64(48)
    signed_N = saw_N.astype(np.float64) + noise_N.astype(np.float64) / 2 - 0.75 * (1 << 16)
    return (signed_N / (1 << 16)).astype(np.float32)


def golden_digest(codec: Codec) -> str:
    """SHA-256 of the codes of the golden clip: differs where two set-ups would encode one sound differently."""
    num_frames = max(1, round(_GOLDEN_S * codec.frame_rate_hz))
    (codes_KT,) = codec.encode([golden_wave(num_frames * codec.hop_samples)])
    return hashlib.sha256(np.ascontiguousarray(codes_KT, "<u2").tobytes()).hexdigest()


class EncodecCodec:
    """A loaded EnCodec; implements `Codec`."""

    def __init__(self, model: EncodecModel, *, num_codebooks: int, batch_size: int, window_s: float) -> None:
        config: Any = model.config
        self._model: Any = model
        self._batcher = Batcher(batch_size, role="codec")
        self.stages = cut_encoder(self._model.encoder)
        self.sample_rate_hz: int = config.sampling_rate
        self.hop_samples = int(np.prod(config.upsampling_ratios))
        self.frame_rate_hz: float = self.sample_rate_hz / self.hop_samples
        self.num_codebooks = num_codebooks
        self.codebook_size: int = config.codebook_size
        self._window_frames = max(1, round(window_s * self.frame_rate_hz))
        self.stamp: dict[str, Any] = {}

    @property
    def batch_size(self) -> int:
        """Waves encoded together; less than was asked for where memory did not suffice."""
        return self._batcher.batch_size

    def encode(self, waves_N: Sequence[NDArray[np.float32]]) -> list[NDArray[np.uint16]]:
        """Encode waves; each is cropped to whole hops.

        Padding to a common length would change the last frames, with a mask too: the 32 kHz codec looks ahead.
        Only waves of one length share a batch, therefore. Long ones go in windows, as `codec_windows` says. On a CPU
        the codes of a wave are the same to the bit whatever the batch.
        """
        codes = [np.zeros((self.num_codebooks, 0), np.uint16) for _ in waves_N]
        lengths = [wave_N.size // self.hop_samples * self.hop_samples for wave_N in waves_N]
        for length, group in same_length_groups(lengths):
            if length:
                waves_BN = [waves_N[index][:length] for index in group]
                batches = self._batcher.run(self._encode_batch, waves_BN)
                found = (codes_KT for _, codes_BKT in batches for codes_KT in codes_BKT)
                for index, codes_KT in zip(group, found, strict=True):
                    codes[index] = codes_KT
        return codes

    def _encode_batch(self, waves_BN: Sequence[NDArray[np.float32]]) -> NDArray[np.uint16]:
        num_rows = _CPU_ROWS if self._model.device.type == "cpu" else len(waves_BN)
        parts = (waves_BN[start : start + num_rows] for start in range(0, len(waves_BN), num_rows))
        return np.concatenate([self._encode_rows(part_BN, num_rows) for part_BN in parts])

    def _encode_rows(self, waves_BN: Sequence[NDArray[np.float32]], num_rows: int) -> NDArray[np.uint16]:
        with exact_inference():
            windows = encode_in_windows(
                self.stages,
                torch.from_numpy(np.stack(waves_BN)[:, None]),
                hop_samples=self.hop_samples,
                window_frames=self._window_frames,
                device=self._model.device,
                num_rows=num_rows,
            )
            codes_BKT = [self._quantise(latents_BDT).cpu().numpy().astype(np.uint16) for latents_BDT in windows]
        return np.concatenate(codes_BKT, axis=-1)

    def _quantise(self, residual_BDT: torch.Tensor) -> torch.Tensor:
        """Codes [B, K, T]: each codebook takes what those before it left."""
        codes_BT: list[torch.Tensor] = []
        for layer in self._model.quantizer.layers[: self.num_codebooks]:
            codes_BT.append(layer.encode(residual_BDT))
            residual_BDT = residual_BDT - layer.decode(codes_BT[-1])
        return torch.stack(codes_BT, dim=1)

    def decode(self, codes_KT: NDArray[np.uint16]) -> NDArray[np.float32]:
        """Decode codes to samples.

        Raises:
            ContractError: codes outside the codebook, or more codebooks than the model has.
        """
        num_codebooks, num_frames = codes_KT.shape
        if not 1 <= num_codebooks <= self.num_codebooks or codes_KT.max(initial=0) >= self.codebook_size:
            raise ContractError(
                f"codec: codes of shape {codes_KT.shape} up to {codes_KT.max(initial=0)} do not fit "
                f"{self.num_codebooks} codebooks of {self.codebook_size}; strip separators and delay first"
            )
        if not num_frames:
            return np.zeros(0, np.float32)
        with exact_inference():
            codes_11KT = torch.from_numpy(codes_KT.astype(np.int64))[None, None].to(self._model.device)
            wave_11N = self._model.decode(codes_11KT, [None]).audio_values
        return wave_11N[0, 0, : num_frames * self.hop_samples].cpu().numpy()
