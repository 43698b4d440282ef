from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.fetching.cutting import CutError, cut_to_wav
from tests.pipeline.fetching.sounds import RATE_HZ, SPAN_S, encoded, marked_wave, pitches_hz

FORMS = [
    ("webm", "libopus", "mono"),
    ("webm", "libopus", "stereo"),
    ("ipod", "aac", "stereo"),
    ("mp3", "libmp3lame", "mono"),
    ("ogg", "libopus", "mono"),
    ("wav", "pcm_s16le", "stereo"),
]


def store(folder: Path, data: bytes) -> Path:
    (folder / "source").write_bytes(data)
    return folder / "source"


@pytest.mark.parametrize(("container", "codec", "layout"), FORMS)
def test_a_cut_is_right_to_some_milliseconds(tmp_path: Path, container: str, codec: str, layout: str):
    source = store(tmp_path, encoded(marked_wave(45), container, codec, layout))
    cut_s = cut_to_wav(source, tmp_path / "cut.wav", *SPAN_S)
    assert cut_s == pytest.approx(10, abs=0.001)
    assert pitches_hz(tmp_path / "cut.wav") == [880] * 40
    info = soundfile.info(tmp_path / "cut.wav")
    assert (info.channels, info.samplerate) == (2 if layout == "stereo" else 1, RATE_HZ)
    # An eighth of a second beside the span, each edge shows the other pitch: the cut is not inside by that much.
    cut_to_wav(source, tmp_path / "wide.wav", SPAN_S[0] - 0.25, SPAN_S[1] + 0.25)
    assert pitches_hz(tmp_path / "wide.wav") == [440, *[880] * 40, 440]


def test_a_beginning_is_enough_if_it_holds_the_span(tmp_path: Path):
    whole = encoded(marked_wave(90), "webm", "libopus")
    source = store(tmp_path, whole[: len(whole) * 6 // 10])
    assert cut_to_wav(source, tmp_path / "cut.wav", *SPAN_S) == pytest.approx(10, abs=0.001)
    assert pitches_hz(tmp_path / "cut.wav") == [880] * 40


def test_a_recording_that_ends_early_gives_less(tmp_path: Path):
    source = store(tmp_path, encoded(marked_wave(34), "webm", "libopus"))
    assert cut_to_wav(source, tmp_path / "cut.wav", *SPAN_S) == pytest.approx(4, abs=0.05)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "does not decode"),
        (b"no sound, but words" * 99, "does not decode"),
        (b"#EXTM3U\n#EXTINF:9,\n/etc/hostname\n", "does not decode"),
    ],
)
def test_no_recording_is_told(tmp_path: Path, data: bytes, says: str):
    with pytest.raises(CutError, match=says):
        cut_to_wav(store(tmp_path, data), tmp_path / "cut.wav", *SPAN_S)
    assert not (tmp_path / "cut.wav").exists()


def test_a_span_behind_the_end_is_told(tmp_path: Path):
    with pytest.raises(CutError, match="nothing at 30 to 40 s"):
        cut_to_wav(store(tmp_path, encoded(marked_wave(5), "webm", "libopus")), tmp_path / "cut.wav", *SPAN_S)


def test_a_film_without_sound_is_told(tmp_path: Path):
    import av

    with av.open(str(tmp_path / "mute.mp4"), "w") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 16
        for _ in range(5):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))))
        output.mux(stream.encode(None))
    with pytest.raises(CutError, match="no sound"):
        cut_to_wav(tmp_path / "mute.mp4", tmp_path / "cut.wav", 0, 1)


def test_a_damaged_stretch_makes_the_cut_short(tmp_path: Path):
    whole = bytearray(encoded(marked_wave(45), "webm", "libopus"))
    whole[len(whole) // 2 :] = b"\0" * (len(whole) - len(whole) // 2)
    with pytest.raises(CutError, match="nothing at"):
        cut_to_wav(store(tmp_path, bytes(whole)), tmp_path / "cut.wav", *SPAN_S)
