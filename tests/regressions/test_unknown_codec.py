"""A WAV whose header names a codec that FFmpeg does not know has no decoder, and PyAV gave None for it."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from pipeline.music.decoders import AudioError
from pipeline.music.recording import decode_audio


def test_a_wav_of_an_unknown_codec_is_unreadable():
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros((16000, 2), np.float32), 16000, format="WAV")
    data = bytearray(buffer.getvalue())
    start = data.index(b"fmt ") + 8
    data[start : start + 2] = struct.pack("<H", 0x4321)
    with pytest.raises(AudioError, match="unreadable"):
        decode_audio(bytes(data))
