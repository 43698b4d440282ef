"""What generate and evaluate start from."""

from __future__ import annotations

import pytest

from pipeline.errors import ContractError, ParamsError
from tests.train import toys
from train.inputs import find_shards, read_run


@pytest.mark.parametrize("settings", [None, "made_by: train.generate\n", "made_by: train.run\ntrain: {}\nbase: x\n"])
def test_a_run_that_is_not_there_or_no_training_is_asked_for(tmp_path, settings):
    folder = tmp_path / "semantic"
    folder.mkdir()
    if settings:
        (folder / "config.yaml").write_text(settings)
    with pytest.raises(ContractError, match=r"no finished run; `python -m train\.run --name semantic`"):
        read_run(folder)


def test_a_damaged_run_is_named_with_what_to_do(tmp_path):
    (tmp_path / "config.yaml").write_text("made_by: [\n")
    with pytest.raises(
        ContractError, match=r"config\.yaml: damaged; delete .*, and run the command that made it again"
    ):
        read_run(tmp_path)


def test_a_tar_that_two_patterns_name_is_refused(tmp_path):
    toys.write_pack(tmp_path / "pack", "train", toys.random_samples(3), per_shard=1)
    with pytest.raises(ParamsError, match=r"train-000001\.tar: named twice; name every tar once"):
        find_shards(["pack", "pack/train-000001.tar"], tmp_path)
    with pytest.raises(ParamsError, match=r"cat a\.tar: named twice"):
        find_shards(["pipe:cat a.tar", "pipe:cat a.tar"], tmp_path)
    assert len(find_shards(["pack/train-{000000..000001}.tar", "pack/train-000002.tar"], tmp_path)) == 3


def test_a_pipe_without_a_command_is_refused(tmp_path):
    with pytest.raises(ParamsError, match=r"pipe: : no command after the colon"):
        find_shards(["pipe: "], tmp_path)
