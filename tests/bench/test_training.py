"""Training: what the loader and the loop cost beside the model, and a plain script of transformers' beside ours.

CPU seconds on one thread, in turns, medians: ratios within one run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers.utils import logging

from tests.bench.hf_baseline import Baseline, Clock, lay_out
from tests.bench.training import (
    PackedShards,
    Row,
    codec_flops,
    codec_shape,
    decoder_flops,
    random_network,
    shape_config,
    write_episodes,
)
from tests.train import toys
from train.icl.adapter import make_trainable
from train.icl.batches import Batch, collate, train_batch
from train.icl.loss import mean_loss
from train.icl.model import IclModel, make_model
from train.loop import Hooks, Trainer, run_loop
from train.params import TrainParams

pytestmark = [
    pytest.mark.bench,
    pytest.mark.timeout(1800),
    # transformers' own, of peft's call.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
FRAMES = (480, 480, 480, 500)
"""Three examples and a target, as the presets cut them."""
STEP_MS = 50.0
"""A fast step on a card, batch 8 (assumed)."""
BATCH = 8
DIVISOR = 4
NUM_ROUNDS = 3
SHORT = tuple(length // DIVISOR for length in FRAMES)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    yield
    torch.set_num_threads(threads)


def cpu_ms(call: Callable[[int], Any], num_calls: int, num_rounds: int = 15) -> tuple[float, float]:
    """CPU milliseconds of a call, the least and the median of rounds; calls get numbers that go on."""
    values: list[float] = []
    for number in range(num_rounds + 1):
        start = time.process_time()
        for i in range(number * num_calls, (number + 1) * num_calls):
            call(i)
        values.append(1000 * (time.process_time() - start) / num_calls)
    return min(values[1:]), statistics.median(values[1:])


def test_the_loader_in_process_beside_a_step_of_50_ms(tmp_path: Path):
    config = shape_config("small")
    shards, _ = write_episodes(tmp_path, config, [FRAMES] * 100, audio=False)
    # A list, so that the number of examples is drawn for every episode.
    params = TrainParams(batch_size=BATCH, num_examples=(3,))
    size = codec_shape(config).codebook_size
    assert train_batch(shards, 0, params, codebook_size=size).inputs_BKS.shape == (BATCH, 4, 1955)
    least_ms, found_ms = cpu_ms(lambda i: train_batch(shards, i, params, codebook_size=size).num_codes, num_calls=20)
    print(
        f"\nloader: {least_ms:.2f} ms of CPU for a batch of {BATCH} x 1,955 columns (median of rounds {found_ms:.2f}),"
    )
    print(f"  {least_ms / STEP_MS:.1%} of a step of {STEP_MS:.0f} ms")
    # Goal: 2 %. Twice that, since CPU seconds too grow where neighbours crowd the caches.
    assert least_ms <= 2 * 0.02 * STEP_MS


def test_texts_before_the_card_can_start(tmp_path: Path):
    """Prompts are tokenised and encoded once; from then on a step only joins their states."""
    config = shape_config("small", divisor=DIVISOR)
    shards, _ = write_episodes(tmp_path, config, [FRAMES] * BATCH, audio=False)
    model = make_toy_model(config, TrainParams())
    prompts = [shards[i].prompts for i in range(BATCH)]
    start = time.process_time()
    model.text.join(prompts)
    first_ms = 1000 * (time.process_time() - start)
    joined_ms, _ = cpu_ms(lambda _: model.text.join(prompts), num_calls=20)
    print(
        f"\ntexts: {joined_ms:.2f} ms to join {4 * BATCH} prompts, {first_ms:.0f} ms when they are read the first time"
    )
    assert joined_ms < first_ms / 10


def make_toy_model(config: Any, params: TrainParams, network: Any = None) -> IclModel:
    network = random_network(config) if network is None else network
    return make_model(network, toys.tokenizer(), codec_shape(config), params=params, device="cpu")


def make_trainer(model: IclModel, params: TrainParams) -> Trainer:
    def loss_of(batch: Batch) -> torch.Tensor:
        return mean_loss(model.logits(batch), batch.labels_BKS, batch.counts_K)

    return Trainer(model, make_trainable(model, params), loss_of=loss_of, params=params)


def test_the_loop_beside_bare_forward_and_backward(tmp_path: Path):
    """A step of a tenth of a second, so that a millisecond shows."""
    config = shape_config("small", divisor=16)
    config.decoder.num_hidden_layers = 4
    shards, _ = write_episodes(tmp_path, config, [(100, 100)] * BATCH, audio=False)
    steps, rounds = 20, 5
    params = TrainParams(steps=steps, batch_size=BATCH, num_examples=1, log_every_steps=10, checkpoint_every_steps=1000)
    model = make_toy_model(config, params)
    batch = collate([shards[i] for i in range(BATCH)], codebook_size=codec_shape(config).codebook_size)
    trainer = make_trainer(model, params)
    hooks = Hooks(batch=lambda _: batch, validate=dict, save=lambda: None)
    bare = torch.optim.AdamW(trainer.trainable.values(), lr=1e-4)

    def run_ours() -> None:
        trainer.position.step = 0
        run_loop(trainer, hooks, tmp_path / "log.jsonl")

    def run_bare() -> None:
        for _ in range(steps):
            bare.zero_grad(set_to_none=True)
            loss = mean_loss(model.logits(batch), batch.labels_BKS)
            loss.backward()
            nn.utils.clip_grad_norm_(list(trainer.trainable.values()), 1.0)
            bare.step()

    model.train()
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in range(rounds + 1):
        for name, run in (("ours", run_ours), ("bare", run_bare)):
            start = time.process_time()
            run()
            if number:
                seconds[name].append((time.process_time() - start) / steps)
    ours_s, bare_s = (statistics.median(seconds[name]) for name in ("ours", "bare"))
    least = min(seconds["ours"]) / min(seconds["bare"]) - 1
    print(f"\nloop: {ours_s / bare_s - 1:+.1%} over a bare step of {1000 * bare_s:.0f} ms (of the least: {least:+.1%})")
    # Goal: 3 %; the rest is noise between passes.
    assert ours_s / bare_s <= 1.10


@pytest.mark.parametrize(
    ("name", "frames", "max_batch_columns"),
    [
        ("three examples each", [SHORT] * 2, 0),
        ("none to three examples", [SHORT[n:] for n in range(4)], 2000 // DIVISOR),
    ],
)
def test_a_plain_script_that_encodes_in_the_loop(
    tmp_path: Path, name: str, frames: Sequence[Sequence[int]], max_batch_columns: int
):
    """MusicGen small, every width and length a quarter: its codec costs beside its decoder what the real one does."""
    config = shape_config("small", divisor=DIVISOR)
    params = TrainParams(batch_size=len(frames), num_examples=3, max_batch_columns=max_batch_columns)
    trainer = make_trainer(make_toy_model(config, params), params)
    baseline = Baseline(random_network(config), toys.tokenizer(), device="cpu")
    ours, theirs = Clock("cpu"), Clock("cpu")
    for number, (folder, clips) in enumerate([("warm", [(50, 50)])] + [("timed", frames)] * NUM_ROUNDS):
        shards, rows = write_episodes(tmp_path / folder, config, clips)
        step_ours(trainer, shards, number, clock=ours)
        baseline.step(rows, theirs)
        if folder == "warm":
            ours.seconds.clear()
            theirs.seconds.clear()
    ratio = theirs.total_s / ours.total_s
    print(
        f"\nplain script, {name}: {theirs.total_s / NUM_ROUNDS:.1f} CPU s a step, ours {ours.total_s / NUM_ROUNDS:.1f}"
    )
    print(f"  ours {ratio:.2f} x its steps per CPU second; {shares(theirs)}; ours: {shares(ours)}")
    # Goal: 1.8; missed without padding, since the codec is cheap beside the decoder (docs/figures.md).
    assert ratio > (1.4 if max_batch_columns else 1.0)


def test_the_small_model_has_the_proportions_of_the_real_one():
    shares = [
        codec_flops(config.audio_encoder) / decoder_flops(config.decoder, 1955 // divisor)
        for divisor in (1, DIVISOR)
        for config in [shape_config("small", divisor=divisor)]
    ]
    print(f"\noperations of the codec beside those of the decoder: {shares[0]:.1%}, small: {shares[1]:.1%}")
    assert shares[1] == pytest.approx(shares[0], rel=0.05)


def step_ours(trainer: Trainer, shards: PackedShards, i: int, *, clock: Clock) -> None:
    with clock("read codes"):
        batch = train_batch(shards, i, trainer.params, codebook_size=shards.codec.codebook_size)
    with clock("step"):
        trainer.step([batch])


def shares(clock: Clock) -> str:
    return ", ".join(f"{part} {seconds / clock.total_s:.1%}" for part, seconds in clock.seconds.items())


def test_both_learn_from_the_same_codes(tmp_path: Path):
    """Or the ratio would compare two things: the plain script's columns, labels and loss against ours, no examples."""
    config = shape_config("small", divisor=16)
    config.decoder.num_hidden_layers = 2
    config.decoder.dropout = 0.0
    shards, rows = write_episodes(tmp_path, config, [(30,)])
    network = random_network(config)
    model = make_toy_model(config, TrainParams(), random_network(config))
    baseline = Baseline(network, toys.tokenizer(), device="cpu")
    baseline.model.eval()
    codes_KT = torch.from_numpy(shards[0].target_KT.astype("int64"))
    loss = baseline_loss(baseline, rows[0], codes_KT)
    batch = collate([shards[0]], codebook_size=codec_shape(config).codebook_size)
    with torch.no_grad():
        own = float(mean_loss(model.logits(batch), batch.labels_BKS))
    assert loss == pytest.approx(own, abs=1e-5)


def baseline_loss(baseline: Baseline, row: Row, codes_KT: torch.Tensor) -> float:
    inputs_BKS, labels_BSK = lay_out([codes_KT], [codes_KT.shape[1]], pad=baseline.pad)
    tokens = baseline.tokenizer([row.text], return_tensors="pt")
    out = baseline.model(
        input_ids=tokens.input_ids,
        attention_mask=tokens.attention_mask,
        decoder_input_ids=inputs_BKS.flatten(0, 1),
        labels=labels_BSK,
    )
    return float(out.loss.detach())
