"""EnCodec's encoder in bfloat16, where its codes stay what they were."""

from __future__ import annotations

import torch

from pipeline.models.codec import EncodecCodec, golden_digest
from pipeline.models.codec_windows import Stages
from pipeline.models.precision import (
    MIN_CODE_AGREEMENT,
    Cast,
    check_codes,
    code_agreement,
    golden_clips,
    lower_layers,
)

_CLIP_S = 2.0


def use_bf16(codec: EncodecCodec, *, min_agreement: float = MIN_CODE_AGREEMENT) -> None:
    """Let a codec encode in bfloat16 from now on; it decodes in float32, as before.

    The convolutions to frames and the LSTM, all but the whole of the work, are lowered. The last convolution and the
    search in the codebooks stay: there a rounding would decide between neighbours.

    Args:
        codec: in float32; changed in place. Its stamp then holds the agreement of every codebook with float32, and the
            digest of the golden clip as bfloat16 encodes it.
        min_agreement: share of equal codes that every codebook must reach.

    Raises:
        ParamsError: one does not; the codec is of no use any more.
    """
    clips_N = golden_clips(codec.sample_rate_hz, _CLIP_S)
    expected = codec.encode(clips_N)
    front, lstm, back = codec.stages.front, codec.stages.lstm, codec.stages.back
    lowered = lower_layers(front)
    lstm.to(torch.bfloat16)
    codec.stages = Stages(lowered, lstm, [Cast(torch.float32), *back])
    agreement = check_codes(code_agreement(expected, codec.encode(clips_N)), min_agreement)
    codec.stamp |= {"precision": "bf16", "agreement": agreement, "golden_sha256": golden_digest(codec)}
