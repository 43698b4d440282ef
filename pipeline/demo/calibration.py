"""Set by measurement what random weights leave degenerate; all functions change a model in place.

Shapes: B batch, N samples, T frames, K codes, D latent or embedding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.demo.synth import TIMBRES, Notes, render

SILENT_LOGITS = {50_362: 32.0, 50_257: 24.0}
"""Advantage of "no speech" and "end of text", by id in the vocabulary of 51,865 (openai-whisper, tokenizer.py)."""


def calibration_waves(num_waves: int, *, clip_s: float, rate_hz: int, seed: int) -> NDArray[np.float32]:
    """Play random chords on every instrument in turn.

    Returns:
        Mono waves `[B, N]`.
    """
    instruments = list(TIMBRES)
    waves: list[NDArray[np.float32]] = []
    for index in range(num_waves):
        rng = np.random.default_rng([seed, index])
        num_notes = int(rng.integers(4, 9) * clip_s)
        notes = Notes(
            onset_s=np.sort(rng.uniform(0, clip_s, num_notes)),
            length_s=rng.uniform(0.1, 0.8, num_notes),
            midi=rng.integers(45, 82, num_notes),
            part=np.zeros(num_notes, dtype=np.int64),
            velocity=rng.uniform(0.4, 1.0, num_notes),
        )
        level_dbfs = float(rng.uniform(-26, -16))
        instrument = instruments[index % len(instruments)]
        wave_CN = render(notes, instrument, clip_s=clip_s, rate_hz=rate_hz, rms_dbfs=level_dbfs, seed=[seed, index])
        waves.append(wave_CN.mean(axis=0))
    return np.stack(waves)


def set_codebooks(codec: Any, latent_TD: Tensor) -> None:
    """Give every codebook the cluster centres of what the codebooks before it left over; zeros code nothing."""
    residual_TD = latent_TD
    for layer in codec.quantizer.layers:
        centre_KD, counts_K = _cluster(residual_TD, layer.codebook.codebook_size)
        layer.codebook.embed.copy_(centre_KD)
        layer.codebook.embed_avg.copy_(centre_KD * counts_K[:, None])
        layer.codebook.cluster_size.copy_(counts_K)
        residual_TD = residual_TD - centre_KD[torch.cdist(residual_TD, centre_KD).argmin(dim=1)]


def _cluster(points_TD: Tensor, num_centres: int, *, num_rounds: int = 12) -> tuple[Tensor, Tensor]:
    """Run Lloyd's k-means (1982) from a random draw of the points.

    Returns:
        Centres `[K, D]` and how many points each has, `[K]`. An empty cluster keeps its centre.
    """
    centre_KD = points_TD[torch.randperm(len(points_TD))[:num_centres]].clone()
    counts_K = torch.zeros(num_centres)
    for _ in range(num_rounds):
        nearest_T = torch.cdist(points_TD, centre_KD).argmin(dim=1)
        counts_K = torch.bincount(nearest_T, minlength=num_centres).float()
        sums_KD = torch.zeros_like(centre_KD).index_add_(0, nearest_T, points_TD)
        centre_KD = torch.where(counts_K[:, None] > 0, sums_KD / counts_K[:, None].clamp(min=1), centre_KD)
    return centre_KD, counts_K


def scale_last_layer(codec: Any, factor: float) -> None:
    """Multiply what the decoder puts out; its last layer is linear, and weight norm keeps the gain apart."""
    conv = codec.decoder.layers[-1].conv
    conv.parametrizations.weight.original0.mul_(factor)
    conv.bias.mul_(factor)


def set_input_norm(norm: Any, features: Tensor) -> None:
    """Let the input norm see mel spectra (dB, around -40) as trained statistics would: mean 0, variance 1 per band."""
    values = features.reshape(-1, features.shape[-1])
    norm.running_mean.copy_(values.mean(dim=0))
    norm.running_var.copy_(values.var(dim=0))


def spread(projection: Any, pooled_BD: Tensor) -> None:
    """Shift a projection's output to mean 0 over a batch and even out its principal components.

    Random layers add nearly the same vector to every input, and vary along few directions: unchanged, all clips would
    be near-duplicates.
    """
    output_BD = projection(pooled_BD)
    mean_D = output_BD.mean(dim=0)
    _, size_D, axes_DD = torch.linalg.svd(output_BD - mean_D, full_matrices=True)
    gain_D = torch.ones(len(axes_DD))
    # A tenth of the largest keeps what is mere noise small.
    gain_D[: len(size_D)] = 1 / (size_D / size_D[0] + 0.1)
    even_DD = axes_DD.T @ (gain_D[:, None] * axes_DD)
    projection.linear2.bias.copy_(even_DD @ (projection.linear2.bias - mean_D))
    projection.linear2.weight.copy_(even_DD @ projection.linear2.weight)


def hear_nothing(whisper: Any) -> None:
    """Make "no speech", and in the text its end, by far the likeliest tokens.

    The demo's music has no words, and random weights would spell out 224 tokens for every half minute, six times over.
    """
    for token, advantage in SILENT_LOGITS.items():
        # A long row gets its logit from a short bias, which leaves the other tokens alone.
        row = whisper.decoder.token_embedding.weight[token].mul_(4.0)
        whisper.decoder.ln.bias.add_(row * (advantage / row.square().sum()))
