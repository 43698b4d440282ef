"""Sections `train`, `generate` and `evaluate` of params.yaml."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import ParamsError
from pipeline.music.sequence import Budget, LossOn

LORA_TARGETS = {
    "attention": r"decoder\..*\.(self_attn|encoder_attn)\.(q_proj|k_proj|v_proj|out_proj)",
    "all": r"decoder\..*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)",
}
FLUSH_COLUMNS = 16
"""Columns kept free for the end of a target's delay pattern, one fewer than codebooks; no MusicGen needs more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainParams:
    """Section `train` of params.yaml."""

    seed: int = 0
    """Fixes the order of samples, the number of examples, dropout and the adapter's first weights."""
    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 8
    """Episodes per forward pass."""
    accumulate: int = 1
    """Forward passes per optimiser step."""
    learning_rate: float = 1e-4
    """Peak of the schedule."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """`cosine` falls to zero at the last step."""
    warmup_steps: int = 0
    """Steps of linear rise before the schedule."""
    weight_decay: float = 0.01
    """AdamW's, on matrices only."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    max_bad_steps: int = 5
    """Steps in a row with a loss or gradient that is not finite, after which the run stops."""

    method: Literal["lora", "full"] = "lora"
    """`lora` trains an adapter and the separator rows, `full` the whole decoder."""
    lora_rank: int = 16
    """Inner width of the adapter's matrices."""
    lora_alpha: float = 32.0
    """The adapter's output is scaled by alpha / rank."""
    lora_dropout: float = 0.0
    """Dropout on the adapter's input."""
    lora_targets: str = "attention"
    """`attention`, `all` (with the feed-forward layers), or a regular expression over module names."""

    num_examples: int | tuple[int, ...] = (0, 1, 2, 3)
    """Examples per episode: one number, or a list that each episode draws from by (seed, step, key)."""
    separator: Literal["learned"] = "learned"
    """What stands between segments: a column with a row of its own in every codebook's embedding."""
    text_placement: Literal["cross"] = "cross"
    """Captions are read through cross-attention."""
    cross_attention: Literal["block"] = "block"
    """Columns of a segment see the text of that segment alone."""
    loss_on: LossOn = "target"
    """Codes that count: the target's, or the examples' too."""
    null_share: float = 0.0
    """Share of episodes without examples and text: the branch that guidance subtracts."""
    max_text_tokens: int = 128
    """Prompts are cut after this many tokens."""
    max_example_frames: int = 480
    """Examples are cut after this many codec frames."""
    max_target_frames: int = 500
    """Targets are cut after this many codec frames."""
    max_total_columns: int = 3000
    """Codes, flush and separators; the farthest examples are dropped until an episode fits."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bfloat16 autocast on a GPU that has it, float32 elsewhere. Weights stay float32."""
    threads: int = 1
    """Threads of torch on the CPU. More of them can change last bits, and are slower on busy cores."""
    validate_every_steps: int = 0
    """Steps between validation losses, 0 for one at the end only."""
    validation_batches: int = 16
    """Batches of validation shards that are read each time, always the same ones."""
    log_every_steps: int = 10
    """Steps between lines of the log."""
    checkpoint_every_steps: int = 100
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Newest checkpoints that stay on disk."""

    def __post_init__(self) -> None:
        positive = ("steps", "batch_size", "accumulate", "learning_rate", "max_grad_norm", "max_bad_steps")
        positive += ("lora_rank", "max_text_tokens", "max_example_frames", "max_target_frames", "threads")
        positive += ("log_every_steps", "checkpoint_every_steps", "keep_checkpoints", "validation_batches")
        _check("train", self, above_zero=positive, shares=("null_share", "lora_dropout"))
        counts = [self.num_examples] if isinstance(self.num_examples, int) else list(self.num_examples)
        if not counts or min(counts) < 0:
            raise ParamsError(f"train.num_examples: needs a number from 0 on, or a list of them, not {counts}")
        if self.max_target_frames + FLUSH_COLUMNS > self.max_total_columns:
            raise ParamsError(
                f"train.max_target_frames ({self.max_target_frames}) and {FLUSH_COLUMNS} columns of flush "
                f"do not fit train.max_total_columns ({self.max_total_columns}); lower the one or raise the other"
            )
        try:
            re.compile(self.lora_pattern)
        except re.error as error:
            raise ParamsError(f"train.lora_targets: not a regular expression ({error})") from None

    @property
    def budget(self) -> Budget:
        """Limits of an episode."""
        return Budget(self.max_example_frames, self.max_target_frames, self.max_total_columns)

    @property
    def lora_pattern(self) -> str:
        """Regular expression over the names of the modules that get an adapter."""
        return LORA_TARGETS.get(self.lora_targets, self.lora_targets)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateParams:
    """Section `generate` of params.yaml."""

    seed: int = 0
    """Sampling draws from (seed, key)."""
    num_examples: int = 3
    """Examples before each target; the nearest ones of the packed sample."""
    max_frames: int = 500
    """Codec frames to generate at most; where the real target is shorter, as many as it has."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest code."""
    top_k: int = 250
    """Codes to sample from, 0 for all. MusicGen's default."""
    guidance_scale: float = 1.0
    """1 is no guidance; above it, logits move away from the null branch, which train.null_share trains."""
    threads: int = 1
    """Threads of torch on the CPU."""

    def __post_init__(self) -> None:
        _check(
            "generate", self, above_zero=("max_frames", "threads"), from_zero=("num_examples", "temperature", "top_k")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateParams:
    """Section `evaluate` of params.yaml."""

    seed: int = 0
    """Of the bootstrap and of the shuffled captions."""
    num_examples: int = 3
    """Examples in the context, the nearest ones of the packed sample."""
    batch_size: int = 8
    """Episodes per forward pass."""
    bootstrap_draws: int = 2000
    """Resamples behind a 95 % interval."""
    threads: int = 1
    """Threads of torch on the CPU."""

    def __post_init__(self) -> None:
        _check("evaluate", self, above_zero=("batch_size", "bootstrap_draws", "threads"), from_zero=("num_examples",))


def _check(
    name: str,
    params: object,
    *,
    above_zero: Sequence[str],
    from_zero: Sequence[str] = (),
    shares: Sequence[str] = (),
) -> None:
    for field in above_zero:
        if getattr(params, field) <= 0:
            raise ParamsError(f"{name}.{field}: must be above 0, not {getattr(params, field)}")
    for field in from_zero:
        if getattr(params, field) < 0:
            raise ParamsError(f"{name}.{field}: must be at least 0, not {getattr(params, field)}")
    for field in shares:
        if not 0 <= getattr(params, field) < 1:
            raise ParamsError(f"{name}.{field}: must be at least 0 and below 1, not {getattr(params, field)}")


def most_examples(params: TrainParams) -> int:
    """The most examples that training may show."""
    return params.num_examples if isinstance(params.num_examples, int) else max(params.num_examples)
