"""One step before the first: at the longest sequence, with a gradient for every trained weight, saved and read again.

Nothing of it stays: weights, generators and the optimiser are as before, so that a run ends with the same bytes.

Shape letters: K codebooks, T frames, N examples, D embedding.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import ContractError
from train.augment import plain_context
from train.data import Episode
from train.icl.adapter import save_adapter
from train.icl.batches import Batch, collate
from train.icl.model import IclModel
from train.loop import Position
from train.params import TrainParams
from train.planning import GB

NOISE = 0.01
"""Size of what is added to an adapter: as it begins, it says nothing, and half of it gets no gradient."""
SHORT_FRAMES = 4
NAMED = 3
"""Weights named in a message."""


def preflight(
    model: IclModel, trainable: Mapping[str, nn.Parameter], *, loss_of: Callable[[Batch], Tensor], params: TrainParams
) -> None:
    """Take one step at the longest sequence that the settings allow, and tell what it took.

    On a card the batch is as large as in training, else one episode; what runs out of memory runs out here.

    Args:
        model: the model, with its adapter.
        trainable: what will be trained, by name.
        loss_of: loss of a batch, with gradients.
        params: settings.

    Raises:
        ContractError: a weight gets no gradient or one that is not finite, or the adapter does not come back from its
            file as it was saved.
    """
    started, on_card = time.monotonic(), model.device.type == "cuda"
    batch = longest_batch(model, params, params.batch_size if on_card else 1)
    with _unchanged(model, trainable, is_disturbed=params.method == "lora"):
        peak = _take_step(model, batch, loss_of=loss_of, params=params)
        check_gradients(trainable)
        for value in trainable.values():
            value.grad = None
        if params.method == "lora":
            check_reload(model, trainable, params)
    took = f"{time.monotonic() - started:.1f} s" + (f", at most {peak / GB:.2f} GB" if on_card else "")
    comes_back = "; the adapter comes back from its file" if params.method == "lora" else ""
    print(
        f"preflight: a step of {len(batch.keys)} x {max(batch.sizes):,} columns took {took}; "
        f"{len(trainable)} weights get a gradient{comes_back}",
        file=sys.stderr,
    )


def longest_batch(model: IclModel, params: TrainParams, num_episodes: int, max_frames: int | None = None) -> Batch:
    """Random codes with as many examples, frames and words as the settings allow.

    Args:
        model: its codec, and the format.
        params: settings.
        num_episodes: episodes of the batch.
        max_frames: shorter clips.
    """
    example, target = (min(n, max_frames or n) for n in (params.max_example_frames, params.max_target_frames))
    while True:
        frames = [example] * params.most_examples + [target]
        episode = plain_context(_made_up(model, frames, params), params.most_examples, params)
        # Where the longest do not fit at all, shorter ones may be shown.
        if episode.examples_KT or example <= 1 or not params.most_examples:
            break
        example //= 2
    return collate(
        [episode] * num_episodes, codebook_size=model.codec.codebook_size, loss_on=params.loss_on, form=params.form
    )


def _made_up(model: IclModel, num_frames: Sequence[int], params: TrainParams) -> Episode:
    numbers, codec = np.random.default_rng(0), model.codec
    *examples_KT, target_KT = [
        numbers.integers(0, codec.codebook_size, (codec.num_codebooks, count), dtype=np.uint16) for count in num_frames
    ]
    text = " ".join(map(str, range(params.max_text_tokens)))
    clap_ND = numbers.normal(size=(len(examples_KT), params.clap_dim)).astype(np.float16)
    prompts: list[str | None] = [text] * len(num_frames)
    return Episode("preflight", text, target_KT, examples_KT, prompts, captions=(text,), clap_ND=clap_ND)


@contextmanager
def _unchanged(model: IclModel, trainable: Mapping[str, nn.Parameter], *, is_disturbed: bool) -> Generator[None]:
    """Put generators, and weights that are disturbed, back as they were; gradients go."""
    decoder, state = model.network.decoder.model.decoder, random.getstate()
    layerdrop, kept = decoder.layerdrop, _copies(trainable) if is_disturbed else {}
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        # A layer that is left out gets no gradient.
        decoder.layerdrop = 0.0
        _disturb([trainable[name] for name in kept])
        yield
    with torch.no_grad():
        for name, value in trainable.items():
            value.grad = None
            if name in kept:
                value.copy_(kept[name])
    decoder.layerdrop = layerdrop
    random.setstate(state)


def _copies(trainable: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in trainable.items()}


@torch.no_grad()
def _disturb(values: Sequence[nn.Parameter]) -> None:
    generator = torch.Generator().manual_seed(0)
    for value in values:
        value.add_(NOISE * torch.randn(value.shape, generator=generator).to(value.device))


def _take_step(model: IclModel, batch: Batch, *, loss_of: Callable[[Batch], Tensor], params: TrainParams) -> int:
    """Forward and backward; returns the most bytes that a card held meanwhile."""
    on_card = model.device.type == "cuda"
    if on_card:
        torch.cuda.reset_peak_memory_stats(model.device)
    model.train()
    part = batch.split(params.max_batch_columns)[0]
    loss = loss_of(part.to(model.device)) * (Position().loss_scale if model.precision == torch.float16 else 1.0)
    # Without any gradient at all torch would refuse; the check that follows names the weights.
    if loss.requires_grad:
        loss.backward()
    return torch.cuda.max_memory_allocated(model.device) if on_card else 0


def check_gradients(trainable: Mapping[str, nn.Parameter]) -> None:
    """Refuse weights that the loss does not reach.

    Raises:
        ContractError: names some of them, and the likely cause.
    """
    grads = {name: value.grad for name, value in trainable.items()}
    lost = [name for name, grad in grads.items() if grad is None or not grad.any()]
    broken = [name for name, grad in grads.items() if grad is not None and not grad.isfinite().all()]
    if lost:
        raise ContractError(
            f"no gradient reaches {_names(lost, grads)}: they are not on the way to the loss, and would never change; "
            "let train.lora_targets name modules of the decoder that this sequence uses"
        )
    if broken:
        raise ContractError(
            f"the gradient of {_names(broken, grads)} is not finite: the base model is damaged, or train.precision "
            "fp16 too narrow for it; try bf16 or fp32"
        )


def _names(some: Sequence[str], all_of_them: Mapping[str, Any]) -> str:
    more = ", ..." if len(some) > NAMED else ""
    return f"{len(some)} of {len(all_of_them)} trained weights ({', '.join(some[:NAMED])}{more})"


@torch.no_grad()
def check_reload(model: IclModel, trainable: Mapping[str, nn.Parameter], params: TrainParams) -> None:
    """Save the adapter, forget it, and read it again: weights and logits must be the same.

    Raises:
        ContractError: they are not; names weights.
    """
    from peft import set_peft_model_state_dict

    wanted, batch = _copies(trainable), longest_batch(model, params, 1, SHORT_FRAMES).to(model.device)
    said = _seeded_logits(model, batch)
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(model, Path(folder), base_label="preflight")
        for value in trainable.values():
            value.zero_()
        set_peft_model_state_dict(model.adapter, load_file(Path(folder) / "adapter_model.safetensors"))
    lost = [name for name, value in trainable.items() if not torch.equal(value.cpu(), wanted[name])]
    if lost or not torch.allclose(_seeded_logits(model, batch), said, rtol=1e-3, atol=1e-5):
        raise ContractError(
            f"the adapter does not come back from its file as it was saved: {_names(lost, trainable)} differ; "
            "what would be trained could not be used; report train.lora_targets and the peft version, or set "
            "train.preflight=false"
        )


def _seeded_logits(model: IclModel, batch: Batch) -> Tensor:
    # Not in eval mode: there bitsandbytes packs 4-bit weights anew, for inference alone.
    torch.manual_seed(0)
    return model.logits(batch)
