"""A plain training script for MusicGen, as one writes it on transformers and peft: what ours is measured against.

It reads recordings, encodes them with EnCodec in the loop, lays the codes out in the delay pattern, and trains a LoRA
adapter through `MusicgenForConditionalGeneration`'s own loss. To learn from the same batches as ours it joins the clips
of an episode to one recording and their prompts to one text, and counts the target's codes alone.

In its favour: recordings of equal length are encoded together; the adapter is the same as ours and no larger;
recordings lie at the codec's rate and are not resampled. It has no loader workers, as transformers' Trainer by default.
A script that encodes all recordings beforehand (musicgen-dreamboothing does) does not pay for what is measured here.

    python -m tests.bench.hf_baseline --model FOLDER --rows rows.json --steps 10
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoTokenizer, MusicgenForConditionalGeneration

from tests.bench.training import FRAME_SAMPLES, Row

TARGETS = r"decoder\..*\.(self_attn|encoder_attn)\.(q_proj|k_proj|v_proj|out_proj)"
MAX_TOKENS = 512
IGNORED = -100


@dataclass
class Clock:
    """Seconds by what they were spent on: of the CPU, or by the clock where a card does the work."""

    device: str
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def __call__(self, part: str) -> Generator[None]:
        """Count what happens inside to a part."""
        start = self._now()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + self._now() - start

    def _now(self) -> float:
        if not self.device.startswith("cuda"):
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    @property
    def total_s(self) -> float:
        """Of all parts."""
        return sum(self.seconds.values())


class Baseline:
    """The model with its adapter and optimiser.

    Args:
        network: transformers' MusicGen, codec included.
        tokenizer: of its text encoder.
        device: torch device.
        bf16: whether matrix products run in bfloat16, as under Trainer's `bf16=True`.
        gradient_checkpointing: as Trainer's.
    """

    def __init__(
        self, network: Any, tokenizer: Any, *, device: str, bf16: bool = False, gradient_checkpointing: bool = False
    ) -> None:
        network.freeze_text_encoder()
        network.freeze_audio_encoder()
        if gradient_checkpointing:
            network.decoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        config = LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS)
        self.model: Any = get_peft_model(network, config).to(device)
        self.tokenizer, self.device, self.bf16 = tokenizer, device, bf16
        self.trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimiser = torch.optim.AdamW(self.trained, lr=1e-4)
        self.pad = network.config.decoder.pad_token_id

    def step(self, rows: Sequence[Row], clock: Clock) -> float:
        """Train on a batch; returns the loss."""
        self.model.train()
        with clock("read audio"):
            waves = [[soundfile.read(file, dtype="float32")[0] for file in row.files] for row in rows]
            tokens = self.tokenizer([row.text for row in rows], padding=True, max_length=MAX_TOKENS, truncation=True,
                                    return_tensors="pt").to(self.device)  # fmt: skip
        autocast = torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=self.bf16)
        with clock("encode audio"), autocast:
            codes = self._encode([np.concatenate(clips) for clips in waves])
        with clock("forward and backward"), autocast:
            num_target_frames = [len(clips[-1]) // FRAME_SAMPLES for clips in waves]
            inputs_BKS, labels_BSK = lay_out(codes, num_target_frames, pad=self.pad)
            loss = self.model(
                input_ids=tokens.input_ids,
                attention_mask=tokens.attention_mask,
                decoder_input_ids=inputs_BKS.flatten(0, 1),
                labels=labels_BSK,
            ).loss
        with clock("forward and backward"):
            loss.backward()
        with clock("optimiser"):
            nn.utils.clip_grad_norm_(self.trained, 1.0)
            self.optimiser.step()
            self.optimiser.zero_grad()
            return loss.item()

    @torch.no_grad()
    def _encode(self, waves_N: Sequence[np.ndarray]) -> list[Tensor]:
        codec = self.model.get_base_model().audio_encoder
        if len({len(wave) for wave in waves_N}) == 1:
            wave_B1N = torch.from_numpy(np.stack(waves_N))[:, None].to(self.device)
            return list(codec.encode(wave_B1N).audio_codes[0])
        # Padding changes codes: recordings of different lengths go one by one.
        return [codec.encode(torch.from_numpy(w)[None, None].to(self.device)).audio_codes[0, 0] for w in waves_N]


def lay_out(codes_KT: Sequence[Tensor], num_target_frames: Sequence[int], *, pad: int) -> tuple[Tensor, Tensor]:
    """Delay codes, and pad them to the longest.

    Returns:
        Inputs [B, K, S], and labels [B, S, K] with the target's codes alone.
    """
    num_codebooks, longest = codes_KT[0].shape[0], max(codes.shape[1] for codes in codes_KT)
    shape, device = (len(codes_KT), num_codebooks, longest + num_codebooks), codes_KT[0].device
    columns = torch.full(shape, pad, device=device)
    labels = torch.full(shape, IGNORED, device=device)
    for b, (codes, kept) in enumerate(zip(codes_KT, num_target_frames, strict=True)):
        for k in range(num_codebooks):
            end = 1 + k + codes.shape[1]
            columns[b, k, 1 + k : end] = codes[k]
            labels[b, k, end - kept : end] = codes[k, -kept:]
    return columns[:, :, :-1], labels[:, :, 1:].transpose(1, 2)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.hf_baseline")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True, help="JSON: per episode its files and its text")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=2)
    args = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = [Row(files, text) for files, text in json.loads(args.rows.read_text("utf-8"))]
    network = MusicgenForConditionalGeneration.from_pretrained(args.model)
    baseline, clock = Baseline(network, AutoTokenizer.from_pretrained(args.model), device=device), Clock(device)
    for step in range(args.steps):
        batch = [rows[(step * args.batch + b) % len(rows)] for b in range(args.batch)]
        print(f"step {step}: loss {baseline.step(batch, clock):.4f}", flush=True)
    print({part: round(seconds / args.steps, 3) for part, seconds in clock.seconds.items()})


if __name__ == "__main__":
    main()
