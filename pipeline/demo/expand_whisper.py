"""From the demo's committed Whisper to a checkpoint as openai-whisper reads it.

Committed are the rows of the vocabulary that the model writes; timestamps are made of a coarse and a fine part; what
it never writes shares one row. Positions of the encoder are computed.

Shapes: V vocabulary, D width, P knots of the coarse part.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from whisper.model import ModelDimensions, Whisper

N_VOCAB = 51_865
FIRST_TIMESTAMP, NUM_TIMESTAMPS = 50_364, 1501
"""Of the multilingual vocabulary: 0 to 30 s by 0.02 s."""
FINE_STEPS = 25
"""Timestamps from one knot of the coarse part to the next: half a second."""
NUM_KNOTS = NUM_TIMESTAMPS // FINE_STEPS + 1


def timestamp_rows(coarse_PD: Tensor, fine_D: Tensor) -> Tensor:
    """Rows of all timestamps: along straight lines between the knots, and a part that comes again every half second.

    Args:
        coarse_PD: `NUM_KNOTS` rows.
        fine_D: `FINE_STEPS` rows.
    """
    steps = torch.arange(NUM_TIMESTAMPS)
    knot, place = steps // FINE_STEPS, steps % FINE_STEPS
    share = (place / FINE_STEPS)[:, None].to(coarse_PD.dtype)
    after_D = coarse_PD[(knot + 1).clamp(max=NUM_KNOTS - 1)]
    return (1 - share) * coarse_PD[knot] + share * after_D + fine_D[place]


def expand_whisper(weights: Path, target: Path) -> None:
    """Write a `.pt` file as openai-whisper's own: the same weights give the same bytes.

    Args:
        weights: folder with `config.json` (dimensions and ids of the rows) and `model.safetensors`.
        target: the file to write.
    """
    config: dict[str, Any] = json.loads((weights / "config.json").read_text("utf-8"))
    dims = ModelDimensions(**config["dims"])
    state = {name: tensor.float() for name, tensor in load_file(weights / "model.safetensors").items()}
    rows, coarse, fine = (state.pop(f"rows.{name}") for name in ("tokens", "coarse", "fine"))
    *known, never = rows
    embedding_VD = never.repeat(N_VOCAB, 1)
    embedding_VD[torch.tensor(config["token_ids"])] = torch.stack(known)
    embedding_VD[FIRST_TIMESTAMP : FIRST_TIMESTAMP + NUM_TIMESTAMPS] = timestamp_rows(coarse, fine)
    state["decoder.token_embedding.weight"] = embedding_VD
    with torch.random.fork_rng(devices=[]):
        model = Whisper(dims)
    state["encoder.positional_embedding"] = model.encoder.get_buffer("positional_embedding")
    model.load_state_dict(state)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        # To a file object: given a path, torch writes the file's name into the archive.
        halves = {name: tensor.half() for name, tensor in model.state_dict().items()}
        torch.save({"dims": vars(dims), "model_state_dict": halves}, file)
