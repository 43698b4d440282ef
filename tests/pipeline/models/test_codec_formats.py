"""One codec in the formats of three libraries: the same codes, and nothing but weights is read."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest
import torch
from transformers import EncodecModel

from pipeline.errors import ContractError
from pipeline.models.base import weights_digest
from pipeline.models.codec import load_codec
from tests.pipeline.models.test_codec import CODEBOOK_SIZE, Pest, build_codec, waves

RATE_HZ = 24_000
# transformers' names -> those that `encodec` and audiocraft share.
RULES = (
    (r"^decoder\.layers\.(3|6|9|12)\.conv\.", r"decoder.model.\1.convtr.convtr."),
    (r"\.layers\.(\d+)\.conv\.", r".model.\1.conv.conv."),
    (r"\.layers\.(\d+)\.(lstm|block|shortcut)\.", r".model.\1.\2."),
    (r"(block\.\d+|shortcut)\.conv\.", r"\1.conv.conv."),
    (r"parametrizations\.weight\.original0", "weight_g"),
    (r"parametrizations\.weight\.original1", "weight_v"),
    (r"^quantizer\.layers\.(\d+)\.codebook\.", r"quantizer.vq.layers.\1._codebook."),
)
# As audiocraft writes them, references to other settings included.
SETTINGS = """
sample_rate: 24000
channels: 1
compression_model: encodec
encodec:
  autoencoder: seanet
  quantizer: rvq
  sample_rate: ${sample_rate}
  channels: ${channels}
  causal: true
  renormalize: false
seanet:
  dimension: 16
  channels: ${channels}
  causal: ${encodec.causal}
  n_filters: 4
  ratios: [8, 5, 4, 2]
  activation: ELU
  norm: weight_norm
  pad_mode: reflect
  dilation_base: 2
  decoder:
    trim_right_ratio: 1.0
    final_activation: null
rvq:
  n_q: 4
"""


def packages_state(folder) -> dict[str, torch.Tensor]:
    state = EncodecModel.from_pretrained(folder).state_dict()
    return {renamed(name): tensor for name, tensor in state.items()}


def renamed(name: str) -> str:
    for pattern, replacement in RULES:
        name = re.sub(pattern, replacement, name)
    return name


def save_released(state: dict[str, torch.Tensor], folder, *, rate: int = 24):
    """Write as the `encodec` package publishes: the name tells the digest."""
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / "weights")
    digest = hashlib.sha256((folder / "weights").read_bytes()).hexdigest()
    return (folder / "weights").rename(folder / f"encodec_{rate}khz-{digest[:8]}.th")


def save_audiocraft(state: dict[str, torch.Tensor], folder, settings: str = SETTINGS):
    folder.mkdir(exist_ok=True)
    file = folder / "compression_state_dict.bin"
    torch.save({"best_state": state, "xp.cfg": settings, "version": "1.3.0", "exported": True}, file)
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transformers")
    # 75 Hz, 6 bits a code: 4 codebooks, as a causal 24 kHz codec.
    build_codec(folder, sampling_rate=RATE_HZ, target_bandwidths=[1.8], use_causal_conv=True)
    return folder


def test_codes_are_the_same_from_all_three_formats(folder, tmp_path):
    codec, sounds = load_codec(str(folder)), waves(RATE_HZ, 2 * RATE_HZ + 7)
    expected = codec.encode(sounds)
    assert [codes_KT.shape for codes_KT in expected] == [(4, 75), (4, 150)]
    assert len(np.unique(expected[0])) > 5
    state = packages_state(folder)
    sources = [
        save_released(state, tmp_path / "encodec"),
        save_audiocraft(state, tmp_path / "musicgen"),
        tmp_path / "encodec",
        tmp_path / "musicgen",
    ]
    for source in sources:
        other = load_codec(str(source))
        for ours_KT, expected_KT in zip(other.encode(sounds), expected, strict=True):
            np.testing.assert_array_equal(ours_KT, expected_KT)
        np.testing.assert_array_equal(other.decode(expected[0]), codec.decode(expected[0]))
        ours, theirs = dict(other.stamp), dict(codec.stamp)
        assert ours.pop("weights_sha256") != theirs.pop("weights_sha256")  # other files
        # What they make of the golden clip is the same, and so are all sizes.
        assert ours | {"model": ""} == theirs | {"model": ""}
        assert str(tmp_path) not in str(ours)
    # The digest is that of what the settings name, as those who check codes against it compute it.
    assert load_codec(str(tmp_path / "musicgen")).stamp["weights_sha256"] == weights_digest(tmp_path / "musicgen")


def test_a_codec_of_the_published_size_has_the_published_bit_rates(tmp_path):
    build_codec(tmp_path / "big", sampling_rate=RATE_HZ, target_bandwidths=[24.0], codebook_size=1024)
    released = save_released(packages_state(tmp_path / "big"), tmp_path / "encodec")
    for bandwidth_kbps, num_codebooks in ((None, 2), (1.5, 2), (3.0, 4), (6.0, 8), (12.0, 16), (24.0, 32)):
        assert load_codec(str(released), bandwidth_kbps=bandwidth_kbps).num_codebooks == num_codebooks


def test_what_only_names_a_released_codec_is_looked_up_by_that_name(tmp_path):
    torch.save({"pretrained": "nobody/encodec", "exported": True}, tmp_path / "compression_state_dict.bin")
    with pytest.raises(ContractError, match="nobody/encodec is neither a folder here"):
        load_codec(str(tmp_path))


def test_loading_refuses_a_released_file_that_is_not_what_its_name_says(folder, tmp_path):
    released = save_released(packages_state(folder), tmp_path)
    with pytest.raises(ContractError, match="not that of its name"):
        load_codec(str(released.rename(tmp_path / "encodec_24khz-00000000.th")))


def test_loading_refuses_the_48_khz_model_and_says_why(folder, tmp_path):
    with pytest.raises(ContractError, match="divided by its own level"):
        load_codec(str(save_released(packages_state(folder), tmp_path, rate=48)))


def test_loading_refuses_weights_left_over_missing_or_of_another_size(folder, tmp_path):
    state = packages_state(folder)
    bias = "encoder.model.0.conv.conv.bias"
    changes = {
        "does not know 1 weights .extra.weight": state | {"extra.weight": torch.zeros(1)},
        f"lacks 1 weights .{bias.replace('model', 'layers').replace('.conv.conv', '.conv')}": {
            name: tensor for name, tensor in state.items() if name != bias
        },
        "has other sizes for 1 weights": state | {bias: torch.zeros(5)},
        "no EnCodec with weight norm": {"encoder.model.0.weight": torch.zeros(1)},
        "would be called": state | {"encoder.layers.0.conv.bias": torch.zeros(4)},
    }
    for number, (said, changed) in enumerate(changes.items()):
        with pytest.raises(ContractError, match=said):
            load_codec(str(save_released(changed, tmp_path / str(number))))


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ("compression_model: encodec", "compression_model: dac", "is a dac of seanet"),
        ("renormalize: false", "renormalize: true", "divided by its own level"),
        ("\nchannels: 1", "\nchannels: 2", "divided by its own level"),
        ("norm: weight_norm", "norm: time_group_norm", "only weight_norm is supported"),
        ("final_activation: null", "final_activation: Tanh", "only None is supported"),
        (SETTINGS, "a: [", "is no YAML"),
        (SETTINGS, "- a", "holds no settings"),
    ],
)
def test_loading_refuses_what_transformers_would_compute_otherwise(folder, tmp_path, was, now, said):
    with pytest.raises(ContractError, match=said):
        load_codec(str(save_audiocraft(packages_state(folder), tmp_path, SETTINGS.replace(was, now))))


@pytest.mark.parametrize(
    "package",
    [
        {"best_state": {"a": torch.zeros(1)}},
        {"best_state": {}, "xp.cfg": SETTINGS},
        {"best_state": {"a": 1}, "xp.cfg": SETTINGS},
        [1],
    ],
)
def test_loading_refuses_files_of_another_kind(tmp_path, package):
    torch.save(package, tmp_path / "compression_state_dict.bin")
    with pytest.raises(ContractError, match=r"compression_state_dict.bin (is no export|holds)"):
        load_codec(str(tmp_path))


@pytest.mark.parametrize("write", [save_released, save_audiocraft])
def test_loading_never_unpickles_objects(tmp_path, write):
    with pytest.raises(ContractError, match="does not load as weights alone"):
        load_codec(str(write({"weights": Pest(tmp_path / "owned")}, tmp_path)))
    assert not (tmp_path / "owned").exists()


def test_codebook_size_is_that_of_the_weights(folder, tmp_path):
    codec = load_codec(str(save_released(packages_state(folder), tmp_path)))
    assert (codec.num_codebooks, codec.codebook_size, codec.frame_rate_hz) == (4, CODEBOOK_SIZE, 75.0)
