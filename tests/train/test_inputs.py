"""What generate and evaluate start from."""

from __future__ import annotations

import pytest

from pipeline.errors import ContractError
from train.inputs import read_run


@pytest.mark.parametrize("settings", [None, "made_by: train.generate\n", "made_by: train.run\ntrain: {}\nbase: x\n"])
def test_a_run_that_is_not_there_or_no_training_is_asked_for(tmp_path, settings):
    folder = tmp_path / "semantic"
    folder.mkdir()
    if settings:
        (folder / "config.yaml").write_text(settings)
    with pytest.raises(ContractError, match=r"no finished run; `python -m train\.run --name semantic`"):
        read_run(folder)
