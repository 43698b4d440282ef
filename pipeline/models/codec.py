"""EnCodec behind the codec port, by transformers.

Shape letters: B batch, N samples, K codebooks, T frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import EncodecModel

from pipeline.errors import ContractError
from pipeline.models.base import (
    Checkpoint,
    Codec,
    choose_device,
    exact_inference,
    find_checkpoint,
    load_pretrained,
    make_stamp,
    same_length_batches,
)

# Fastest on one core at the size of the 32 kHz model; larger ones gain nothing.
_BATCH_SIZE = 4


def load_codec(source: str, *, device: str = "cpu", batch_size: int = _BATCH_SIZE) -> Codec:
    """Load a mono EnCodec from a folder or the hub, at the smallest of its bandwidths.

    MusicGen's codec ("facebook/encodec_32khz") has one bandwidth: 4 codebooks of 2,048 at 50 Hz.

    Args:
        source: a local folder, or a hub id.
        device: auto, cpu or cuda.
        batch_size: waves of one length encoded together.

    Raises:
        ContractError: the checkpoint is missing or damaged, or a codec that works in stereo or in chunks.
    """
    checkpoint = find_checkpoint(source, role="codec")
    model = load_pretrained(EncodecModel, checkpoint, role="codec")
    config = model.config
    if config.audio_channels != 1 or config.chunk_length_s or config.normalize:
        raise ContractError(
            f"codec: {checkpoint.name} works in stereo or normalised chunks; only whole mono clips are supported "
            "(facebook/encodec_32khz, facebook/encodec_24khz)"
        )
    return _EncodecCodec(model.to(choose_device(device)), checkpoint, batch_size=batch_size)


class _EncodecCodec:
    """A loaded EnCodec; implements `Codec`."""

    def __init__(self, model: EncodecModel, checkpoint: Checkpoint, *, batch_size: int) -> None:
        config: Any = model.config
        self._model: Any = model
        self._batch_size = batch_size
        self._bandwidth: float = config.target_bandwidths[0]
        self.sample_rate_hz: int = config.sampling_rate
        self.hop_samples = int(np.prod(config.upsampling_ratios))
        self.frame_rate_hz: float = self.sample_rate_hz / self.hop_samples
        self.num_codebooks: int = self._model.quantizer.get_num_quantizers_for_bandwidth(self._bandwidth)
        self.codebook_size: int = config.codebook_size
        self.stamp: dict[str, Any] = make_stamp(
            checkpoint,
            ("torch", "transformers"),
            sample_rate_hz=self.sample_rate_hz,
            frame_rate_hz=self.frame_rate_hz,
            num_codebooks=self.num_codebooks,
            codebook_size=self.codebook_size,
        )

    def encode(self, waves_N: Sequence[NDArray[np.float32]]) -> list[NDArray[np.uint16]]:
        """Encode waves; each is cropped to whole hops.

        Padding to a common length would change the last frames, with a mask too: the 32 kHz codec looks ahead.
        Only waves of one length share a batch, therefore.
        """
        codes = [np.zeros((self.num_codebooks, 0), np.uint16) for _ in waves_N]
        lengths = [wave_N.size // self.hop_samples * self.hop_samples for wave_N in waves_N]
        for indices in same_length_batches(lengths, self._batch_size):
            length = lengths[indices[0]]
            if length:
                batch_B1N = np.stack([waves_N[index][None, :length] for index in indices])
                for index, codes_KT in zip(indices, self._encode_batch(batch_B1N), strict=True):
                    codes[index] = codes_KT
        return codes

    def _encode_batch(self, batch_B1N: NDArray[np.float32]) -> NDArray[np.uint16]:
        with exact_inference():
            inputs = torch.from_numpy(batch_B1N).to(self._model.device)
            codes_1BKT = self._model.encode(inputs, bandwidth=self._bandwidth).audio_codes
        return codes_1BKT[0].cpu().numpy().astype(np.uint16)

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
