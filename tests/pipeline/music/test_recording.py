"""Recordings in bounded memory, from files, bytes and tars."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile as sf

from pipeline.data.files import MemberSource, open_source
from pipeline.data.records import Member
from pipeline.music.decoders import AudioError
from pipeline.music.recording import decode_audio, open_recording

RATE_HZ = 16_000

PEAK = """
import resource, sys
from pathlib import Path
from pipeline.music.recording import open_recording
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open_recording(Path(sys.argv[1])) as recording:
    num_samples = sum(len(block_N) for block_N in recording.blocks())
print(num_samples, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def tone(duration_s: float = 1.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(duration_s * RATE_HZ)) / RATE_HZ)).astype(np.float32)


def encoded(wave: np.ndarray, format: str = "FLAC", rate_hz: int = RATE_HZ) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, wave, rate_hz, format=format)
    return buffer.getvalue()


def test_two_hours_take_no_more_memory_than_a_block(tmp_path):
    num_bytes = 2 * 3600 * 44_100 * 2
    header = b"RIFF" + struct.pack("<I", 36 + num_bytes) + b"WAVEfmt "
    header += struct.pack("<IHHIIHH", 16, 1, 1, 44_100, 88_200, 2, 16) + b"data" + struct.pack("<I", num_bytes)
    with (tmp_path / "long.wav").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + num_bytes)  # silence that takes no room on the disk
    done = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path / "long.wav"], check=True, capture_output=True, text=True
    )
    num_samples, grown_kb = map(int, done.stdout.split())
    assert num_samples == 2 * 3600 * 44_100
    assert grown_kb < 60_000  # in memory it would be 1.3 GB


def a_tar(path: Path, files: dict[str, bytes]) -> dict[str, Member]:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with tarfile.open(path) as tar:
        return {info.name: Member(info.name, info.offset_data, info.size) for info in tar}


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_member_of_a_tar_decodes_as_the_file_would(tmp_path, format):
    rate_hz = 44_100 if format == "MP3" else RATE_HZ
    data = encoded(tone(3.0), format, rate_hz)
    members = a_tar(tmp_path / "a.tar", {"x.json": b"{}", "a.bin": data, "z.bin": b"z" * 2000})
    with open_recording(tmp_path / "a.tar", members["a.bin"]) as recording:
        wave_N = np.concatenate(list(recording.blocks()))
    np.testing.assert_array_equal(wave_N, decode_audio(data).wave_N)
    with pytest.raises(AudioError, match="unreadable"), open_recording(tmp_path / "a.tar", members["z.bin"]):
        pass


def test_a_member_behaves_like_a_file(tmp_path):
    members = a_tar(tmp_path / "a.tar", {"before": b"b" * 700, "it": bytes(range(250)), "after": b"a"})
    with open_source(tmp_path / "a.tar", members["it"]) as file:
        assert isinstance(file, MemberSource)
        assert file.read() == bytes(range(250))
        assert (file.read(), file.seek(-50, io.SEEK_END), file.read(10)) == (b"", 200, bytes(range(200, 210)))
        assert (file.seek(-1), file.tell(), file.seek(300), file.read()) == (-1, 210, 300, b"")
        assert file.seekable()


def test_equal_channels_are_noted():
    def is_dual_mono(wave: np.ndarray, format: str = "FLAC") -> bool:
        return decode_audio(encoded(wave, format, 44_100)).facts.is_dual_mono

    one, other = tone(3.0), tone(3.0) * 0.9
    late = np.stack([one, one], axis=1)
    late[-100:, 1] = 0
    assert is_dual_mono(np.stack([one, one], axis=1))
    assert is_dual_mono(np.stack([one, one], axis=1), "MP3")
    assert not is_dual_mono(np.stack([one, other], axis=1))
    assert not is_dual_mono(late)
    assert not is_dual_mono(one)


def test_where_one_decoder_breaks_off_the_other_goes_on():
    wave_N = (np.random.default_rng(0).normal(size=1_500_000) * 0.1).astype(np.float32)
    data = bytearray(encoded(wave_N))
    middle = len(data) * 4 // 5
    data[middle : middle + 3000] = bytes(byte ^ 0xFF for byte in data[middle : middle + 3000])
    decoded = decode_audio(bytes(data))
    assert decoded.facts.decoder == "pyav"
    # Two FLAC frames are lost; all before them is there, once.
    assert 1_490_000 < len(decoded.wave_N) < 1_500_000
    np.testing.assert_allclose(decoded.wave_N[:1_190_000], wave_N[:1_190_000], atol=1e-4)
    np.testing.assert_allclose(decoded.wave_N[-200_000:], wave_N[-200_000:], atol=1e-4)


def test_an_inverted_channel_is_told_from_wide_stereo():
    def verdict(left_N: np.ndarray, right_N: np.ndarray) -> str:
        try:
            decode_audio(encoded(np.stack([left_N, right_N], axis=1), "WAV"))
        except AudioError as error:
            return error.reason
        return "good"

    noise, other = np.random.default_rng(0).normal(size=(2, 3 * RATE_HZ)) * 0.1
    assert verdict(noise, -noise) == "antiphase"
    assert verdict(noise, -0.97 * noise) == "antiphase"
    assert verdict(noise, noise) == verdict(noise, other) == verdict(noise, np.zeros_like(noise)) == "good"
    assert verdict(noise, 0.2 * other - 0.5 * noise) == "good"
    silence = np.zeros_like(noise)
    assert verdict(silence, silence) == "good"  # that it is silent, the judge of clips says


def test_all_links_of_a_chain_are_read():
    chain = encoded(tone(3.0), "OGG") + encoded(tone(2.0), "OGG")
    decoded = decode_audio(chain)
    assert decoded.facts.decoder == "pyav"
    assert decoded.facts.decoded_s == pytest.approx(5.0, abs=0.1)
    assert decode_audio(encoded(tone(3.0), "OGG")).facts.decoder == "soundfile"


def matroska(sound: np.ndarray, *, start_s: float = 0.0, seconds: float = 4.0) -> bytes:
    """A video with sound that begins later than the picture."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as output:
        video = output.add_stream("mpeg4", rate=5)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        audio = output.add_stream("flac", rate=RATE_HZ, layout="mono")
        for number in range(round(seconds * 5)):
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), number, np.uint8), format="rgb24")
            output.mux(video.encode(picture))
        frame = av.AudioFrame.from_ndarray((sound[None] * 32767).astype(np.int16), "s16", "mono")
        frame.sample_rate, frame.pts = RATE_HZ, round(start_s * RATE_HZ)
        output.mux([*audio.encode(frame), *audio.encode(None), *video.encode(None)])
    return buffer.getvalue()


def test_sound_that_begins_late_is_whole_and_a_cut_video_is_not():
    assert decode_audio(matroska(tone(3.7), start_s=0.3)).facts.decoded_s == pytest.approx(3.7, abs=0.1)
    noise_N = (np.random.default_rng(0).normal(size=8 * RATE_HZ) * 0.1).astype(np.float32)
    data = matroska(noise_N, seconds=8.0)
    with pytest.raises(AudioError, match="truncated"):
        decode_audio(data[: len(data) * 2 // 3])
