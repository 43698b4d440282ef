"""Encode: how many codebooks are kept, in which precision, what the stamp says, and that threads change nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.records import Drop, Line
from pipeline.data.shards import Sample, ShardFile, decode_npy, encode_json, load_index, write_shard
from pipeline.engine.local import Task
from pipeline.errors import ContractError, ParamsError
from pipeline.music.audio import encode_flac
from stages import encode, pack
from stages.encode import EncodeParams, EncodeStep
from tests.pipeline.models.test_codec import limit_memory
from tests.pipeline.models.test_precision import build_crowded_codec
from tests.stages.conftest import RATE_HZ, tune

LENGTHS_S = (3.0, 1.0, 3.0, 0.01, 3.0, 2.0, 1.0, 3.0, 3.0, 2.5)


def run(stage, root: Path, *flags: str) -> None:
    stage.main(["--root", str(root), "--debug", *flags])


def settings(*values: str) -> list[str]:
    return [flag for value in values for flag in ("--set", value)]


def codes(root: Path, corpus: str = "library") -> dict[str, np.ndarray]:
    folder = root / "shards/encode" / corpus
    shards = [ShardFile(folder / entry.name) for entry in load_index(folder)]
    return {sample.key: decode_npy(sample.members["codes.npy"]) for shard in shards for sample in shard}


def stamp(root: Path, corpus: str = "library") -> dict:
    return json.loads((root / "shards/encode" / corpus / "manifest.json").read_bytes())["models"]["codec"]


def test_the_stamp_names_all_that_codes_depend_on(chain):
    found = stamp(chain)
    assert {"model", "revision", "weights_sha256", "sample_rate_hz", "num_codebooks", "codebook_size"} <= found.keys()
    assert found["versions"].keys() == {"torch", "transformers"}
    assert len(found["golden_sha256"]) == 64
    assert found == stamp(chain, "musiccaps")


@pytest.mark.parametrize(("flag", "kept"), [("encode.semantic_only=true", 1), ("encode.num_codebooks=3", 3)])
def test_fewer_codebooks_are_the_first_ones(chain, copy_of_chain, flag, kept):
    run(encode, copy_of_chain, "--corpus", "library", "--set", flag)
    before, after = codes(chain), codes(copy_of_chain)
    assert before.keys() == after.keys()
    for key, codes_KT in after.items():
        assert len(codes_KT) == kept < len(before[key])
        np.testing.assert_array_equal(codes_KT, before[key][:kept])
    assert stamp(copy_of_chain)["num_codebooks"] == kept
    assert stamp(copy_of_chain)["golden_sha256"] != stamp(chain)["golden_sha256"]


def test_pack_refuses_to_mix_corpora_of_different_stamps(copy_of_chain, capsys):
    run(encode, copy_of_chain, "--corpus", "library", "--set", "encode.semantic_only=true")
    with pytest.raises(SystemExit) as caught:
        pack.main(["--root", str(copy_of_chain), "--strategy", "random"])
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert "shards/encode/" in said
    assert "models" in said


def test_a_bit_rate_that_the_codec_has_not_is_refused(copy_of_chain, capsys):
    with pytest.raises(SystemExit) as caught:
        encode.main(["--root", str(copy_of_chain), "--corpus", "library", "--set", "encode.bandwidth_kbps=24"])
    assert caught.value.code == 2
    assert "bandwidth_kbps is 24; this codec has 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_codebooks": 2, "bandwidth_kbps": 6.0}, "bandwidth_kbps and num_codebooks each say"),
        ({"num_codebooks": 1, "semantic_only": True}, "num_codebooks and semantic_only each say"),
        ({"num_codebooks": 0}, "encode.num_codebooks: 0, must be at least 1"),
        ({"batch_size": 0}, "encode.batch_size: 0, must be at least 1"),
        ({"min_agreement": 1.1}, "encode.min_agreement: 1.1, must be at most 1"),
        ({"min_agreement": -0.1}, "encode.min_agreement: -0.1, must be at least 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, said):
    with pytest.raises(ParamsError, match=said):
        EncodeParams(**settings)


def clip(number: int, seconds: float) -> Sample:
    members = {"json": encode_json({}), "flac": encode_flac(tune(number, 3.0)[: round(seconds * RATE_HZ)], RATE_HZ)}
    return Sample(f"library-{number:02d}", members)


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Task:
    path = tmp_path_factory.mktemp("ingest") / "000000.tar"
    write_shard(path, [clip(number, seconds) for number, seconds in enumerate(LENGTHS_S)])
    return Task("000000", len(LENGTHS_S), ([path], len(LENGTHS_S)))


@pytest.fixture(scope="module")
def source(checkpoints) -> str:
    return str(checkpoints / "encodec")


@pytest.fixture(scope="module")
def one_by_one(source, task) -> list:
    return list(EncodeStep(EncodeParams(batch_size=1), source, "cpu")(task))


@pytest.mark.parametrize(("threads", "batch_size"), [(0, 3), (1, 3), (3, 1), (3, 3), (3, 64)])
def test_batches_and_threads_ahead_change_no_byte(source, task, one_by_one, threads, batch_size):
    found = list(EncodeStep(EncodeParams(batch_size=batch_size), source, "cpu", threads=threads)(task))
    assert found == one_by_one
    # In the shard's order, although clips of one length were encoded together.
    names = [result.item if isinstance(result, Drop) else result.key for result in found]
    assert names == [f"library-{number:02d}" for number in range(len(LENGTHS_S))]
    assert [isinstance(result, Drop) for result in found] == [seconds < 0.02 for seconds in LENGTHS_S]


def test_the_batch_that_memory_allowed_is_told_beside_the_codes(source, task, one_by_one):
    step = EncodeStep(EncodeParams(batch_size=4), source, "cpu")
    limit_memory(step.codec, 2)
    *found, line = list(step(task))
    assert found == one_by_one
    assert line == Line("batches.jsonl", {"shard": "000000", "batch_size": 2})


@pytest.mark.parametrize("threads", [0, 2])
def test_a_damaged_clip_is_told_from_whichever_thread(source, tmp_path, threads):
    path = tmp_path / "000000.tar"
    broken = Sample("library-02", {"json": b"{}", "flac": b"fLaC no more"})
    write_shard(path, [clip(0, 1.0), clip(1, 2.0), broken, clip(3, 1.0)])
    step = EncodeStep(EncodeParams(batch_size=1), source, "cpu", threads=threads)
    with pytest.raises(ContractError, match="does not decode"):
        list(step(Task("000000", 4, ([path], 4))))


def test_bf16_is_told_in_the_stamp_with_its_agreement(chain, copy_of_chain):
    run(encode, copy_of_chain, "--corpus", "library", *settings("encode.precision=bf16", "encode.min_agreement=0.5"))
    exact, lowered = stamp(chain), stamp(copy_of_chain)
    assert (exact["precision"], lowered["precision"]) == ("fp32", "bf16")
    assert len(lowered["agreement"]) == lowered["num_codebooks"]
    assert min(lowered["agreement"]) >= 0.5
    before, after = codes(chain), codes(copy_of_chain)
    assert before.keys() == after.keys()
    assert all(after[key].shape == codes_KT.shape for key, codes_KT in before.items())
    with pytest.raises(SystemExit):
        pack.main(["--root", str(copy_of_chain), "--strategy", "random"])  # never mixes with musiccaps in fp32


def test_bf16_that_changes_codes_is_refused_before_anything_is_written(copy_of_chain, tmp_path, capsys):
    build_crowded_codec(tmp_path)
    before = (copy_of_chain / "shards/encode/library/manifest.json").read_bytes()
    flags = settings(f"models.codec={tmp_path}", "encode.precision=bf16")
    with pytest.raises(SystemExit) as caught:
        encode.main(["--root", str(copy_of_chain), "--corpus", "library", *flags])
    assert caught.value.code == 2
    assert "set encode.precision to fp32" in capsys.readouterr().err
    assert (copy_of_chain / "shards/encode/library/manifest.json").read_bytes() == before
