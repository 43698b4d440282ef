"""encodec: our codec port over transformers gives the codes and the sound of Meta's own package.

Shape letters: K codebooks, T frames, N samples.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest
import torch
from encodec import EncodecModel as ReferenceModel
from encodec.modules import SEANetDecoder, SEANetEncoder
from encodec.quantization import ResidualVectorQuantizer
from transformers import EncodecConfig, EncodecModel

from pipeline.models.codec import load_codec

# encodec 0.1.1 uses the weight_norm that torch has replaced by parametrizations.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")

RATE_HZ, HOP, NUM_CODEBOOKS, CODEBOOK_SIZE = 16_000, 320, 4, 64
BANDWIDTH_KBPS = 1.2  # 50 Hz, 6 bits a code: 4 codebooks
RATIOS, DIMENSION, NUM_FILTERS = [8, 5, 4, 2], 16, 4

# What the package calls a weight -> what transformers calls it; written again here, so that the code's is tested.
RENAMES = (
    (r"\.model\.(\d+)\.convtr\.convtr\.", r".layers.\1.conv."),
    (r"\.model\.(\d+)\.", r".layers.\1."),
    (r"\.conv\.conv\.", ".conv."),
    (r"weight_g$", "parametrizations.weight.original0"),
    (r"weight_v$", "parametrizations.weight.original1"),
    (r"quantizer\.vq\.layers\.(\d+)\._codebook\.", r"quantizer.layers.\1.codebook."),
)


def sounds() -> list[np.ndarray]:
    """A second of noise, a second of a chord, and a shorter sweep."""
    times_N = np.arange(RATE_HZ) / RATE_HZ
    noise_N = np.random.default_rng(0).normal(size=RATE_HZ) * 0.2
    chord_N = sum(np.sin(2 * np.pi * tone_hz * times_N) for tone_hz in (220.0, 277.2, 329.6)) * 0.2
    sweep_N = 0.5 * np.sin(2 * np.pi * 1_000.0 * times_N**2)[: 37 * HOP]
    return [wave_N.astype(np.float32) for wave_N in (noise_N, chord_N, sweep_N)]


@pytest.fixture(scope="module")
def reference() -> ReferenceModel:
    """A toy EnCodec of the package's own parts; its own k-means sets the codebooks from the sounds."""
    torch.set_num_threads(1)
    sizes = {"dimension": DIMENSION, "n_filters": NUM_FILTERS, "ratios": RATIOS, "lstm": 1, "causal": False}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        quantizer = ResidualVectorQuantizer(dimension=DIMENSION, n_q=NUM_CODEBOOKS, bins=CODEBOOK_SIZE)
        model = ReferenceModel(
            SEANetEncoder(**sizes), SEANetDecoder(**sizes), quantizer, [BANDWIDTH_KBPS], RATE_HZ, channels=1
        )
        model.set_target_bandwidth(BANDWIDTH_KBPS)
        latent = model.encoder(torch.from_numpy(np.concatenate(sounds()))[None, None])
        model.quantizer(latent, sample_rate=model.frame_rate, bandwidth=BANDWIDTH_KBPS)
    return model.eval()


def renamed(name: str) -> str:
    for old, new in RENAMES:
        name = re.sub(old, new, name)
    return name


@pytest.fixture(scope="module")
def codec(reference, tmp_path_factory):
    """Our port over a transformers checkpoint with the same weights."""
    config = EncodecConfig(
        sampling_rate=RATE_HZ,
        target_bandwidths=[BANDWIDTH_KBPS],
        upsampling_ratios=RATIOS,
        num_filters=NUM_FILTERS,
        hidden_size=DIMENSION,
        codebook_dim=DIMENSION,
        codebook_size=CODEBOOK_SIZE,
        num_lstm_layers=1,
        use_causal_conv=False,
    )
    model = EncodecModel(config)
    model.load_state_dict({renamed(name): tensor for name, tensor in reference.state_dict().items()})
    folder = tmp_path_factory.mktemp("encodec")
    model.save_pretrained(folder)
    return load_codec(str(folder))


def test_codes_equal_those_of_the_encodec_package(reference, codec):
    assert (codec.num_codebooks, codec.codebook_size, codec.hop_samples) == (NUM_CODEBOOKS, CODEBOOK_SIZE, HOP)
    for wave_N, codes_KT in zip(sounds(), codec.encode(sounds()), strict=True):
        with torch.no_grad():
            ((theirs_1KT, scale),) = reference.encode(torch.from_numpy(wave_N)[None, None])
        assert scale is None
        assert codes_KT.shape == (NUM_CODEBOOKS, wave_N.size // HOP)
        assert all(len(np.unique(row_T)) > 3 for row_T in codes_KT)
        np.testing.assert_array_equal(codes_KT, theirs_1KT[0].numpy())


def test_sound_equals_that_of_the_encodec_package(reference, codec):
    for codes_KT in codec.encode(sounds()):
        with torch.no_grad():
            theirs_11N = reference.decode([(torch.from_numpy(codes_KT.astype(np.int64))[None], None)])
        ours_N = codec.decode(codes_KT)
        assert ours_N.std() > 0
        np.testing.assert_allclose(ours_N, theirs_11N[0, 0].numpy(), atol=1e-6)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """The package's 24 kHz model with weights of its own, and the file that its loader would take."""
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = ReferenceModel.encodec_model_24khz(pretrained=False)
        latent_DT = model.encoder(torch.from_numpy(np.concatenate(sounds()))[None, None])[0]
        residual_TD = latent_DT.T
        for layer in model.quantizer.vq.layers:  # zeros as built: every code would be 0
            picked = torch.randint(len(residual_TD), (layer._codebook.embed.shape[0],))
            noise = torch.randn_like(layer._codebook.embed) * residual_TD.std() * 0.1
            layer._codebook.embed.copy_(residual_TD[picked] * 0.7 + noise)
            codes_1T = layer.encode(residual_TD.T[None])
            residual_TD = residual_TD - layer.decode(codes_1T)[0].T
    folder = tmp_path_factory.mktemp("released")
    torch.save(model.state_dict(), folder / "weights")
    digest = hashlib.sha256((folder / "weights").read_bytes()).hexdigest()
    path = (folder / "weights").rename(folder / f"encodec_24khz-{digest[:8]}.th")
    yield model.eval(), path
    path.unlink()


@pytest.mark.parametrize(("bandwidth_kbps", "num_codebooks"), [(1.5, 2), (3.0, 4), (6.0, 8), (12.0, 16), (24.0, 32)])
def test_the_packages_own_file_gives_its_codes_at_every_bit_rate(released, bandwidth_kbps, num_codebooks):
    model, path = released
    model.set_target_bandwidth(bandwidth_kbps)
    wave_N = sounds()[1]
    # Eight rows, as ours on a CPU: of the sixteenth codebook's codes, some are ties within what another number rounds.
    rows_81N = torch.nn.functional.pad(torch.from_numpy(wave_N)[None, None], (0, 0, 0, 0, 0, 7))
    with torch.no_grad():
        ((theirs_8KT, _),) = model.encode(rows_81N)
        theirs_1KT = theirs_8KT[:1]
        theirs_11N = model.decode([(theirs_1KT, None)])
    codec = load_codec(str(path), bandwidth_kbps=bandwidth_kbps)
    assert (codec.sample_rate_hz, codec.frame_rate_hz, codec.num_codebooks) == (24_000, 75.0, num_codebooks)
    assert codec.stamp["model"] == path.name
    (codes_KT,) = codec.encode([wave_N])
    assert len(np.unique(codes_KT)) > 10
    np.testing.assert_array_equal(codes_KT, theirs_1KT[0].numpy())
    np.testing.assert_allclose(codec.decode(codes_KT), theirs_11N[0, 0].numpy(), atol=1e-5)
