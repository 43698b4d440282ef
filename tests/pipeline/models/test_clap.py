"""CLAP: unit vectors that never depend on chance, and checkpoints that would lie are refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import ByteLevelBPETokenizer
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, RobertaTokenizerFast

from pipeline.errors import ContractError, ParamsError
from pipeline.models.clap import load_embedder

RATE_HZ = 48_000
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SENTENCES = ["a slow sad piano piece in a minor key", "fast bright drums and bass", "a choir sings softly at night"]


def build_clap(folder) -> None:
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator(SENTENCES, vocab_size=320, special_tokens=SPECIALS)
    trainer.save(str(folder / "trained.json"))
    tokenizer = RobertaTokenizerFast(tokenizer_file=str(folder / "trained.json"))
    tokenizer.save_pretrained(folder)
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text |= {"vocab_size": len(tokenizer), "max_position_embeddings": 90, "pad_token_id": 1, "projection_dim": 16}
    audio = {"patch_embeds_hidden_size": 8, "hidden_size": 64, "depths": [1, 1, 1, 1], "projection_dim": 16}
    audio |= {"num_attention_heads": [1, 2, 4, 8], "num_hidden_layers": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=16)).save_pretrained(folder)
    ClapFeatureExtractor(frequency_min=50, truncation="rand_trunc").save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clap")
    build_clap(folder)
    return folder


@pytest.fixture(scope="module")
def embedder(folder):
    torch.set_num_threads(1)
    return load_embedder(str(folder), batch_size=2)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "clap")


def noise(duration_s: float, seed: int = 0) -> np.ndarray:
    size = round(duration_s * RATE_HZ)
    level_N = np.linspace(0.01, 0.5, max(size, 1))[:size]
    return (np.random.default_rng(seed).normal(size=size) * level_N).astype(np.float32)


def test_embedder_describes_itself(embedder, folder):
    assert (embedder.sample_rate_hz, embedder.dim) == (RATE_HZ, 16)
    assert embedder.stamp["model"] == folder.name
    assert embedder.stamp["window_s"] == 10.0
    assert len(embedder.stamp["weights_sha256"]) == 64


def test_embeddings_have_unit_length_and_repeat_to_the_bit(embedder):
    mixed = [noise(duration_s, seed) for seed, duration_s in enumerate([0.5, 10.0, 3.3, 23.0])]
    audio_BD, text_BD = embedder.embed_audio(mixed), embedder.embed_text([*SENTENCES, "", "fast"])
    for embedded_BD, num_items in ((audio_BD, 4), (text_BD, 5)):
        assert (embedded_BD.dtype, embedded_BD.shape) == (np.float32, (num_items, 16))
        np.testing.assert_allclose(np.linalg.norm(embedded_BD, axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(audio_BD, embedder.embed_audio(mixed))
    np.testing.assert_array_equal(text_BD, embedder.embed_text([*SENTENCES, "", "fast"]))


def test_embeddings_do_not_depend_on_their_company(embedder):
    mixed = [noise(duration_s, seed) for seed, duration_s in enumerate([0.5, 10.0, 3.3, 23.0])]
    alone_BD = np.concatenate([embedder.embed_audio([wave_N]) for wave_N in mixed])
    np.testing.assert_allclose(embedder.embed_audio(mixed), alone_BD, atol=2e-6)
    texts = ["fast", "a slow sad piano piece", "bright", "choir sings at night"]
    alone_BD = np.concatenate([embedder.embed_text([text]) for text in texts])
    np.testing.assert_allclose(embedder.embed_text(texts), alone_BD, atol=2e-6)


def test_long_audio_is_the_mean_of_its_windows(embedder):
    wave_N = noise(25.0)
    windows = [wave_N[: 10 * RATE_HZ], wave_N[10 * RATE_HZ : 20 * RATE_HZ], wave_N[20 * RATE_HZ :]]
    mean_D = embedder.embed_audio(windows).mean(axis=0)
    np.testing.assert_allclose(embedder.embed_audio([wave_N])[0], mean_D / np.linalg.norm(mean_D), atol=2e-6)


def test_a_rounding_tail_weighs_nothing(embedder):
    wave_N = noise(10.9)
    np.testing.assert_array_equal(embedder.embed_audio([wave_N]), embedder.embed_audio([wave_N[: 10 * RATE_HZ]]))


def test_short_audio_is_repeated_as_in_training(embedder):
    wave_N = noise(5.0)
    np.testing.assert_allclose(embedder.embed_audio([wave_N]), embedder.embed_audio([np.tile(wave_N, 2)]), atol=2e-6)


def test_long_text_is_cut_not_refused(embedder):
    assert embedder.embed_text(["fast bright drums " * 200]).shape == (1, 16)


def test_embedding_nothing(embedder):
    assert embedder.embed_audio([]).shape == embedder.embed_text([]).shape == (0, 16)
    with pytest.raises(ValueError, match="without samples"):
        embedder.embed_audio([np.zeros(0, np.float32)])


def test_loading_fills_buffers_that_older_checkpoints_lack(embedder, copy):
    state = load_file(copy / "model.safetensors")
    kept = {key: tensor for key, tensor in state.items() if tensor.is_floating_point()}
    assert len(kept) < len(state)
    save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
    older = load_embedder(str(copy))
    np.testing.assert_array_equal(older.embed_text(SENTENCES), embedder.embed_text(SENTENCES))
    np.testing.assert_allclose(older.embed_audio([noise(2.0)]), embedder.embed_audio([noise(2.0)]), atol=2e-6)


def test_loading_refuses_an_empty_tokenizer(copy):
    for name in ("tokenizer.json", "trained.json", "vocab.json", "merges.txt"):
        (copy / name).unlink(missing_ok=True)
    with pytest.raises(ContractError, match="tokenizer"):
        load_embedder(str(copy))


def test_loading_refuses_a_damaged_tokenizer(copy):
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(ContractError, match="tokenizer"):
        load_embedder(str(copy))


def test_loading_refuses_features_of_another_band(copy):
    path = copy / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "frequency_min": 0}))
    with pytest.raises(ContractError, match="frequency_min 0"):
        load_embedder(str(copy))
    path.unlink()
    with pytest.raises(ContractError, match=r"preprocessor_config\.json"):
        load_embedder(str(copy))


def test_loading_refuses_fusion(copy):
    config = ClapConfig.from_pretrained(copy)
    config.audio_config.enable_fusion = True
    ClapModel(config).save_pretrained(copy)
    with pytest.raises(ContractError, match="fuses random crops"):
        load_embedder(str(copy))


def test_bf16_places_sounds_and_texts_alike_and_says_so(folder, embedder):
    lowered = load_embedder(str(folder), batch_size=2, precision="bf16")
    assert (embedder.stamp["precision"], lowered.stamp["precision"]) == ("fp32", "bf16")
    assert 0.999 <= lowered.stamp["least_cosine"] <= 1
    sounds = [noise(10.0), noise(3.3, 1), noise(21.5, 2)]
    for mine_BD, exact_BD in (
        (lowered.embed_audio(sounds), embedder.embed_audio(sounds)),
        (lowered.embed_text(SENTENCES), embedder.embed_text(SENTENCES)),
    ):
        assert mine_BD.dtype == np.float32
        assert (mine_BD * exact_BD).sum(axis=1).min() >= 0.999
        assert not np.array_equal(mine_BD, exact_BD)  # another arithmetic indeed
    np.testing.assert_array_equal(lowered.embed_audio(sounds), lowered.embed_audio(sounds))


@pytest.mark.parametrize("tower", ["audio", "text"])
def test_bf16_is_refused_where_it_would_move_vectors(copy, tower):
    state = load_file(copy / "model.safetensors")
    # What tells sounds apart rides on a large constant, which the last layer subtracts: bfloat16 rounds it away.
    state[f"{tower}_projection.linear1.bias"] += 1000.0
    last = state[f"{tower}_projection.linear2.weight"]
    state[f"{tower}_projection.linear2.weight"] = last - last.mean(dim=1, keepdim=True)
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    load_embedder(str(copy))
    with pytest.raises(ParamsError, match=r"has a cosine of .* less than 0\.999; set embed\.precision to fp32"):
        load_embedder(str(copy), precision="bf16")


def test_out_of_memory_halves_the_batch(folder, embedder):
    class OutOfMemoryAbove(torch.nn.Module):
        def __init__(self, layer, most):
            super().__init__()
            self.layer, self.most = layer, most

        def forward(self, values):
            if len(values) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
            return self.layer(values)

    short = load_embedder(str(folder), batch_size=8)
    projection = short._model.audio_projection
    projection.linear1 = OutOfMemoryAbove(projection.linear1, 3)
    sounds = [noise(10.0, seed) for seed in range(5)]
    np.testing.assert_allclose(short.embed_audio(sounds), embedder.embed_audio(sounds), atol=2e-6)
    assert short.batch_size == 2  # of 5
    assert short.embed_text(SENTENCES).shape == (3, 16)


def test_features_are_those_that_the_checkpoint_asks_for(copy, embedder):
    path = copy / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_length_s": 5}))
    shorter = load_embedder(str(copy))
    assert shorter.stamp["window_s"] == 5.0
    wave_N = noise(5.0)
    # The other hears it twice in its ten seconds.
    assert not np.array_equal(shorter.embed_audio([wave_N]), embedder.embed_audio([wave_N]))
    two_windows = shorter.embed_audio([np.tile(wave_N, 2)])
    np.testing.assert_allclose(two_windows, shorter.embed_audio([wave_N]), atol=1e-6)
