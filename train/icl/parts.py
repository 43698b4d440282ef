"""Small trained modules beside the decoder, as the format of the sequence asks for them: none by default.

They lie in `network.parts`, so that peft keeps them in the adapter (`modules_to_save`) and the loader must only make
them again. As they begin, a model without examples says what MusicGen says, save that inline text is new to it.

Shape letters: D width of what is projected, M states made of a vector, W width of the decoder.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from train.params import TrainParams

SEGMENT_VECTORS = "segment_vectors"
CLAP_STATES = "clap_states"
COLUMN_STATES = "column_states"
SEPARATOR_WORDS = "next piece"
"""What the text encoder reads for `separator: text`."""
INIT_PHRASE = "music"
"""Text whose states tell how large a new state should be."""


class Projection(nn.Module):
    """Vectors [..., D] as states of the decoder's width, [..., M, W].

    Args:
        from_width: D.
        to_width: W.
        num_states: M.
        rms: size that the states begin with.
        generator: of the first weights.
    """

    def __init__(
        self, from_width: int, to_width: int, *, num_states: int, rms: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        # Whatever the length of the vectors, CLAP's is 1, the matrix sees a root mean square of 1.
        self.norm = nn.LayerNorm(from_width, elementwise_affine=False)
        self.linear = nn.Linear(from_width, num_states * to_width)
        self.num_states = num_states
        with torch.no_grad():
            self.linear.weight.normal_(std=rms * from_width**-0.5, generator=generator)
            self.linear.bias.zero_()

    def forward(self, vectors: Tensor) -> Tensor:
        """Project."""
        return self.linear(self.norm(vectors)).unflatten(-1, (self.num_states, -1))


def segment_vectors(num_segments: int, width: int, *, rms: float, generator: torch.Generator) -> nn.Embedding:
    """A vector per segment, counted back from the target's (0).

    The target's begins at zero: a prompt by itself is read as ever. The others begin as large as the states that they
    mark, so that texts are told apart from the first step. Zeros grow by no more than the learning rate a step: a toy
    in the format `full` then read captions after 500 steps, from these after 200.

    Args:
        num_segments: the target and its examples.
        width: of the decoder.
        rms: size that the vectors of examples begin with.
        generator: of the first weights.
    """
    table = nn.Embedding(num_segments, width)
    with torch.no_grad():
        table.weight.normal_(std=rms, generator=generator)[0] = 0.0
    return table


def make_parts(network: Any, params: TrainParams, *, state_rms: float) -> nn.ModuleDict:
    """Make the modules that a format needs.

    Args:
        network: transformers' MusicGen.
        params: the format, and the seed of the first weights.
        state_rms: root mean square of the text states that cross-attention sees.
    """
    generator = torch.Generator().manual_seed(params.seed)
    inline = params.text_placement == "inline"
    width = network.config.decoder.hidden_size
    column_rms = embedding_rms(network)
    parts: dict[str, nn.Module] = {}
    if params.cross_attention == "full" and params.segment_vectors == "learned":
        parts[SEGMENT_VECTORS] = segment_vectors(1 + params.most_examples, width, rms=state_rms, generator=generator)
    if inline or params.separator == "text":
        text_width = network.config.text_encoder.hidden_size
        parts[COLUMN_STATES] = Projection(text_width, width, num_states=1, rms=column_rms, generator=generator)
    if params.form.shows_clap:
        rms = column_rms if inline else state_rms
        count = params.clap_states
        parts[CLAP_STATES] = Projection(params.clap_dim, width, num_states=count, rms=rms, generator=generator)
    return nn.ModuleDict(parts)


def embedding_rms(network: Any) -> float:
    """Root mean square of what the decoder reads for a column of codes: the sum of a row of every codebook."""
    tables = network.decoder.model.decoder.embed_tokens
    return float(sum(table.weight.detach().float().square().mean() for table in tables) ** 0.5)
