"""bfloat16: used where the model still says the same, with the measure of it in the stamp, and refused where not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file, save_file

from pipeline.errors import ParamsError
from pipeline.models.codec import load_codec
from pipeline.models.codec_precision import use_bf16
from pipeline.models.precision import check_codes, check_vectors, code_agreement, golden_clips
from tests.pipeline.models.test_codec import CODEBOOK_SIZE, RATE_HZ, build_codec, waves


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encodec")
    build_codec(folder)
    return folder


def build_crowded_codec(folder) -> None:
    """Write a codec whose codes lie so close together that a rounding chooses between them."""
    build_codec(folder, codebook_size=1024, target_bandwidths=[2.0])
    state = load_file(folder / "model.safetensors")
    crowd = {name: tensor * 0.1 for name, tensor in state.items() if name.endswith("codebook.embed")}
    save_file(state | crowd, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crowded")
    build_crowded_codec(folder)
    return folder


def test_a_codec_in_bf16_encodes_alike_and_says_how_much(folder):
    exact, lowered = load_codec(str(folder), batch_size=3), load_codec(str(folder), batch_size=3)
    assert exact.stamp["precision"] == "fp32"
    use_bf16(lowered)
    stamp = lowered.stamp
    assert stamp["precision"] == "bf16"
    assert len(stamp["agreement"]) == lowered.num_codebooks == 4
    assert all(0.98 <= share <= 1 for share in stamp["agreement"])
    sounds = waves(RATE_HZ, 2 * RATE_HZ, RATE_HZ, 5 * RATE_HZ)
    expected, found = exact.encode(sounds), lowered.encode(sounds)
    assert [codes_KT.shape for codes_KT in found] == [codes_KT.shape for codes_KT in expected]
    agreement = code_agreement(expected, found)
    assert min(agreement) > 0.95
    # It is another arithmetic indeed, and only the encoder's.
    assert lowered.stages.lstm.lstm.weight_hh_l0.dtype == torch.bfloat16
    np.testing.assert_array_equal(lowered.decode(expected[0]), exact.decode(expected[0]))
    assert {name: stamp[name] for name in ("weights_sha256", "versions")} == {
        name: exact.stamp[name] for name in ("weights_sha256", "versions")
    }


def test_two_loads_in_bf16_have_one_stamp_and_one_output(folder):
    first, second = load_codec(str(folder)), load_codec(str(folder))
    for codec in (first, second):
        use_bf16(codec)
    assert first.stamp == second.stamp
    sounds = waves(RATE_HZ, RATE_HZ)
    for ours_KT, theirs_KT in zip(first.encode(sounds), second.encode(sounds), strict=True):
        np.testing.assert_array_equal(ours_KT, theirs_KT)


def test_a_codec_whose_codes_bf16_would_change_is_refused_with_the_figure(crowded):
    with pytest.raises(ParamsError, match=r"codebook [1-4] of 4 .* in \d\d\.\d% of its codes.*min_agreement 98\.0%"):
        use_bf16(load_codec(str(crowded)))
    # Whoever accepts it says so, and the stamp tells it; the golden clip is that of bf16.
    codec = load_codec(str(crowded))
    in_fp32 = codec.stamp["golden_sha256"]
    use_bf16(codec, min_agreement=0.5)
    assert 0.5 <= min(codec.stamp["agreement"]) < 0.98
    assert codec.stamp["golden_sha256"] != in_fp32


@given(
    codes=hnp.arrays(np.uint16, st.tuples(st.integers(1, 4), st.integers(1, 30)), elements=st.integers(0, 9)),
    changed=st.integers(0, 200),
)
def test_agreement_counts_equal_codes_of_each_codebook(codes, changed):
    codebook, frame = changed % len(codes), changed % codes.shape[1]
    other = codes.copy()
    other[codebook, frame] += 1
    agreement = code_agreement([codes, codes], [codes, other])
    expected = [1.0] * len(codes)
    expected[codebook] = 1 - 1 / (2 * codes.shape[1])
    assert agreement == pytest.approx(expected)


def test_agreement_of_nothing_is_whole():
    empty = np.zeros((3, 0), np.uint16)
    assert code_agreement([empty], [empty]) == [1.0, 1.0, 1.0]


def test_the_worst_codebook_decides():
    assert check_codes([0.99, 0.98, 1.0], 0.98) == [0.99, 0.98, 1.0]
    with pytest.raises(ParamsError, match=r"codebook 2 of 3 .* 97\.9%.*98\.0%.*set encode\.precision to fp32"):
        check_codes([0.99, 0.979, 1.0], 0.98)


def test_the_worst_vector_decides():
    unit_BD = np.eye(3, 8, dtype=np.float32)
    turned_BD = unit_BD.copy()
    turned_BD[1, :2] = -np.sin(0.05), np.cos(0.05)  # cosine 0.99875
    assert check_vectors(unit_BD, unit_BD) == 1.0
    with pytest.raises(ParamsError, match=r"cosine of 0\.998\d .*set embed\.precision to fp32"):
        check_vectors(unit_BD, turned_BD)
    with pytest.raises(ParamsError, match="cosine of nan"):
        check_vectors(unit_BD, unit_BD * np.nan)


@pytest.mark.parametrize("rate_hz", [16_000, 32_000, 48_000])
def test_golden_clips_differ_in_kind_and_level(rate_hz):
    clips_N = golden_clips(rate_hz, 2.0)
    assert [clip_N.size for clip_N in clips_N] == [2 * rate_hz] * len(clips_N)
    assert all(np.isfinite(clip_N).all() and np.abs(clip_N).max() <= 0.5 for clip_N in clips_N)
    peaks = [float(np.abs(clip_N).max()) for clip_N in clips_N]
    assert max(peaks) / min(peaks) > 100
    spectra = [np.abs(np.fft.rfft(clip_N)) for clip_N in clips_N]
    unlike = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for n, a in enumerate(spectra) for b in spectra[:n]]
    assert max(unlike) < 0.8


def test_codes_stay_codes(folder):
    codec = load_codec(str(folder))
    use_bf16(codec)
    (codes_KT,) = codec.encode(waves(RATE_HZ))
    assert codes_KT.dtype == np.uint16
    assert codes_KT.max() < CODEBOOK_SIZE
    assert len(np.unique(codes_KT)) > 5
