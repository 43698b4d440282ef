"""Embed: one vector per caption, the same to the bit twice, alike in bf16, and threads ahead change nothing."""

from __future__ import annotations

import importlib
import json
import threading
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.shards import Sample, decode_npz, encode_json, write_shard
from pipeline.engine.local import Task
from pipeline.errors import ContractError
from pipeline.models.places import checkpoint_stamp
from pipeline.music.audio import encode_flac
from stages import embed
from stages.embed import EmbedParams, EmbedStep
from tests.pipeline.models.test_clap import build_clap
from tests.stages.conftest import RATE_HZ, tune

CAPTIONS = ["a slow tune", "plucked strings", "something fast, and bright", "a tune"]


def clip(number: int, seconds: float = 3.0) -> Sample:
    """A clip with `number % 4 + 1` captions."""
    captions = [{"text": text, "source": "human"} for text in CAPTIONS[: number % 4 + 1]]
    members = {"json": encode_json({"captions": captions}), "flac": encode_flac(tune(number, seconds), RATE_HZ)}
    return Sample(f"library-{number:02d}", members)


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Task:
    path = tmp_path_factory.mktemp("ingest") / "000000.tar"
    write_shard(path, [clip(n, seconds) for n, seconds in enumerate([3.0, 2.0, 12.5, 3.0, 3.0])])
    return Task("000000", 5, ([path], 5))


@pytest.fixture(scope="module")
def source(checkpoints) -> str:
    return str(checkpoints / "clap")


def vectors(step: EmbedStep, task: Task) -> dict[str, dict[str, np.ndarray]]:
    return {result.key: decode_npz(result.members["clap.npz"]) for result in step(task)}


def test_every_caption_has_its_own_vector(source, task):
    step = EmbedStep(EmbedParams(batch_size=2), source, "cpu")
    found = vectors(step, task)
    assert list(found) == [f"library-{n:02d}" for n in range(5)]
    assert [len(own["text"]) for own in found.values()] == [1, 2, 3, 4, 1]
    alone_BD = np.concatenate([step.embedder.embed_text([text]) for text in CAPTIONS])
    for own in found.values():
        np.testing.assert_allclose(own["text"], alone_BD[: len(own["text"])], atol=1e-3)
        np.testing.assert_allclose(np.linalg.norm(own["text"].astype(np.float32), axis=1), 1, atol=2e-3)
    assert len(np.unique(alone_BD.round(3), axis=0)) == len(CAPTIONS)


def test_two_runs_agree_to_the_bit(source, task):
    params = EmbedParams(batch_size=2)
    first, second = (list(EmbedStep(params, source, "cpu")(task)) for _ in range(2))
    assert first == second
    assert len(first) == 5


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_ahead_change_no_byte(source, task, threads):
    params = EmbedParams(batch_size=2)
    step = EmbedStep(params, source, "cpu", threads=threads)
    seen = set()
    decode = step.audio.decode_flac

    class Audio:
        resample = staticmethod(step.audio.resample)

        @staticmethod
        def decode_flac(data):
            seen.add(threading.current_thread())
            return decode(data)

    step.audio = Audio
    assert list(step(task)) == list(EmbedStep(params, source, "cpu")(task))
    assert threading.main_thread() not in seen
    assert seen


@pytest.mark.parametrize("threads", [0, 2])
def test_a_damaged_clip_is_told_from_whichever_thread(source, tmp_path, threads):
    path = tmp_path / "000000.tar"
    broken = Sample("library-02", {**clip(2).members, "flac": b"fLaC no more"})
    write_shard(path, [clip(0), clip(1), broken, clip(3)])
    step = EmbedStep(EmbedParams(batch_size=1), source, "cpu", threads=threads)
    with pytest.raises(ContractError, match="does not decode"):
        list(step(Task("000000", 4, ([path], 4))))


def manifest(root: Path) -> dict:
    return json.loads((root / "shards/embed/library/manifest.json").read_bytes())


def test_bf16_is_told_in_the_manifest_and_makes_new_shards(copy_of_chain, tmp_path):
    build_clap(tmp_path)
    flags = ["--root", str(copy_of_chain), "--debug", "--corpus", "library", "--set", f"models.embedder={tmp_path}"]
    index = copy_of_chain / "shards/embed/library/index.json"
    embed.main(flags)
    exact, exact_index = manifest(copy_of_chain), index.read_bytes()
    embed.main([*flags, "--set", "embed.precision=bf16"])
    lowered = manifest(copy_of_chain)
    assert (exact["params"]["precision"], lowered["params"]["precision"]) == ("fp32", "bf16")
    assert lowered["models"]["precision"]["precision"] == "bf16"
    assert 0.999 <= lowered["models"]["precision"]["least_cosine"] <= 1
    # Which weights they are stays comparable with those that embed a prompt.
    assert lowered["models"]["embedder"] == exact["models"]["embedder"]
    assert lowered["models"]["embedder"] == checkpoint_stamp(str(tmp_path), str(tmp_path))
    assert index.read_bytes() != exact_index


def test_a_precision_that_is_none_is_refused(copy_of_chain, capsys):
    with pytest.raises(SystemExit) as caught:
        embed.main(["--root", str(copy_of_chain), "--corpus", "library", "--set", "embed.precision=fp8"])
    assert caught.value.code == 2
    assert "embed.precision" in capsys.readouterr().err


def test_the_batch_that_memory_allowed_is_told_beside_the_vectors(source, task):
    torch = importlib.import_module("torch")

    class OutOfMemoryAbove(torch.nn.Module):
        def __init__(self, layer, most):
            super().__init__()
            self.layer, self.most = layer, most

        def forward(self, values):
            if len(values) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
            return self.layer(values)

    params = EmbedParams(batch_size=5)
    expected = list(EmbedStep(params, source, "cpu")(task))
    step = EmbedStep(params, source, "cpu")
    projection = step.embedder._model.audio_projection
    projection.linear1 = OutOfMemoryAbove(projection.linear1, 3)
    *found, line = list(step(task))
    assert (line.file, line.value) == ("batches.jsonl", {"shard": "000000", "batch_size": 2})
    assert [sample.key for sample in found] == [sample.key for sample in expected]
    for mine, whole in zip(found, expected, strict=True):
        audio_D, whole_D = (decode_npz(sample.members["clap.npz"])["audio"] for sample in (mine, whole))
        np.testing.assert_allclose(audio_D, whole_D, atol=1e-3)
