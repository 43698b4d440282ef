"""Whether two networks say the same: an adapter's model, the one it was merged into, and what a converter made of it.

All of them read one episode of random codes with examples, and one without.

Shape letters: K codebooks, T frames, S columns, L text tokens, N examples, D embedding.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer

from pipeline.errors import ContractError
from pipeline.models.audiocraft_logits import logits_of_audiocraft
from pipeline.models.convert_musicgen import LM_FILE, musicgen_to_transformers
from pipeline.music.sequence import IGNORED_LABEL
from train.augment import nearest_examples, plain_context
from train.data import Episode
from train.icl.adapter import load_adapter, load_trained, merge_adapter, save_full
from train.icl.batches import collate
from train.icl.decode import Sampling, generate_codes
from train.icl.model import PARTS_FILE, IclModel, load_model, load_network
from train.inputs import Run
from train.params import TrainParams

NUM_FRAMES = 25
NUM_EXAMPLES = 2
PROMPTS = ("a slow sad piano", "fast drums and a bright trumpet", "a choir that sings without words")
AS_IT_IS = "nothing is written; use the adapter as it is"
TOLERANCE = 1e-4
"""Logits of merged weights may differ by so much in float32: the sums are the same, in another order."""


class Heard(NamedTuple):
    """What a model makes of the episodes."""

    logits: list[Tensor]
    """[K, S, V] with examples, and without."""
    codes: list[NDArray[np.uint16]]
    """Greedy codes [K, T] after the same."""


def probe(model: IclModel) -> list[Episode]:
    """An episode of random codes in the format of a model, with examples where it reads any, and without."""
    random, shape, params = np.random.default_rng(0), model.codec, model.params
    num_examples = min(NUM_EXAMPLES, params.most_examples)
    clips = [
        random.integers(0, shape.codebook_size, (shape.num_codebooks, NUM_FRAMES)).astype(np.uint16)
        for _ in range(num_examples + 1)
    ]
    clap_ND = random.normal(size=(num_examples, params.clap_dim))
    clap_ND /= np.linalg.norm(clap_ND, axis=1, keepdims=True)
    prompts: list[str | None] = list(PROMPTS[: num_examples + 1])
    whole = Episode(
        "probe",
        PROMPTS[num_examples],
        clips[-1],
        clips[:-1],
        prompts,
        captions=(PROMPTS[num_examples],),
        clap_ND=clap_ND.astype(np.float16),
    )
    shown = plain_context(whole, num_examples, params)
    return [shown, nearest_examples(shown, 0)]


@torch.no_grad()
def hear(model: IclModel) -> Heard:
    """Let a model read the episodes, and go on after their examples."""
    episodes, form = probe(model), model.params.form
    batches = [collate([episode], codebook_size=model.codec.codebook_size, form=form) for episode in episodes]
    logits = [model.logits(batch.to(model.device))[0].float().cpu() for batch in batches]
    greedy = Sampling(temperature=0)
    codes = [generate_codes(model, e, num_frames=e.target_KT.shape[1], sampling=greedy) for e in episodes]
    return Heard(logits, codes)


def check_equal(one: Heard, other: Heard, *, what: str) -> float:
    """Compare what two models made of the episodes.

    Args:
        one: one of them.
        other: the other one.
        what: names both, for the error.

    Returns:
        The largest difference of a logit.

    Raises:
        ContractError: a logit differs by more than `TOLERANCE`, or a greedy code at all.
    """
    largest = max(float((a - b).abs().max()) for a, b in zip(one.logits, other.logits, strict=True))
    if not largest <= TOLERANCE:
        raise ContractError(f"{what}: logits differ by {largest:.2g}, more than {TOLERANCE}; {AS_IT_IS}")
    if any(not np.array_equal(a, b) for a, b in zip(one.codes, other.codes, strict=True)):
        raise ContractError(f"{what}: greedy codes differ; {AS_IT_IS}")
    return largest


def relative_difference(one: Heard, other: Heard) -> float:
    """Root mean square of the difference of all logits, as a share of their standard deviation."""
    a, b = (torch.cat([part.flatten() for part in heard.logits]) for heard in (one, other))
    return float((a - b).square().mean().sqrt() / b.std())


def write_merged(run: Run, source: str, folder: Path) -> tuple[Heard, float]:
    """Merge a run's adapter into its base in float32, write it, and compare what was written with the adapter's model.

    Args:
        run: a run of method `lora`.
        source: its base model.
        folder: gets a whole checkpoint in transformers' format.

    Returns:
        What the merged model says, and the largest difference of a logit.

    Raises:
        ContractError: the two differ.
    """
    params = replace(run.params, base_weights="fp32", precision="fp32")
    model = load_model(source, params=params)
    load_adapter(model, run.weights)
    expected = hear(model)
    merge_adapter(model)
    save_full(model, folder, source=source)
    del model
    merged = hear(load_model(str(folder), params=params))
    return merged, check_equal(merged, expected, what="merged weights and the adapter on its base")


def hear_as_trained(run: Run, source: str) -> Heard:
    """What the run's model says on the base as it was kept in training, in 4 bits or in bfloat16."""
    return hear(load_trained(run, source))


@torch.no_grad()
def compare_with_audiocraft(merged: Path, converted: Path, params: TrainParams) -> float:
    """Let audiocraft read the converted weights and compare its logits, without examples.

    Args:
        merged: the whole checkpoint in transformers' format.
        converted: audiocraft's folder.
        params: of the run.

    Returns:
        The largest difference of a logit.

    Raises:
        ContractError: it is above `TOLERANCE`.
    """
    model = load_model(str(merged), params=replace(params, base_weights="fp32", precision="fp32"))
    episode = probe(model)[-1]
    batch = collate([episode], codebook_size=model.codec.codebook_size, form=params.form)
    ours = model.logits(batch)[0][batch.labels_BKS[0] != IGNORED_LABEL]
    states_LD = model.text.join([[episode.prompts[-1]]]).states_BLD[0].float().numpy()
    theirs = torch.from_numpy(logits_of_audiocraft(converted, episode.target_KT, states_LD))
    largest = float((ours - theirs.reshape(ours.shape)).abs().max())
    if not largest <= TOLERANCE:
        raise ContractError(
            f"audiocraft's logits of {LM_FILE} differ by {largest:.2g}, more than {TOLERANCE}; {AS_IT_IS}"
        )
    return largest


def compare_there_and_back(merged: Path, converted: Path, heard: Heard, *, params: TrainParams) -> float:
    """Convert audiocraft's files back and compare, where the package itself is not installed.

    Args:
        merged: the whole checkpoint in transformers' format.
        converted: audiocraft's folder; beside it the text encoder and the way back are written.
        heard: what the merged model says.
        params: of the run.

    Returns:
        The largest difference of a logit.
    """
    text_encoder, back = converted.with_name("text_encoder"), converted.with_name("back")
    load_network(str(merged)).text_encoder.save_pretrained(text_encoder)
    AutoTokenizer.from_pretrained(merged).save_pretrained(text_encoder)
    musicgen_to_transformers(converted, back, text_encoder=str(text_encoder))
    # The way there has no place for them.
    shutil.copyfile(merged / PARTS_FILE, back / PARTS_FILE)
    again = hear(load_model(str(back), params=replace(params, base_weights="fp32", precision="fp32")))
    return check_equal(again, heard, what=f"{LM_FILE} converted back and the merged weights")
