"""What audiocraft itself makes of a MusicGen in its format: the reference for what a converter wrote.

The package runs in a process of its own, where stand-ins for xformers and spacy let it be imported: it names both at
the top of its modules, and the parts used here call neither.

Shape letters: K codebooks, T frames, L text tokens, D width of the text encoder, V codebook entries.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.models.codec_audiocraft import read_settings, setting
from pipeline.models.convert_musicgen import LM_FILE
from pipeline.models.weights import as_state, read_pickle

_CONDITIONER = "condition_provider."
_PROJECTION = _CONDITIONER + "conditioners.description.output_proj."


def has_audiocraft() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("audiocraft") is not None


def logits_of_audiocraft(
    folder: Path, codes_KT: NDArray[np.uint16], states_LD: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Scores of every code of a clip after one text.

    Args:
        folder: with `state_dict.bin`.
        codes_KT: the clip.
        states_LD: what the text encoder says of the text; its own projection is the checkpoint's.

    Returns:
        Logits [K, T, V].
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_run, folder, codes_KT, states_LD).result()


def _run(folder: Path, codes_KT: NDArray[np.uint16], states_LD: NDArray[np.float32]) -> NDArray[np.float32]:
    torch.set_num_threads(1)
    file = folder / LM_FILE
    package = read_pickle(file, role="generator")
    state = as_state(package["best_state"], source=file, role="generator")
    model = _build(read_settings(package["xp.cfg"], source=file))
    model.load_state_dict({name: value for name, value in state.items() if not name.startswith(_CONDITIONER)})
    weight, bias = state[_PROJECTION + "weight"], state[_PROJECTION + "bias"]
    with torch.no_grad():
        projected_1LW = torch.nn.functional.linear(torch.from_numpy(states_LD)[None], weight, bias)
        seen_1L = torch.ones(projected_1LW.shape[:2], dtype=torch.bool)
        output = model.compute_predictions(
            torch.from_numpy(codes_KT.astype(np.int64))[None],
            [],
            {"description": (projected_1LW, seen_1L)},
            keep_only_valid_steps=False,
        )
    return output.logits[0].numpy()


def _build(settings: Any) -> Any:
    """The language model alone: the text encoder is not in audiocraft's files."""
    audiocraft = _import_audiocraft()
    num_codebooks = setting(settings, "transformer_lm.n_q")
    delays = setting(settings, "codebooks_pattern.delay.delays")
    provider = audiocraft.modules.codebooks_patterns.DelayedPatternProvider(n_q=num_codebooks, delays=delays)
    fuser = audiocraft.modules.conditioners.ConditionFuser({"cross": ["description"], "prepend": []})
    names = ("dim", "num_heads", "num_layers", "hidden_scale", "n_q", "card", "activation", "norm", "norm_first")
    names += ("bias_ff", "bias_attn", "bias_proj", "causal", "custom", "memory_efficient", "cross_attention")
    names += ("positional_embedding", "weight_init", "depthwise_init", "zero_bias_init")
    options = {name: setting(settings, f"transformer_lm.{name}") for name in names}
    return audiocraft.models.lm.LMModel(provider, torch.nn.Identity(), fuser, **options).eval()


def _import_audiocraft() -> Any:
    xformers, spacy, ops = ModuleType("xformers"), ModuleType("spacy"), ModuleType("xformers.ops")
    # Asked whether they are there; attention itself is torch's own by default.
    stand_ins = {"unbind": torch.unbind, "LowerTriangularMask": object, "memory_efficient_attention": None}
    for name, value in stand_ins.items():
        setattr(ops, name, value)
    xformers.__dict__["ops"] = ops
    sys.modules |= {"xformers": xformers, "xformers.ops": ops, "spacy": spacy}
    for name in ("models.lm", "modules.codebooks_patterns", "modules.conditioners"):
        importlib.import_module(f"audiocraft.{name}")
    return sys.modules["audiocraft"]
