"""The import rules of the design, read from the source; and what starting a command really loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

HEAVY = [
    *("audiocraft", "av", "encodec", "faiss", "laion_clap", "librosa", "matplotlib", "music21", "peft", "pyloudnorm"),
    *("scipy", "soundfile", "soxr", "torch", "torchaudio", "transformers", "webdataset", "whisper"),
    *("ctranslate2", "demucs", "faster_whisper", "huggingface_hub", "onnxruntime", "pyopenjtalk", "silero_vad"),
    *("sudachipy", "tokenizers", "yt_dlp"),
]
COMMANDS = sorted(
    f"{folder}.{path.stem}"
    for folder, names in (("stages", "*.py"), ("train", "*.py"))
    for path in (REPOSITORY / folder).glob(names)
    if '__name__ == "__main__"' in path.read_text()
)
BELOW_MUSIC = {"pipeline.errors", "pipeline.data", "pipeline.music", "pipeline.lyrics", "pipeline.scoring"}
# May import: the named packages, and themselves.
ALLOWED = {
    "pipeline.data": {"pipeline.errors"},
    "pipeline.engine": {"pipeline.errors", "pipeline.data"},
    "pipeline.music": BELOW_MUSIC,
    "pipeline.lyrics": BELOW_MUSIC,
    "pipeline.scoring": BELOW_MUSIC,
    "pipeline.retrieval": BELOW_MUSIC,
    "pipeline.sources": BELOW_MUSIC | {"pipeline.engine.params"},
    "pipeline.models": BELOW_MUSIC,
    "pipeline.fetching": BELOW_MUSIC | {"pipeline.engine.progress"},
}


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def sources(folder: str) -> list[Path]:
    paths = sorted((REPOSITORY / folder).rglob("*.py"))
    assert paths
    return paths


@pytest.mark.parametrize(
    ("folder", "banned"),
    [
        ("pipeline", ("stages", "train", "dvc", "tests")),
        ("stages", ("train", "dvc", "tests")),
        ("train", ("stages", "dvc", "tests")),
    ],
)
def test_imports_point_up(folder: str, banned: tuple[str, ...]):
    for path in sources(folder):
        assert [name for name in imports_of(path) if name.split(".")[0] in banned] == [], path


def test_no_stage_imports_another():
    for path in sources("stages"):
        if path.name != "__init__.py":
            others = [
                name for name in imports_of(path) if name.startswith("stages.") and f"stages.{path.stem}." not in name
            ]
            assert others == [], path


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_each_package_knows_only_what_lies_below_it(package: str):
    allowed = (*ALLOWED[package], package)
    for path in sources(package.replace(".", "/")):
        own = [name for name in imports_of(path) if name.startswith("pipeline.")]
        assert [name for name in own if not any(name == a or name.startswith(f"{a}.") for a in allowed)] == [], path


def test_init_files_are_empty():
    for folder in ("pipeline", "stages", "train"):
        assert all(not path.read_text() for path in sources(folder) if path.name == "__init__.py")


def test_no_module_is_a_drawer():
    names = {path.stem for folder in ("pipeline", "stages", "train") for path in sources(folder)}
    assert not names & {"utils", "util", "helpers", "common", "misc"}


def test_no_import_is_optional_in_silence():
    for folder in ("pipeline", "stages", "train"):
        for path in sources(folder):
            handlers = [
                node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ExceptHandler)
            ]
            # What ends by raising an error of ours, with what to install, is not silent.
            quiet = [handler for handler in handlers if not isinstance(handler.body[-1], ast.Raise)]
            caught = [ast.unparse(handler.type) for handler in quiet if handler.type]
            silent = [name for name in caught if "ImportError" in name or "ModuleNotFound" in name]
            # The command line turns a missing package into a line that names the install command.
            assert not silent or path == REPOSITORY / "pipeline/engine/cli.py", path


def test_there_are_commands():
    assert {"stages.ingest", "stages.retrieve", "stages.pack", "train.run", "train.generate"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command: str):
    code = (
        f"import sys, runpy; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module('{command}', run_name='__main__')\n"
        f"except SystemExit as end: assert not end.code, end.code\n"
        f"print('LOADED', *sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "LOADED"
    assert "usage: python -m" in ran.stdout


def test_every_command_enters_under_its_real_name():
    for command in COMMANDS:
        text = REPOSITORY.joinpath(*command.split(".")).with_suffix(".py").read_text()
        assert f'if __name__ == "__main__":\n    from {command} import main\n\n    main()' in text, command
