"""Memory that a training takes at its longest sequence: counted by parts, or bounded at a glance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from train.params import TrainParams
from train.variants import longest_episode

if TYPE_CHECKING:
    from train.icl.footprint import Footprint

DRIVER_BYTES = 700_000_000
"""What CUDA, cuBLAS and their workspaces take before the first tensor (0.5 to 0.8 GB on recent cards)."""
WASTE = 0.05
"""Share that the allocator loses to fragments."""
GB = 1e9


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """One training on a card."""

    footprint: Footprint
    num_columns: int
    num_text_tokens: int

    @property
    def heap_bytes(self) -> int:
        """All of a step's own, waste included; what a process on the CPU needs."""
        return round(self.footprint.total * (1 + WASTE))

    @property
    def needed_bytes(self) -> int:
        """All that the card must have free, driver and waste included."""
        return self.heap_bytes + DRIVER_BYTES


def plan_memory(config: Any, params: TrainParams) -> MemoryPlan:
    """Count what a step takes at the longest sequence that the settings allow.

    Args:
        config: of a MusicGen in transformers.
        params: settings of the training.
    """
    from train.icl.footprint import measure

    num_segments = params.most_examples + 1
    num_columns = min(params.max_total_columns, longest_episode(params, config.decoder.num_codebooks))
    num_text_tokens = num_segments * params.max_text_tokens
    footprint = measure(config, params, num_columns=num_columns, num_text_tokens=num_text_tokens)
    return MemoryPlan(footprint, num_columns, num_text_tokens)


def rough_bytes(config: Any, params: TrainParams) -> int:
    """A bound on what a step takes, several times the plan, from sizes alone: takes no time, and imports nothing.

    Args:
        config: of a MusicGen in transformers.
        params: settings of the training.
    """
    decoder, text, num_layers = config.decoder, config.text_encoder, config.decoder.num_hidden_layers
    width, inner, rows = decoder.hidden_size, decoder.ffn_dim, decoder.num_codebooks * (decoder.vocab_size + 2)
    in_text = text.d_model * (text.vocab_size + text.num_layers * (4 * text.num_heads * text.d_kv + 3 * text.d_ff))
    in_layer = 8 * width * (width + 4) + 2 * inner * (width + 1)
    in_adapter = params.lora_rank * (18 * width + 2 * inner)
    in_parts = width * (2 * text.d_model + params.clap_dim * params.clap_states + 8)
    num_weights = num_layers * (in_layer + in_adapter) + 2 * rows * width + in_parts
    num_columns = params.batch_size * params.max_total_columns
    num_text_tokens = params.batch_size * (params.most_examples + 1) * params.max_text_tokens
    # Twice of what a layer computes, its adapters' share with dropout and all.
    kept = num_layers * (num_columns * (64 * width + 8 * inner + 20 * params.lora_rank) + num_text_tokens * 8 * width)
    scores = 4 * num_columns * (rows + (params.most_examples + 1) * params.max_text_tokens)
    # Weights, gradients and both moments, all in float32.
    return DRIVER_BYTES + round((1 + WASTE) * 4 * (4 * num_weights + in_text + kept + scores))
