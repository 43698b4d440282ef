"""Any recording decodes to mono or says why not."""

from __future__ import annotations

import csv
import io
import pickle
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile as sf

from pipeline.errors import ContractError
from pipeline.music.audio import (
    decode_flac,
    encode_flac,
    judge_clip,
    resample,
)
from pipeline.music.decoders import AudioError, downmix
from pipeline.music.recording import decode_audio

RATE_HZ = 16_000
SHARED = Path("../shared/data")
SUFFIXES = {".wav", ".mp3", ".flac", ".ogg", ".m4a", ".opus", ".aif", ".aiff", ".wma", ".aac", ".webm"}
# Marked damaged upstream, and still of use: what decodes is sound, or so short that judge_clip refuses it.
DAMAGED_BUT_DECODES = {
    "claxon-samples/02947f56c6c14d3d3d756dbeecc06352e66bd18a.flac",
    "flac-test-files/faulty_01_wrong_max_blocksize.flac",
    "flac-test-files/faulty_05_wrong_total_number_of_samples.flac",
    "flac-test-files/faulty_10_invalid_vorbis_comment_metadata_block.flac",
    "music-metadata-samples/outofbounds.mp3",
    "scipy-wav/test-44100Hz-le-1ch-4bytes-early-eof.wav",
    "tinytag-samples/cut_off_titles.mp3",
}


def tone(duration_s: float = 1.0, rate_hz: int = RATE_HZ, level: float = 0.5) -> np.ndarray:
    times_N = np.arange(round(duration_s * rate_hz)) / rate_hz
    return (level * np.sin(2 * np.pi * 440 * times_N)).astype(np.float32)


def encoded(wave: np.ndarray, *, format: str, subtype: str | None = None, rate_hz: int = RATE_HZ) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, wave, rate_hz, format=format, subtype=subtype)
    return buffer.getvalue()


def encoded_by_ffmpeg(wave_CN: np.ndarray, *, container: str, codec: str, layout: str, rate_hz: int = 44_100) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate_hz, layout=layout)
        interleaved = np.ascontiguousarray(wave_CN.T, np.float32).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
        frame.sample_rate, frame.pts = rate_hz, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    return buffer.getvalue()


def reason_of(source: Path | bytes) -> str:
    with pytest.raises(AudioError) as caught:
        decode_audio(source)
    assert caught.value.detail
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize(
    ("format", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 0.02),
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "FLOAT", 0.0),
        ("WAV", "DOUBLE", 0.0),
        ("WAVEX", "PCM_16", 1e-4),
        ("RF64", "PCM_16", 1e-4),
        ("AIFF", "PCM_16", 1e-4),
        ("FLAC", "PCM_16", 1e-4),
        ("FLAC", "PCM_24", 1e-6),
        ("OGG", "VORBIS", 0.05),
        ("OGG", "OPUS", 0.05),
    ],
)
def test_decode_gives_back_what_soundfile_wrote(format, subtype, tolerance):
    wave_N = tone()
    decoded = decode_audio(encoded(wave_N, format=format, subtype=subtype))
    assert decoded.wave_N.dtype == np.float32
    assert (decoded.facts.decoder, decoded.facts.num_channels, decoded.sample_rate_hz) == ("soundfile", 1, RATE_HZ)
    assert decoded.facts.decoded_s == decoded.facts.declared_s == 1.0
    # Lossy codecs ring at the ends, where the tone starts and stops.
    np.testing.assert_allclose(decoded.wave_N[800:-800], wave_N[800:-800], atol=tolerance)


@pytest.mark.parametrize(("format", "subtype"), [("MP3", "MPEG_LAYER_III")])
def test_decode_mp3_keeps_length_and_loudness(format, subtype):
    decoded = decode_audio(encoded(tone(2.0, 44_100), format=format, subtype=subtype, rate_hz=44_100))
    assert (decoded.facts.decoder, decoded.facts.source_format) == ("pyav", "mp3/mp3float")
    assert decoded.facts.decoded_s == pytest.approx(2.0, abs=0.05)
    assert decoded.facts.declared_s == pytest.approx(2.0, abs=0.05)
    assert np.sqrt(np.mean(decoded.wave_N**2)) == pytest.approx(0.5 / 2**0.5, rel=0.02)


def test_decode_m4a_comes_from_ffmpeg():
    wave_CN = np.stack([tone(1.0, 44_100), np.zeros(44_100, np.float32)])
    decoded = decode_audio(encoded_by_ffmpeg(wave_CN, container="mp4", codec="aac", layout="stereo"))
    assert (decoded.facts.decoder, decoded.facts.source_format, decoded.facts.num_channels) == ("pyav", "mov/aac", 2)
    assert decoded.facts.decoded_s == pytest.approx(1.0, abs=0.1)
    # (L + R) / 2 of a tone on the left alone.
    assert np.sqrt(np.mean(decoded.wave_N[4000:-4000] ** 2)) == pytest.approx(0.25 / 2**0.5, rel=0.05)


def test_decode_reads_content_not_extension(tmp_path):
    sources = {
        "a.mp3": encoded(tone(), format="WAV"),
        "b.wav": encoded(tone(1.0, 44_100), format="MP3", rate_hz=44_100),
        "c.flac": encoded_by_ffmpeg(tone(1.0, 44_100)[None], container="mp4", codec="aac", layout="mono"),
        "d.raw": encoded(tone(), format="FLAC"),
        "e": encoded(tone(), format="OGG"),
    }
    for name, data in sources.items():
        (tmp_path / name).write_bytes(data)
        by_path, by_bytes = decode_audio(tmp_path / name), decode_audio(data)
        assert by_path.facts.source_format == by_bytes.facts.source_format
        assert np.array_equal(by_path.wave_N, by_bytes.wave_N)


def test_decode_resamples_when_asked():
    decoded = decode_audio(encoded(tone(1.0, 44_100), format="WAV", rate_hz=44_100), sample_rate_hz=RATE_HZ)
    assert (decoded.sample_rate_hz, decoded.wave_N.size) == (RATE_HZ, RATE_HZ)
    np.testing.assert_allclose(decoded.wave_N[800:-800], tone()[800:-800], atol=1e-3)


def test_resample_leaves_equal_rates_and_nothing_alone():
    wave_N = tone()
    assert resample(wave_N, RATE_HZ, RATE_HZ) is wave_N
    assert resample(np.zeros(0, np.float32), RATE_HZ, 48_000).size == 0
    assert resample(wave_N, RATE_HZ, 48_000).dtype == np.float32


def test_decode_uses_itu_weights_where_the_layout_is_known():
    front_center = np.zeros((6, 44_100), np.float32)
    front_center[2] = tone(1.0, 44_100)
    known = decode_audio(encoded_by_ffmpeg(front_center, container="matroska", codec="flac", layout="5.1"))
    assert known.facts.num_channels == 6
    # FC weighs sqrt(2) of 2 + sqrt(2) + 2 sqrt(1/2).
    assert np.abs(known.wave_N).max() == pytest.approx(0.5 * 2**0.5 / (2 + 2 * 2**0.5), rel=0.01)


@pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("matroska", "libopus"), ("matroska", "flac")])
def test_decode_survives_eight_channels(container, codec):
    # Eight planes crash PyAV's own conversion to an array.
    wave_CN = np.zeros((8, 48_000))
    wave_CN[:2] = tone(1.0, 48_000)
    decoded = decode_audio(encoded_by_ffmpeg(wave_CN, container=container, codec=codec, layout="7.1", rate_hz=48_000))
    assert decoded.facts.num_channels == 8
    # L and R of L + R + sqrt(2) C + four surrounds of sqrt(1/2).
    assert np.abs(decoded.wave_N[4800:-4800]).max() == pytest.approx(0.5 * 2 / (2 + 3 * 2**0.5), rel=0.1)


def test_decode_takes_the_mean_where_the_layout_is_unknown():
    three_NC = np.stack([tone(), np.zeros(RATE_HZ), np.zeros(RATE_HZ)], axis=1)
    assert np.abs(decode_audio(encoded(three_NC, format="WAV")).wave_N).max() == pytest.approx(0.5 / 3, rel=0.01)


def test_downmix_averages_two_channels_without_their_names():
    np.testing.assert_array_equal(downmix(np.float32([[1, 0], [0, 1]])), np.float32([0.5, 0.5]))


def test_decode_follows_channels_that_change_in_mid_file():
    # The frames of two FLAC streams under one header that leaves the length open; each frame says its channels.
    mono = encoded(tone(), format="FLAC")
    stereo = encoded(np.stack([tone(), tone()], axis=1), format="FLAC")
    decoded = decode_audio(_with_total_samples(mono, 0) + stereo[_first_flac_frame(stereo) :])
    assert (decoded.facts.decoder, decoded.facts.num_channels) == ("pyav", 2)
    # FFmpeg's parser gives up the frame at the seam, whose number does not follow.
    assert 1.7 <= decoded.facts.decoded_s <= 2.0
    np.testing.assert_allclose(decoded.wave_N[-4000:], tone()[-4000:], atol=1e-4)


def _first_flac_frame(data: bytes) -> int:
    position, is_last = 4, False
    while not is_last:
        is_last = bool(data[position] & 0x80)
        position += 4 + int.from_bytes(data[position + 1 : position + 4])
    return position


def _with_total_samples(data: bytes, num_samples: int) -> bytes:
    """A FLAC whose header claims another length (36 bits from byte 21 of the file on)."""
    head = bytearray(data)
    head[21] = head[21] & 0xF0 | num_samples >> 32
    head[22:26] = (num_samples & 0xFFFFFFFF).to_bytes(4)
    return bytes(head)


def test_decode_survives_a_header_without_length_or_with_a_huge_one():
    flac = encoded(tone(), format="FLAC")
    unknown = decode_audio(_with_total_samples(flac, 0))
    assert (unknown.facts.decoder, unknown.facts.declared_s, unknown.wave_N.size) == ("pyav", None, RATE_HZ)
    assert reason_of(_with_total_samples(flac, 1 << 35)) == "truncated"  # 2 TiB, were they allocated


def test_decode_stops_at_a_header_that_claims_too_few():
    assert decode_audio(_with_total_samples(encoded(tone(), format="FLAC"), 8000)).wave_N.size == 8000


def test_decode_takes_a_streamed_wav_for_whole():
    wav = encoded(tone(), format="WAV")
    for mark in (0xFFFFFFFF, 0x7FFFFFFF):
        streamed = wav[:4] + struct.pack("<I", mark) + wav[8:40] + struct.pack("<I", mark) + wav[44:]
        assert decode_audio(streamed).wave_N.size == RATE_HZ


@pytest.mark.parametrize("format", ["WAV", "RF64", "AIFF", "FLAC", "MP3"])
@pytest.mark.parametrize("share", [0.9, 0.5])
def test_decode_refuses_truncated_files(format, share):
    data = encoded(tone(4.0, 44_100), format=format, rate_hz=44_100)
    assert reason_of(data[: round(len(data) * share)]) == "truncated"


def test_decode_refuses_an_m4a_without_its_end():
    data = encoded_by_ffmpeg(tone(4.0, 44_100)[None], container="mp4", codec="aac", layout="mono")
    assert reason_of(data[: len(data) // 2]) == "unreadable"  # the index stands last


def test_decode_passes_over_single_broken_packets():
    data = bytearray(encoded_by_ffmpeg(tone(4.0, 44_100)[None], container="adts", codec="aac", layout="mono"))
    frames = [index for index in range(len(data) - 1) if data[index] == 0xFF and data[index + 1] & 0xF6 == 0xF0]
    middle = frames[len(frames) // 2]
    data[middle + 7 : middle + 40] = b"\xff" * 33
    decoded = decode_audio(bytes(data))
    assert decoded.facts.decoded_s == pytest.approx(4.0, abs=0.1)


def test_decode_refuses_a_file_full_of_broken_packets():
    data = bytearray(encoded(np.random.default_rng(0).normal(size=RATE_HZ) * 0.1, format="FLAC"))
    start = _first_flac_frame(data)
    for position in range(start + 40, len(data), 40):
        data[position] ^= 0xFF
    assert reason_of(bytes(data)) in {"unreadable", "truncated"}


def test_decode_refuses_garbage_in_a_sound_container():
    data = bytearray(encoded_by_ffmpeg(tone(2.0, 44_100)[None], container="mp4", codec="aac", layout="mono"))
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[start:end] = bytes(end - start)
    assert reason_of(bytes(data)) == "unreadable"


def test_decode_refuses_a_rate_that_changes_in_mid_file():
    streams = [
        encoded_by_ffmpeg(tone(1.0, hz)[None], container="adts", codec="aac", layout="mono", rate_hz=hz)
        for hz in (44_100, 48_000)
    ]
    assert reason_of(b"".join(streams)) == "unreadable"


def test_decode_names_the_reason(tmp_path):
    (tmp_path / "text.ogg").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "empty.wav").touch()
    assert reason_of(tmp_path / "text.ogg") == "unreadable"
    assert reason_of(tmp_path / "empty.wav") == "empty"
    assert reason_of(tmp_path / "absent.wav") == "unreadable"
    assert reason_of(tmp_path) == "unreadable"
    assert reason_of(encoded(np.zeros(0), format="WAV")) == "empty"
    assert reason_of(b"") == "empty"


def test_decode_says_when_a_video_has_no_sound():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    assert reason_of(buffer.getvalue()) == "no_audio_stream"


def test_decode_never_follows_a_playlist(tmp_path):
    (tmp_path / "sound.mp3").write_bytes(encoded(tone(1.0, 44_100), format="MP3", rate_hz=44_100))
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/sound.mp3\n#EXT-X-ENDLIST\n")
    (tmp_path / "list.txt").write_text("ffconcat version 1.0\nfile sound.mp3\n")
    assert reason_of(tmp_path / "list.m3u8") == "unreadable"
    assert reason_of(tmp_path / "list.txt") == "unreadable"


@pytest.mark.parametrize("rate_hz", [7, 2_000_000])
def test_decode_refuses_rates_of_no_recording(rate_hz):
    assert reason_of(encoded(tone(), format="WAV", rate_hz=rate_hz)) == "unreadable"


def test_decode_keeps_bad_values_for_the_judge():
    bad = tone()
    bad[5], bad[6] = np.nan, np.inf
    other = np.where(np.isinf(bad), -bad, 0.5 * bad)
    decoded = decode_audio(encoded(np.stack([bad, other], axis=1), format="WAV", subtype="FLOAT"))
    assert np.isnan(decoded.wave_N[5:7]).all()


def test_audio_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(AudioError("empty", "0 bytes")))
    assert (error.reason, error.detail, str(error)) == ("empty", "0 bytes", "empty: 0 bytes")


def verdict(source: Path | bytes) -> str:
    try:
        return decode_audio(source).facts.decoder
    except AudioError as error:
        return str(error)


def test_decode_prints_nothing(tmp_path, capfd):
    mp3 = bytearray(encoded(tone(2.0, 44_100), format="MP3", rate_hz=44_100))
    mp3[3000:3100] = b"\xff" * 100
    for data in (bytes(mp3), encoded(tone(), format="FLAC")[:2000], b"fLaC" + bytes(9), b"RIFF", b"ID3" + bytes(99)):
        (tmp_path / "file").write_bytes(data)
        assert verdict(data) == verdict(tmp_path / "file")  # the same words: no path, no address
    assert capfd.readouterr() == ("", "")


def judged(wave_N: np.ndarray, rate_hz: int = RATE_HZ) -> str | None:
    verdict = judge_clip(wave_N.astype(np.float32), rate_hz, min_s=0.5, silence_lufs=-60.0)
    return verdict and verdict[0]


def test_judge_clip_names_what_is_wrong():
    music = np.random.default_rng(0).normal(size=RATE_HZ)
    assert judged(music * 0.2) is None
    assert judged(music[:7999] * 0.2) == "too_short"
    assert judged(np.zeros(0)) == "too_short"
    assert judged(np.zeros(RATE_HZ)) == "silent"
    assert judged(music * 1e-4) == "silent"
    assert judged(np.where(np.arange(RATE_HZ) == 99, np.nan, music * 0.2)) == "bad_values"
    assert judged(np.where(np.arange(RATE_HZ) == 99, -np.inf, music * 0.2)) == "bad_values"
    assert judged(np.where(np.arange(RATE_HZ) == 99, 4.5, music * 0.2)) == "bad_values"


@pytest.mark.parametrize("frequency_hz", [20, 55, 440, 5000])
def test_judge_clip_knows_clipping_from_a_full_scale_sine(frequency_hz):
    sine_N = np.sin(2 * np.pi * frequency_hz * np.arange(44_100 * 2) / 44_100)
    assert judged(sine_N, 44_100) is None
    assert judged(sine_N * 1.08, 44_100) is None
    assert judged(sine_N * 1.26, 44_100) is None
    driven_N = np.clip(sine_N * 8, -1, 1).astype(np.float32)
    assert judged(driven_N, 44_100) == "clipped"
    if frequency_hz < 1000:
        assert judged(resample(driven_N, 44_100, 32_000), 32_000) == "clipped"


def test_encode_flac_is_stable_and_keeps_16_bits():
    wave_N = np.append(tone(), np.float32([1.5, -1.5]))
    data = encode_flac(wave_N, RATE_HZ)
    assert data == encode_flac(wave_N.copy(), RATE_HZ)
    decoded_N, rate_hz = decode_flac(memoryview(data))
    assert (rate_hz, decoded_N.dtype) == (RATE_HZ, np.float32)
    np.testing.assert_allclose(decoded_N, np.clip(wave_N, -1, 1), atol=2**-15)
    assert encode_flac(decoded_N, rate_hz) == data


def test_flac_refuses_what_it_cannot_hold():
    with pytest.raises(ValueError, match="finite"):
        encode_flac(np.float32([np.nan]), RATE_HZ)
    with pytest.raises(ContractError, match="does not decode"):
        decode_flac(b"no flac")
    with pytest.raises(ContractError, match="2 channels"):
        decode_flac(encoded(np.zeros((100, 2)), format="FLAC"))


def test_every_shared_recording_decodes_or_says_why():
    if not SHARED.is_dir():
        pytest.skip("../shared/data is absent")
    with (SHARED / "MANIFEST.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if Path(row["file"]).suffix in SUFFIXES]
    assert len(rows) > 90
    decoded_damaged, refused = set(), set()
    for row in rows:
        try:
            decoded = decode_audio(SHARED / row["file"])
        except AudioError:
            refused.add(row["file"])
            continue
        if row["flag"] == "damaged":
            decoded_damaged.add(row["file"])
        else:
            # MPEG's first frame may or may not count: one frame of 1,152 samples.
            assert decoded.facts.decoded_s == pytest.approx(float(row["seconds"]), abs=0.03), row["file"]
    damaged = {row["file"] for row in rows if row["flag"] == "damaged"}
    assert refused == damaged - DAMAGED_BUT_DECODES
    assert decoded_damaged == DAMAGED_BUT_DECODES


def test_loud_masters_of_the_shared_recordings_pass():
    if not SHARED.is_dir():
        pytest.skip("../shared/data is absent")
    names = ("audiocraft-assets/sep_drums_1.mp3", "audiocraft-assets/electro_1.mp3", "pyloudnorm-tests/sine_1000.wav")
    for name in names:
        decoded = decode_audio(SHARED / name)
        assert np.abs(decoded.wave_N).max() > 0.9
        assert judge_clip(decoded.wave_N, decoded.sample_rate_hz, min_s=0.5, silence_lufs=-60.0) is None
