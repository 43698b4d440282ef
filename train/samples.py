"""Codes that a training generates for validation prompts as it goes on.

    runs/<name>/samples/step-000200/<key>.npy     uint16 [K, T]
    runs/<name>/samples/step-000200/<key>.json    prompt, examples' prompts, how it was sampled, codec stamp

The trainer loads no codec; `python -m train.generate --codes runs/<name>/samples` does (train/rendering.py).
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.provenance import pretty_json
from pipeline.data.shards import encode_npy
from train import checkpoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from train.data import Episode, PackedShards
    from train.icl.model import IclModel
    from train.params import TrainParams

FOLDER = "samples"


def sample_codes(model: IclModel, shards: PackedShards, work: Path | None, *, step: int) -> None:
    """Generate codes for the first `params.num_samples` prompts, with all the examples that training may show.

    What is drawn comes from (seed, key), the same at every step, so that steps can be compared by ear; no generator
    of the training is touched.

    Args:
        model: what is trained; left without dropout.
        shards: validation shards.
        work: `runs/.work/<name>/<fingerprint>`; gets `samples/step-<number>`, made whole. None writes nothing, for the
            processes that only hold a part of the model.
        step: steps done.
    """
    from train.icl.compiled import uncompiled

    params = model.params
    if params.num_samples == 0:
        return
    model.train(on=False)
    with uncompiled(params.compile):
        made = [_sample(model, shards[i], params) for i in range(min(params.num_samples, len(shards)))]
    if work is None:
        return
    with checkpoint.whole_folder(work / FOLDER / f"step-{step:06d}") as part:
        for codes_KT, told in made:
            (part / f"{told['key']}.npy").write_bytes(encode_npy(codes_KT))
            (part / f"{told['key']}.json").write_bytes(pretty_json(told))


def _sample(model: IclModel, episode: Episode, params: TrainParams) -> tuple[NDArray[np.uint16], dict[str, Any]]:
    from train.icl.decode import sample_target
    from train.params import GenerateParams

    plain = GenerateParams(seed=params.seed, num_examples=params.most_examples, max_frames=params.max_target_frames)
    codes_KT, context, sampling = sample_target(model, episode, plain)
    return codes_KT, {
        "key": episode.key,
        "prompt": context.prompts[-1],
        "examples": context.prompts[:-1],
        "num_frames": codes_KT.shape[1],
        "sampling": asdict(sampling),
        "codec": {**model.codec._asdict(), "weights_sha256": episode.codec_sha256},
    }


def publish_samples(work: Path, result: Path) -> None:
    """Copy what a training sampled into its result.

    Args:
        work: `runs/.work/<name>/<fingerprint>`.
        result: the result under way.
    """
    if (work / FOLDER).is_dir():
        shutil.copytree(work / FOLDER, result / FOLDER)
