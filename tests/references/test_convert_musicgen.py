"""audiocraft reads what we convert for it, and we read what it exports: same logits, same codes, same sound.

The package runs in a process of its own, as in `test_audiocraft`.

Shape letters: B batch, K codebooks, T frames, N samples, V codebook entries.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from pipeline.demo.vocabulary import build_t5_tokenizer
from pipeline.models.codec import load_codec
from pipeline.models.convert_encodec import encodec_to_transformers
from pipeline.models.convert_musicgen import musicgen_to_audiocraft, musicgen_to_transformers
from tests.pipeline.models.test_convert import build_musicgen, load_musicgen, same_weights
from tests.references.test_audiocraft import import_audiocraft

TEXTS = ["a slow sad piano", "fast bright drums and bass", "a choir sings softly in the rain"]
NUM_FRAMES, GUIDANCE, T5_WIDTH = 21, 3.0, 48


class Theirs(NamedTuple):
    """What audiocraft computes from a folder."""

    logits_KTV: np.ndarray
    generated_KT: np.ndarray
    codes_KT: np.ndarray
    sound_N: np.ndarray


def codes() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 64, (4, NUM_FRAMES))


def sound() -> np.ndarray:
    times_N = np.arange(16_000) / 16_000
    noise_N = np.random.default_rng(0).normal(size=times_N.size) * 0.1
    return (noise_N + 0.3 * np.sin(2 * np.pi * 300 * times_N**2)).astype(np.float32)


def run_audiocraft(folder: Path, text_encoder: Path, exported: Path) -> Theirs:
    """Load a folder with audiocraft's own loaders, use it, and export it again as audiocraft would."""
    torch.set_num_threads(1)
    import_audiocraft()
    from audiocraft.models.loaders import load_compression_model, load_lm_model
    from audiocraft.modules.conditioners import ConditioningAttributes, T5Conditioner
    from omegaconf import OmegaConf

    # It knows T5 by a list of names, and their widths.
    T5Conditioner.MODELS.append(str(text_encoder))
    T5Conditioner.MODELS_DIMS[str(text_encoder)] = T5_WIDTH
    model, codec = load_lm_model(folder), load_compression_model(folder)
    conditions = [ConditioningAttributes(text={"description": TEXTS[1]})]
    with torch.no_grad():
        logits = model.compute_predictions(
            torch.from_numpy(codes())[None], conditions, keep_only_valid_steps=False
        ).logits
        generated = model.generate(conditions=conditions, max_gen_len=NUM_FRAMES, use_sampling=False, cfg_coef=GUIDANCE)
        encoded, scale = codec.encode(torch.from_numpy(sound())[None, None])
        decoded = codec.decode(encoded, scale)
    exported.mkdir()
    torch.save({"best_state": model.state_dict(), "xp.cfg": OmegaConf.to_yaml(model.cfg)}, exported / "state_dict.bin")
    (exported / "compression_state_dict.bin").write_bytes((folder / "compression_state_dict.bin").read_bytes())
    return Theirs(logits[0].numpy(), generated[0].numpy(), encoded[0].numpy(), decoded[0, 0].numpy())


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("musicgen")
    torch.set_num_threads(1)
    build_musicgen(root / "transformers", texts=TEXTS, text_width=T5_WIDTH)
    load_musicgen(root / "transformers").text_encoder.save_pretrained(root / "t5")
    build_t5_tokenizer(TEXTS).save_pretrained(root / "t5")
    return {name: root / name for name in ("transformers", "t5", "audiocraft", "exported", "back")}


@pytest.fixture(scope="module")
def theirs(folders) -> Theirs:
    musicgen_to_audiocraft(str(folders["transformers"]), folders["audiocraft"], text_encoder=str(folders["t5"]))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(run_audiocraft, folders["audiocraft"], folders["t5"], folders["exported"]).result()


def use_transformers(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Logits [K, T, V] of the codes where audiocraft aligns them, and what is generated greedily [N]."""
    model: Any = load_musicgen(folder)
    prompt = AutoProcessor.from_pretrained(folder)(text=[TEXTS[1]], padding=True, return_tensors="pt")
    start, columns = 64, NUM_FRAMES + 4
    delayed_KS = np.full((4, columns), start)
    for k, row_T in enumerate(codes()):
        delayed_KS[k, k + 1 : k + 1 + NUM_FRAMES] = row_T
    with torch.no_grad():
        logits = model(**prompt, decoder_input_ids=torch.from_numpy(delayed_KS)).logits.reshape(4, columns, -1).numpy()
        generated = model.generate(
            **prompt,
            do_sample=False,
            guidance_scale=GUIDANCE,
            max_new_tokens=NUM_FRAMES + 3,
            return_dict_in_generate=False,
        )
    aligned_KTV = np.stack([logits[k, k : k + NUM_FRAMES] for k in range(4)])
    return aligned_KTV, generated[0, 0].numpy()


def test_audiocraft_computes_the_same_logits(folders, theirs):
    ours_KTV, _ = use_transformers(folders["transformers"])
    assert theirs.logits_KTV.std() > 0.1
    np.testing.assert_allclose(ours_KTV, theirs.logits_KTV, atol=1e-4)


def test_greedy_generation_gives_the_same_codes(folders, theirs):
    _, ours_N = use_transformers(folders["transformers"])
    assert len(np.unique(theirs.generated_KT)) > 5
    codec = load_codec(str(folders["audiocraft"]))
    # transformers generates sound: that of audiocraft's codes, and of no others.
    expected_N = codec.decode(theirs.generated_KT.astype(np.uint16))
    np.testing.assert_allclose(ours_N[: expected_N.size], expected_N, atol=1e-5)
    changed_KT = theirs.generated_KT.copy()
    changed_KT[3, -1] ^= 1
    assert np.abs(codec.decode(changed_KT.astype(np.uint16)) - expected_N).max() > 1e-4


def test_our_codec_over_audiocrafts_file_gives_its_codes_and_sound(folders, theirs):
    codec = load_codec(str(folders["audiocraft"]))
    (codes_KT,) = codec.encode([sound()])
    assert len(np.unique(codes_KT)) > 5
    np.testing.assert_array_equal(codes_KT, theirs.codes_KT)
    np.testing.assert_allclose(codec.decode(codes_KT), theirs.sound_N, atol=1e-6)


def test_what_audiocraft_exports_becomes_the_same_model_again(folders, theirs):
    musicgen_to_transformers(folders["exported"], folders["back"], text_encoder=str(folders["t5"]))
    same_weights(load_musicgen(folders["back"]), load_musicgen(folders["transformers"]))
    ours_KTV, _ = use_transformers(folders["back"])
    np.testing.assert_allclose(ours_KTV, theirs.logits_KTV, atol=1e-4)


def test_audiocrafts_codec_becomes_a_transformers_folder(folders, theirs, tmp_path):
    conversion = encodec_to_transformers(folders["audiocraft"], tmp_path / "codec")
    assert "encoder.layers.0.conv.bias" in conversion.mapped.values()
    (codes_KT,) = load_codec(str(tmp_path / "codec")).encode([sound()])
    np.testing.assert_array_equal(codes_KT, theirs.codes_KT)
