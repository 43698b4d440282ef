"""Encode: how many codebooks are kept, what the stamp says, and that corpora of different stamps never mix."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.shards import ShardFile, decode_npy, load_index
from pipeline.errors import ParamsError
from stages import encode, pack
from stages.encode import EncodeParams


def run(stage, root: Path, *flags: str) -> None:
    stage.main(["--root", str(root), "--debug", *flags])


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
    assert "this codec has 1.2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_codebooks": 2, "bandwidth_kbps": 6.0}, "bandwidth_kbps and num_codebooks each say"),
        ({"num_codebooks": 1, "semantic_only": True}, "num_codebooks and semantic_only each say"),
        ({"num_codebooks": 0}, "encode.num_codebooks: 0, must be at least 1"),
        ({"batch_size": 0}, "encode.batch_size: 0, must be at least 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, said):
    with pytest.raises(ParamsError, match=said):
        EncodeParams(**settings)
