"""EnCodec: the company a wave is encoded in changes nothing, and a wrong checkpoint is refused."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import EncodecConfig, EncodecModel

from pipeline.errors import ContractError, ParamsError
from pipeline.models.codec import golden_wave, load_codec

HOP, RATE_HZ, CODEBOOK_SIZE = 320, 16_000, 64


def build_codec(folder, **changes) -> None:
    config = EncodecConfig(
        **{
            "sampling_rate": RATE_HZ,
            "target_bandwidths": [1.2],  # 50 Hz, 6 bits a code: 4 codebooks
            "upsampling_ratios": [8, 5, 4, 2],
            "num_filters": 4,
            "hidden_size": 16,
            "codebook_dim": 16,
            "codebook_size": CODEBOOK_SIZE,
            "num_lstm_layers": 1,
            "use_causal_conv": False,
            **changes,
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = EncodecModel(config)
        for layer in model.quantizer.layers:
            torch.nn.init.normal_(layer.codebook.embed, std=0.1)  # zeros as built: every code would be 0
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encodec")
    build_codec(folder)
    return folder


@pytest.fixture(scope="module")
def codec(folder):
    torch.set_num_threads(1)
    return load_codec(str(folder), batch_size=3)


def waves(*lengths: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.normal(size=length).astype(np.float32) * 0.3 for length in lengths]


def test_codec_describes_itself(codec, folder):
    assert (codec.sample_rate_hz, codec.hop_samples, codec.frame_rate_hz) == (RATE_HZ, HOP, 50.0)
    assert (codec.num_codebooks, codec.codebook_size) == (4, CODEBOOK_SIZE)
    stamp = codec.stamp
    assert (stamp["num_codebooks"], stamp["codebook_size"], stamp["frame_rate_hz"]) == (4, CODEBOOK_SIZE, 50.0)
    assert stamp["model"] == folder.name
    assert stamp["precision"] == "fp32"
    assert stamp["versions"].keys() == {"torch", "transformers"}
    assert str(folder.parent) not in str(stamp)


def test_batching_never_changes_a_code(codec):
    mixed = waves(RATE_HZ, 2 * RATE_HZ, RATE_HZ, RATE_HZ + 7, RATE_HZ, RATE_HZ, 5 * HOP)
    together = codec.encode(mixed)
    assert [codes_KT.shape for codes_KT in together] == [(4, wave_N.size // HOP) for wave_N in mixed]
    for wave_N, codes_KT in zip(mixed, together, strict=True):
        assert codes_KT.dtype == np.uint16
        assert codes_KT.max() < CODEBOOK_SIZE
        assert len(np.unique(codes_KT)) > 5
        np.testing.assert_array_equal(codes_KT, codec.encode([wave_N])[0])


def test_encode_crops_to_whole_hops(codec):
    (wave_N,) = waves(10 * HOP + 319)
    cropped, whole = codec.encode([wave_N, wave_N[: 10 * HOP]])
    np.testing.assert_array_equal(cropped, whole)


def test_encode_of_less_than_a_hop_is_empty(codec):
    assert [codes.shape for codes in codec.encode(waves(HOP - 1, 0, HOP))] == [(4, 0), (4, 0), (4, 1)]
    assert codec.encode([]) == []


@pytest.mark.parametrize("num_frames", [0, 1, 50, 123])
@pytest.mark.parametrize("num_codebooks", [1, 4])
def test_decode_keeps_the_length(codec, num_frames, num_codebooks):
    codes_KT = np.random.default_rng(0).integers(0, CODEBOOK_SIZE, (num_codebooks, num_frames)).astype(np.uint16)
    wave_N = codec.decode(codes_KT)
    assert (wave_N.dtype, wave_N.shape) == (np.float32, (num_frames * HOP,))
    np.testing.assert_array_equal(wave_N, codec.decode(codes_KT))


def test_decode_refuses_codes_that_are_none(codec):
    with pytest.raises(ContractError, match="strip separators"):
        codec.decode(np.full((4, 3), CODEBOOK_SIZE, np.uint16))
    with pytest.raises(ContractError, match="codes of shape"):
        codec.decode(np.zeros((5, 3), np.uint16))


def test_loading_older_formats_gives_the_same_codes(codec, folder, tmp_path):
    # As published: weight norm under its old names, in a .bin without pickled objects.
    state = load_file(folder / "model.safetensors")
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    for new, old in names.items():
        state = {key.replace(new, old): tensor for key, tensor in state.items()}
    shutil.copy(folder / "config.json", tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    (wave_N,) = waves(RATE_HZ)
    np.testing.assert_array_equal(load_codec(str(tmp_path)).encode([wave_N])[0], codec.encode([wave_N])[0])


class Pest:
    """What a hostile checkpoint holds: running this on load would leave a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_loading_never_unpickles_objects(folder, tmp_path):
    shutil.copy(folder / "config.json", tmp_path)
    torch.save({"weights": Pest(tmp_path / "owned")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ContractError, match="does not load"):
        load_codec(str(tmp_path))
    assert not (tmp_path / "owned").exists()


def test_loading_refuses_incomplete_weights_quietly(folder, tmp_path, capfd):
    shutil.copy(folder / "config.json", tmp_path)
    state = load_file(folder / "model.safetensors")
    lacking = {key: tensor for key, tensor in state.items() if not key.startswith("encoder.layers.0")}
    save_file(lacking, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ContractError, match=r"lacks \d+ weights \(encoder\.layers\.0"):
        load_codec(str(tmp_path))
    assert capfd.readouterr() == ("", "")


def test_loading_refuses_damaged_and_missing_files(folder, tmp_path):
    with pytest.raises(ContractError, match="does not load"):
        load_codec(str(tmp_path))
    shutil.copy(folder / "config.json", tmp_path)
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ContractError, match="does not load") as caught:
        load_codec(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes", [{"audio_channels": 2}, {"normalize": True}, {"chunk_length_s": 1.0, "overlap": 0.01}]
)
def test_loading_refuses_stereo_and_chunked_codecs(tmp_path, changes):
    build_codec(tmp_path, **changes)
    with pytest.raises(ContractError, match="stereo or normalised chunks"):
        load_codec(str(tmp_path))


def test_the_first_codebooks_are_the_same_at_every_bit_rate(tmp_path):
    build_codec(tmp_path, target_bandwidths=[0.6, 1.2, 2.4])
    (wave_N,) = waves(RATE_HZ)
    smallest_KT, middle_KT, whole_KT = (
        load_codec(str(tmp_path), **asked).encode([wave_N])[0]
        for asked in ({}, {"bandwidth_kbps": 1.2}, {"bandwidth_kbps": 2.4})
    )
    assert [len(codes_KT) for codes_KT in (smallest_KT, middle_KT, whole_KT)] == [2, 4, 8]
    for num_codebooks in (1, 2, 3, 4, 8):
        codec = load_codec(str(tmp_path), num_codebooks=num_codebooks)
        assert codec.num_codebooks == codec.stamp["num_codebooks"] == num_codebooks
        np.testing.assert_array_equal(codec.encode([wave_N])[0], whole_KT[:num_codebooks])
    np.testing.assert_array_equal(middle_KT, whole_KT[:4])
    with torch.inference_mode():
        theirs = EncodecModel.from_pretrained(tmp_path).encode(torch.from_numpy(wave_N)[None, None], bandwidth=2.4)
    np.testing.assert_array_equal(whole_KT, theirs.audio_codes[0, 0].numpy())


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"bandwidth_kbps": 3.0}, "bandwidth_kbps is 3; this codec has 1.2"),
        ({"num_codebooks": 5}, "num_codebooks is 5, of 4"),
        ({"num_codebooks": 0}, "num_codebooks is 0"),
        ({"num_codebooks": 1, "bandwidth_kbps": 1.2}, "set one of them"),
    ],
)
def test_loading_refuses_codebooks_that_are_not_there(folder, asked, said):
    with pytest.raises(ParamsError, match=said):
        load_codec(str(folder), **asked)


def test_the_golden_clip_tells_codecs_apart(codec, folder, tmp_path):
    assert load_codec(str(folder)).stamp == codec.stamp
    changed = load_file(folder / "model.safetensors")
    changed["encoder.layers.15.conv.bias"] += 0.05
    shutil.copy(folder / "config.json", tmp_path)
    save_file(changed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert load_codec(str(tmp_path)).stamp["golden_sha256"] != codec.stamp["golden_sha256"]


def test_the_golden_clip_is_the_same_everywhere():
    wave_N = golden_wave(RATE_HZ)
    assert np.abs(wave_N).max() <= 0.75
    assert wave_N.std() > 0.1
    # Whole numbers alone make it: if this digest changes, every stamp changes with it.
    assert hashlib.sha256(wave_N.astype("<f4").tobytes()).hexdigest().startswith("780ea621a7952295")
    np.testing.assert_array_equal(golden_wave(100), wave_N[:100])


class OutOfMemoryAbove:
    """A codec's pass with memory for so many waves; fails as CUDA's allocator does."""

    def __init__(self, encode_batch, most: int) -> None:
        self.encode_batch, self.most = encode_batch, most
        self.batches: list[int] = []

    def __call__(self, waves_BN):
        self.batches.append(len(waves_BN))
        if len(waves_BN) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return self.encode_batch(waves_BN)


def limit_memory(codec, most: int) -> OutOfMemoryAbove:
    # Around the whole pass: on a CPU its layers never see a batch as it was cut.
    codec._encode_batch = OutOfMemoryAbove(codec._encode_batch, most)
    return codec._encode_batch


def test_out_of_memory_halves_the_batch_and_changes_no_code(folder):
    sounds = waves(*[RATE_HZ] * 7, 3 * RATE_HZ, 3 * RATE_HZ)
    expected = load_codec(str(folder), batch_size=8).encode(sounds)
    short = load_codec(str(folder), batch_size=8)
    layer = limit_memory(short, 2)
    for _ in range(2):
        for found_KT, expected_KT in zip(short.encode(sounds), expected, strict=True):
            np.testing.assert_array_equal(found_KT, expected_KT)
    assert short.batch_size == 1  # of 7: 3, then 1
    assert max(layer.batches[3:]) == 1


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_codes_are_equal_whatever_the_batch(codec, folder, batch_size):
    sounds = waves(*[RATE_HZ] * 5, 2 * RATE_HZ, 2 * RATE_HZ, RATE_HZ // 2)
    found = load_codec(str(folder), batch_size=batch_size).encode(sounds)
    for found_KT, expected_KT in zip(found, codec.encode(sounds), strict=True):
        np.testing.assert_array_equal(found_KT, expected_KT)
