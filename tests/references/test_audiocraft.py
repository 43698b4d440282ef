"""audiocraft: MusicGen's own language model and delay pattern agree with what we train on.

The package runs in a process of its own, where stand-ins for xformers and spacy let it be imported: it names both at
the top of its modules, and the parts used here call neither.

Shape letters: B batch, K codebooks, T frames, S columns, L text tokens, D width, V codebook entries.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from transformers import MusicgenDecoderConfig, MusicgenForCausalLM

from pipeline.music.sequence import IGNORED_LABEL, build_sequence, delay, pad_id, undelay

NUM_CODEBOOKS, CODEBOOK_SIZE, WIDTH, NUM_LAYERS, NUM_HEADS = 4, 64, 32, 2, 4
NUM_FRAMES = 23
NUM_TOKENS = (9, 5)

# What audiocraft calls a weight -> what transformers calls it; attention's projections are split besides.
RENAMES = (
    ("transformer.layers.", "model.decoder.layers."),
    ("emb.", "model.decoder.embed_tokens."),
    ("linears.", "lm_heads."),
    ("out_norm.", "model.decoder.layer_norm."),
    ("cross_attention.", "encoder_attn."),
    ("norm_cross.", "encoder_attn_layer_norm."),
    ("norm1.", "self_attn_layer_norm."),
    ("norm2.", "final_layer_norm."),
    ("linear1.", "fc1."),
    ("linear2.", "fc2."),
)


class Reference(NamedTuple):
    """What audiocraft computed."""

    state: dict[str, np.ndarray]
    logits_BKTV: np.ndarray
    columns_BKS: np.ndarray
    reverted_BKT: np.ndarray


def random_codes() -> np.ndarray:
    """Codes of two clips [B, K, T]."""
    return np.random.default_rng(0).integers(0, CODEBOOK_SIZE, (2, NUM_CODEBOOKS, NUM_FRAMES))


def text_states() -> tuple[np.ndarray, np.ndarray]:
    """Projected text states [B, L, D], zero where the shorter text is padded, and their mask [B, L]."""
    mask_BL = np.arange(max(NUM_TOKENS)) < np.array(NUM_TOKENS)[:, None]
    states_BLD = np.random.default_rng(1).normal(size=(*mask_BL.shape, WIDTH)).astype(np.float32)
    return states_BLD * mask_BL[:, :, None], mask_BL


def import_audiocraft() -> Any:
    xformers, spacy = ModuleType("xformers"), ModuleType("spacy")
    xformers.ops = ModuleType("xformers.ops")  # type: ignore[attr-defined]
    xformers.ops.unbind = torch.unbind
    # Asked whether they are there; attention itself is torch's own by default.
    xformers.ops.LowerTriangularMask = object
    xformers.ops.memory_efficient_attention = None
    sys.modules |= {"xformers": xformers, "xformers.ops": xformers.ops, "spacy": spacy}
    import audiocraft.models.lm
    import audiocraft.modules.codebooks_patterns
    import audiocraft.modules.conditioners

    return audiocraft


def run_audiocraft() -> Reference:
    """Build a toy MusicGen language model with the settings of the released ones, and run it on two clips."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    audiocraft = import_audiocraft()
    provider = audiocraft.modules.codebooks_patterns.DelayedPatternProvider(n_q=NUM_CODEBOOKS)
    fuser = audiocraft.modules.conditioners.ConditionFuser({"cross": ["description"], "prepend": []})
    model = audiocraft.models.lm.LMModel(
        provider, torch.nn.Identity(), fuser, n_q=NUM_CODEBOOKS, card=CODEBOOK_SIZE, dim=WIDTH,
        num_layers=NUM_LAYERS, num_heads=NUM_HEADS, hidden_scale=4, norm="layer_norm", norm_first=True,
        bias_proj=False, bias_ff=False, bias_attn=False, activation="gelu", causal=True, custom=True,
        memory_efficient=True, cross_attention=True, positional_embedding="sin",
        weight_init="gaussian", depthwise_init="current", zero_bias_init=True,
    ).eval()  # fmt: skip
    codes_BKT = torch.from_numpy(random_codes())
    states_BLD, mask_BL = (torch.from_numpy(array) for array in text_states())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # fresh norms are all alike: a mix-up would not show
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
        output = model.compute_predictions(
            codes_BKT, [], {"description": (states_BLD, mask_BL)}, keep_only_valid_steps=False
        )
    assert output.mask.all()
    pattern = provider.get_pattern(NUM_FRAMES)
    columns_BKS = pattern.build_pattern_sequence(codes_BKT, model.special_token_id)[0]
    reverted_BKT = pattern.revert_pattern_sequence(columns_BKS, model.special_token_id)[0]
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return Reference(state, output.logits.numpy(), columns_BKS.numpy(), reverted_BKT.numpy())


@pytest.fixture(scope="module")
def reference() -> Reference:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(run_audiocraft).result()


@pytest.fixture(scope="module")
def decoder(reference) -> MusicgenForCausalLM:
    """transformers' decoder with audiocraft's weights, not one left over."""
    config = MusicgenDecoderConfig(
        vocab_size=CODEBOOK_SIZE,
        num_codebooks=NUM_CODEBOOKS,
        hidden_size=WIDTH,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=NUM_HEADS,
        ffn_dim=4 * WIDTH,
        pad_token_id=CODEBOOK_SIZE,
        bos_token_id=CODEBOOK_SIZE,
    )
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        model = MusicgenForCausalLM(config)
    missing, unexpected = model.load_state_dict(converted(reference.state), strict=False)
    assert not unexpected
    assert all(name.endswith("embed_positions.weights") for name in missing)
    return model.eval()


def renamed(name: str) -> str:
    for old, new in RENAMES:
        name = name.replace(old, new)
    return name


def converted(state: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    out: dict[str, torch.Tensor] = {}
    for name, array in state.items():
        new_name, tensor = renamed(name), torch.from_numpy(array)
        if name.endswith("in_proj_weight"):
            for part, chunk in zip("qkv", tensor.chunk(3), strict=True):
                out[new_name.replace("in_proj_weight", f"{part}_proj.weight")] = chunk
        else:
            out[new_name] = tensor
    return out


def logits_of_transformers(decoder: Any, item: int, *, num_tokens: int) -> np.ndarray:
    """Logits [K * T, V] of the codes of one clip, where our own columns and labels place them."""
    columns = build_sequence([], random_codes()[item], codebook_size=CODEBOOK_SIZE)
    states_BLD, _ = text_states()
    with torch.no_grad():
        output = decoder(
            input_ids=torch.from_numpy(columns.inputs_KS),
            encoder_hidden_states=torch.from_numpy(states_BLD[item : item + 1, :num_tokens]),
        )
    logits_KSV = output.logits.reshape(NUM_CODEBOOKS, -1, CODEBOOK_SIZE)
    return logits_KSV.numpy()[columns.labels_KS != IGNORED_LABEL]


def test_logits_equal_those_of_audiocraft(reference, decoder):
    ours = logits_of_transformers(decoder, 0, num_tokens=NUM_TOKENS[0])
    theirs = reference.logits_BKTV[0].reshape(-1, CODEBOOK_SIZE)
    assert theirs.std() > 0.1
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_audiocraft_lets_attention_see_zeroed_padding(reference, decoder):
    theirs = reference.logits_BKTV[1].reshape(-1, CODEBOOK_SIZE)
    with_padding = logits_of_transformers(decoder, 1, num_tokens=max(NUM_TOKENS))
    np.testing.assert_allclose(with_padding, theirs, atol=1e-4)
    # What we do instead: a shorter text is read as it is, whatever stands beside it in the batch.
    without_padding = logits_of_transformers(decoder, 1, num_tokens=NUM_TOKENS[1])
    assert np.abs(without_padding - theirs).max() > 1e-2


def test_delay_pattern_equals_that_of_audiocraft(reference):
    pad = pad_id(CODEBOOK_SIZE)
    for codes_KT, columns_KS, reverted_KT in zip(random_codes(), *reference[2:], strict=True):
        assert (columns_KS[:, 0] == pad).all()  # audiocraft's start column; ours stands before the first segment
        np.testing.assert_array_equal(delay(codes_KT, pad), columns_KS[:, 1:])
        np.testing.assert_array_equal(build_sequence([], codes_KT, codebook_size=CODEBOOK_SIZE)[0], columns_KS)
        np.testing.assert_array_equal(undelay(columns_KS[:, 1:]), reverted_KT)
        np.testing.assert_array_equal(reverted_KT, codes_KT)
