"""What the demo's CLAP can do, measured through the project's own adapter on held-out works.

Shape letters: B clips, N samples, D embedding, K neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.captions import Facts, speed_word
from pipeline.demo.training.clap_data import CLAP_RATE_HZ, own_captions
from pipeline.demo.training.music import CODEC_RATE_HZ, Music
from pipeline.engine.progress import progress
from pipeline.models.base import Embedder
from pipeline.music.audio import resample

RANKS = (1, 5, 10)
NUM_NEIGHBOURS = 10
NUM_DRAWS = 1000
"""Of the bootstrap."""
NEAR_DUPLICATE_COSINE = 0.98
"""`retrieve.near_duplicate_cosine` of every preset."""
SHARED_FACTS: dict[str, Callable[[Facts], str]] = {
    "mode": lambda facts: facts.mode,
    "instrument": lambda facts: facts.instrument,
    "tempo": lambda facts: speed_word(facts.bpm),
    "texture": lambda facts: facts.texture,
    "form": lambda facts: facts.form,
    "register": lambda facts: facts.register,
}
Float = NDArray[np.float32]


def measure(embedder: Embedder, music: Music, *, seed: int) -> dict[str, float]:
    """Embed held-out clips and a caption of each, and tell how well each finds the other.

    Args:
        embedder: at CLAP's rate.
        music: clips of works that were not learnt from.
        seed: of the captions, and of the bootstrap.
    """
    waves_N = (resample(music.wave(index), CODEC_RATE_HZ, CLAP_RATE_HZ) for index in range(len(music)))
    began_s = time.process_time()
    bar = progress(waves_N, total=len(music), desc="held-out clips", unit="clip")
    audio_BD = np.concatenate([embedder.embed_audio([wave_N]) for wave_N in bar])
    text_began_s = time.process_time()
    text_BD = embedder.embed_text(own_captions(music.facts, seed=seed))
    ended_s = time.process_time()
    figures: dict[str, float] = {"num_clips": len(music)}
    figures |= recalls(text_BD @ audio_BD.T, "text_to_audio") | recalls(audio_BD @ text_BD.T, "audio_to_text")
    figures |= neighbour_shares(text_BD @ audio_BD.T, music.facts, seed=seed)
    figures |= spread_figures(audio_BD, "audio") | spread_figures(text_BD, "text")
    figures["audio_ms_per_clip"] = 1000 * (text_began_s - began_s) / len(music)
    figures["text_ms"] = 1000 * (ended_s - text_began_s) / len(music)
    return figures


def recalls(cosine_BB: Float, name: str) -> dict[str, float]:
    """Share of the queries (rows) whose own match is among the best few; and how many times chance that is."""
    own_B = np.diag(cosine_BB)
    rank_B = (cosine_BB > own_B[:, None]).sum(axis=1)
    figures: dict[str, float] = {f"{name}_median_rank": float(np.median(rank_B) + 1)}
    for rank in RANKS:
        share = float((rank_B < rank).mean())
        figures[f"{name}_recall_at_{rank}"] = share
        figures[f"{name}_recall_at_{rank}_over_chance"] = share * len(own_B) / rank
    return figures


def neighbour_shares(cosine_BB: Float, facts: Sequence[Facts], *, seed: int) -> dict[str, float]:
    """How often a caption's nearest clips, its own left out, share a fact with it; beside a random clip's chance.

    Returns:
        By fact, the share, the ends of its 95 % interval (bootstrap over captions), and the chance; and both again with
        all values of the fact weighing alike (`even`), as most music is in major.
    """
    cosine_BB = cosine_BB.copy()
    np.fill_diagonal(cosine_BB, -np.inf)
    nearest_BK = np.argsort(-cosine_BB, axis=1, kind="stable")[:, :NUM_NEIGHBOURS]
    draws = np.random.default_rng(seed).integers(len(facts), size=(NUM_DRAWS, len(facts)))
    figures: dict[str, float] = {}
    for name, value_of in SHARED_FACTS.items():
        _, value_B = np.unique([value_of(one) for one in facts], return_inverse=True)
        share_B = (value_B[nearest_BK] == value_B[:, None]).mean(axis=1)
        chance_B = (np.bincount(value_B)[value_B] - 1) / (len(facts) - 1)
        low, high = np.percentile(share_B[draws].mean(axis=1), [2.5, 97.5])
        even = [_even_mean(share_B[draw], value_B[draw]) for draw in draws]
        even_low, even_high = np.percentile(even, [2.5, 97.5])
        figures |= {
            f"neighbours_{name}": float(share_B.mean()),
            f"neighbours_{name}_low": float(low),
            f"neighbours_{name}_high": float(high),
            f"neighbours_{name}_chance": float(chance_B.mean()),
            f"neighbours_{name}_even": _even_mean(share_B, value_B),
            f"neighbours_{name}_even_low": float(even_low),
            f"neighbours_{name}_even_high": float(even_high),
            f"neighbours_{name}_even_chance": _even_mean(chance_B, value_B),
        }
    return figures


def _even_mean(values_B: NDArray[np.float64], group_B: NDArray[np.int64]) -> float:
    """Mean over groups of each group's mean."""
    return float(np.mean([values_B[group_B == group].mean() for group in np.unique(group_B)]))


def spread_figures(emb_BD: Float, name: str) -> dict[str, float]:
    """How far apart different clips, or captions, lie."""
    cosine = (emb_BD @ emb_BD.T)[~np.eye(len(emb_BD), dtype=bool)]
    return {
        f"{name}_cosine_mean": float(cosine.mean()),
        f"{name}_cosine_99th_percentile": float(np.percentile(cosine, 99)),
        f"{name}_cosine_max": float(cosine.max()),
        f"{name}_pairs_over_{NEAR_DUPLICATE_COSINE}": float((cosine >= NEAR_DUPLICATE_COSINE).mean()),
    }
