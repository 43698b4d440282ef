"""Sections `train`, `generate` and `evaluate` of params.yaml."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import ParamsError
from pipeline.music.sequence import Budget, Format, LossOn, Representation, Separator, TextPlacement
from train.variants import refuse_nonsense

Tracking = Literal["none", "tensorboard", "wandb"]
END_OF_SEEDS = 2**63
"""numpy takes no seed below zero, torch none from here on."""
LORA_TARGETS = {
    "attention": r"decoder\..*\.(self_attn|encoder_attn)\.(q_proj|k_proj|v_proj|out_proj)",
    "all": r"decoder\..*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)",
}


NO_EFFECT = ("checkpoint_every_steps", "keep_checkpoints", "loader_workers", "preflight", "tracking")
"""Settings of `train` that cannot change a result: neither its fingerprint nor its card holds them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainParams:
    """Section `train` of params.yaml."""

    seed: int = 0
    """Fixes the order of samples, all that is drawn of an episode, dropout and the adapter's first weights."""
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
    order: Literal["nearest_last", "nearest_first", "shuffled"] = "nearest_last"
    """Order of the examples; `shuffled` draws by (seed, step, key)."""
    separator: Separator = "learned"
    """What stands between segments: nothing (`none`), a column of pads (`pad`), a column with a row of its own in
    every codebook's embedding (`learned`), or one made from the text encoder's states of a few words (`text`)."""
    text_placement: TextPlacement = "cross"
    """Captions are read through cross-attention, or `inline`: their states, projected, are columns before their
    segment, and cross-attention is not used."""
    cross_attention: Literal["block", "full"] = "block"
    """`block`: columns of a segment see the text of that segment alone. `full`: all columns see all texts."""
    segment_vectors: Literal["learned", "none"] = "learned"
    """Whether `full` marks each text by a vector that tells its segment; `none` is blind to order, a control."""
    representation: Representation = "codes"
    """How examples are shown beside their captions: `codes`, `clap` (their CLAP audio vectors, projected to encoder
    states), `both`, or `text` (not at all: the baseline that any claim must beat)."""
    example_codebooks: int | None = None
    """Codebooks of the examples that are shown, the first ones, the rest filled with the pad id; null shows all."""
    clap_dim: int = 512
    """Width of the CLAP vectors in the shards."""
    clap_states: int = 4
    """Encoder states that a CLAP vector is projected to."""
    caption: Literal["packed", "any"] = "packed"
    """The target's caption: the one that its examples were sought with, or any of its captions."""
    example_crop: Literal["start", "random"] = "start"
    """Which max_example_frames of a longer example are shown; for choice, pack.max_example_frames must be larger."""
    loss_on: LossOn = "target"
    """Codes that count: the target's, or the examples' too."""
    null_share: float = 0.0
    """Share of episodes without examples and text: the branch that generate.guidance_scale subtracts."""
    no_examples_share: float = 0.0
    """Share of episodes with the target's text alone: the branch that generate.examples_guidance subtracts."""
    no_text_share: float = 0.0
    """Share of episodes whose target has no text, after all its examples: that of generate.text_guidance."""
    bucket_batches: int = 1
    """Batches whose episodes are dealt out by length, so that less is padded; 1 keeps the drawn order."""
    max_batch_columns: int = 0
    """Columns of one forward pass, padding counted; a batch with more is run in parts. 0: no limit."""
    max_text_tokens: int = 128
    """Prompts are cut after this many tokens."""
    max_example_frames: int = 480
    """Examples are cut after this many codec frames."""
    max_target_frames: int = 500
    """Targets are cut after this many codec frames."""
    max_total_columns: int = 3000
    """Codes, flush, separators and room for inline text; the farthest examples go until an episode fits."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of matrix products. `auto`: bfloat16 on a GPU that has it, else float16 with a scaler; float32 on the CPU."""
    base_weights: Literal["fp32", "bf16", "nf4"] = "fp32"
    """How the frozen weights are kept: nf4 is QLoRA's 4 bits (bitsandbytes). What is trained stays float32."""
    optimiser: Literal["adamw", "adamw8bit", "adafactor"] = "adamw"
    """adamw8bit keeps its moments in 8 bits (bitsandbytes), adafactor as sums over rows and columns."""
    gradient_checkpointing: bool = False
    """Layers are computed again in the backward pass: a third slower, and memory no longer grows with their number."""
    threads: int = 1
    """Threads of torch on the CPU. More of them can change last bits, and are slower on busy cores."""
    validate_every_steps: int = 0
    """Steps between validation losses, 0 for one at the end only."""
    validation_batches: int = 0
    """Batches of validation shards that are read each time, always the first ones; 0 for all: an exact epoch."""
    log_every_steps: int = 10
    """Steps between lines of the log."""
    checkpoint_every_steps: int = 100
    """Steps between checkpoints."""
    preflight: bool = True
    """Before the first step: is there memory for the plan, and does one step at the longest sequence work?"""
    keep_checkpoints: int = 2
    """Newest checkpoints that stay on disk."""
    stream_mode: Literal["exact", "resampled"] = "exact"
    """Of shards that stream (pipe:, s3://): epochs that hold every sample once, or shards drawn without end."""
    num_samples: int = 0
    """Validation prompts that codes are generated for at every validation; `train.generate --codes` renders them."""
    tracking: Tracking | tuple[Tracking, ...] = "none"
    """Who draws curves while it runs: `tensorboard`, `wandb` (offline by WANDB_MODE=offline), a list, or `none`."""
    compile: bool = False
    """The decoder's layers run compiled, one compiled form for all of them and all lengths; needs a C++ compiler."""
    loader_workers: int = 0
    """Threads that make batches ahead of the step; 0 makes each when its step begins. No result depends on them."""
    publish: Literal["last", "best"] = "last"
    """Which weights become the run's result: those of the last step, or of the lowest validation loss."""

    def __post_init__(self) -> None:
        positive = ("steps", "batch_size", "accumulate", "learning_rate", "max_grad_norm", "max_bad_steps")
        positive += ("lora_rank", "lora_alpha", "max_text_tokens", "max_example_frames", "max_target_frames", "threads")
        positive += ("log_every_steps", "checkpoint_every_steps", "keep_checkpoints")
        positive += ("clap_dim", "clap_states", "bucket_batches")
        shares = ("null_share", "no_examples_share", "no_text_share", "lora_dropout")
        from_zero = ("max_batch_columns", "loader_workers", "num_samples", "validation_batches")
        from_zero += ("warmup_steps", "weight_decay", "validate_every_steps")
        _check("train", self, above_zero=positive, from_zero=from_zero, shares=shares)
        counts = self.example_counts
        if not counts or min(counts) < 0:
            raise ParamsError(f"train.num_examples: needs a number from 0 on, or a list of them, not {list(counts)}")
        if self.publish == "best" and not 0 < self.validate_every_steps < self.steps:
            raise ParamsError(
                f"train.publish best: with train.validate_every_steps {self.validate_every_steps} and train.steps "
                f"{self.steps} the last step alone is validated; validate more often, or publish the last"
            )
        refuse_nonsense(self)
        if self.base_weights != "fp32" and self.method == "full":
            raise ParamsError(f"train.base_weights {self.base_weights}: only frozen weights can be kept so; use lora")
        if self.base_weights != "fp32" and self.precision == "fp32":
            raise ParamsError(f"train.base_weights {self.base_weights} needs train.precision bf16 or fp16")
        try:
            re.compile(self.lora_pattern)
        except re.error as error:
            raise ParamsError(f"train.lora_targets: not a regular expression ({error})") from None

    @property
    def trackers(self) -> tuple[Tracking, ...]:
        """Who draws curves."""
        named = (self.tracking,) if isinstance(self.tracking, str) else self.tracking
        return tuple(name for name in named if name != "none")

    @property
    def budget(self) -> Budget:
        """Limits of an episode."""
        return Budget(self.max_example_frames, self.max_target_frames, self.max_total_columns)

    def validated(self, num_samples: int) -> int:
        """Validation episodes that are read of so many."""
        return min(num_samples, self.validation_batches * self.batch_size) if self.validation_batches else num_samples

    @property
    def example_counts(self) -> tuple[int, ...]:
        """The numbers of examples that an episode's is drawn from."""
        return (self.num_examples,) if isinstance(self.num_examples, int) else tuple(self.num_examples)

    @property
    def most_examples(self) -> int:
        """The most examples that training may show."""
        return max(self.example_counts)

    @property
    def trains_separator(self) -> bool:
        """Whether a row for the separator is learned, which is of no use where none is ever shown."""
        return self.separator == "learned" and self.form.has_separators and self.most_examples > 0

    @property
    def own_parts(self) -> list[str]:
        """Parts of the format that only Setlist's model has: peft and audiocraft would leave them out silently."""
        parts = {
            "captions inline": self.text_placement == "inline",
            "a separator of text": self.separator == "text",
            "CLAP states": self.form.shows_clap,
            "segment vectors": self.cross_attention == "full" and self.segment_vectors == "learned",
        }
        return [name for name, is_there in parts.items() if is_there]

    @property
    def form(self) -> Format:
        """How an episode is laid out; before a segment with inline text, room for the longest prompt is kept."""
        inline = self.text_placement == "inline"
        form = Format(self.separator, self.representation, self.text_placement, self.example_codebooks)
        clap = self.clap_states if form.shows_clap else 0
        return form._replace(state_columns=self.max_text_tokens + clap if inline else 0)

    @property
    def lora_pattern(self) -> str:
        """Regular expression over the names of the modules that get an adapter."""
        pattern = LORA_TARGETS.get(self.lora_targets, self.lora_targets)
        # Inline text leaves cross-attention unused: an adapter there would never get a gradient.
        return rf"(?!.*encoder_attn)(?:{pattern})" if self.text_placement == "inline" else pattern


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
    examples_guidance: float = 0.0
    """Above 0, logits also move away from those without examples, which train.no_examples_share trains."""
    text_guidance: float = 0.0
    """Above 0, logits also move away from those without the target's text, which train.no_text_share trains."""
    threads: int = 1
    """Threads of torch on the CPU."""

    def __post_init__(self) -> None:
        from_zero = ("num_examples", "temperature", "top_k", "guidance_scale", "examples_guidance", "text_guidance")
        _check("generate", self, above_zero=("max_frames", "threads"), from_zero=from_zero)


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
    seed = getattr(params, "seed", 0)
    if not 0 <= seed < END_OF_SEEDS:
        raise ParamsError(f"{name}.seed: must be at least 0 and below 2**63, not {seed}")
    for field in shares:
        if not 0 <= getattr(params, field) < 1:
            raise ParamsError(f"{name}.{field}: must be at least 0 and below 1, not {getattr(params, field)}")
