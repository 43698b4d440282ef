from __future__ import annotations

import argparse
import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.engine.cli import build_parser, explain, read_params, run_main
from pipeline.errors import ContractError, ParamsError, TransientError
from tests.conftest import REPOSITORY


class OutOfMemoryError(RuntimeError):
    """Stands where torch's class of this name would."""


@pytest.mark.parametrize(
    ("error", "words", "exit_code"),
    [
        (ParamsError("mend the settings"), "mend the settings", 2),
        (ContractError("broken promise"), "broken promise", 1),
        (TransientError("try again"), "try again", 1),
        (KeyboardInterrupt(), "stopped by you", 130),
        (ModuleNotFoundError("No module named 'faiss'", name="faiss"), "uv pip install", 1),
        (OutOfMemoryError("CUDA out of memory"), "batch_size", 1),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "disk or your quota is full", 1),
        (RuntimeError("I/O error: File too large (os error 27)"), "disk or your quota is full", 1),
        (OSError(errno.EACCES, "Permission denied", "there"), "there: Permission denied", 1),
    ],
)
def test_an_expected_error_is_one_line(
    capsys: pytest.CaptureFixture[str], error: BaseException, words: str, exit_code: int
):
    def body(_: argparse.Namespace) -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        run_main(body, build_parser("doc", prog="toy"), [])
    assert end.value.code == exit_code
    line = capsys.readouterr().err
    assert line.startswith("toy: ")
    assert words in line
    assert line.count("\n") == 1


def test_an_unexpected_error_keeps_its_traceback():
    def body(_: argparse.Namespace) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_main(body, build_parser("doc", prog="toy"), [])
    assert explain(ModuleNotFoundError("x", name="pipeline.typo")) is None


def test_debug_shows_where(capsys: pytest.CaptureFixture[str]):
    def body(_: argparse.Namespace) -> None:
        raise ContractError("broken promise")

    with pytest.raises(SystemExit):
        run_main(body, build_parser("doc", prog="toy"), ["--debug"])
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error_to_talk_about(tmp_path: Path):
    code = (
        "from pipeline.engine.cli import build_parser, run_main\n"
        "run_main(lambda args: [print('x' * 1000) for _ in range(10000)], build_parser('doc', prog='toy'), [])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait() == 128 + signal.SIGPIPE
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()


def test_sigterm_is_answered_as_ctrl_c():
    code = (
        "import time\n"
        "from pipeline.engine.cli import build_parser, run_main\n"
        "run_main(lambda args: (print('up', flush=True), time.sleep(60)), build_parser('doc', prog='toy'), [])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.terminate()
    _, line = process.communicate(timeout=20)
    assert process.returncode == 130
    assert line.startswith("toy: stopped by you")


@pytest.mark.parametrize("limit", ["0", "-3"])
def test_a_limit_that_leaves_nothing_is_refused(capsys: pytest.CaptureFixture[str], limit: str):
    def body(args: argparse.Namespace) -> None:
        read_params(args)

    with pytest.raises(SystemExit) as end:
        run_main(body, build_parser("doc", prog="toy"), ["--limit", limit])
    assert end.value.code == 2
    assert capsys.readouterr().err == f"toy: --limit {limit}: must be at least 1\n"
