"""Where everything lies below the root folder (`--root`, by default the current one)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """Folders of one project."""

    root: Path

    @property
    def params_file(self) -> Path:
        """The settings, unless `--params` names another file."""
        return self.root / "params.yaml"

    @property
    def shards(self) -> Path:
        """All data that stages make."""
        return self.root / "shards"

    @property
    def work(self) -> Path:
        """Scratch and resume of the stages; DVC never looks here."""
        return self.shards / ".work"

    @property
    def runs(self) -> Path:
        """Finished trainings, generations and evaluations."""
        return self.root / "runs"

    @property
    def runs_work(self) -> Path:
        """Checkpoints and logs of trainings under way."""
        return self.runs / ".work"

    def column(self, stage: str, corpus: str) -> Path:
        """Shards that one column stage made of one corpus."""
        return self.shards / stage / corpus

    def split(self) -> Path:
        """The folder of split.json."""
        return self.shards / "split"

    def retrieve(self, strategy: str, corpus: str) -> Path:
        """Ranked examples of one corpus by one strategy."""
        return self.shards / "retrieve" / strategy / corpus

    def pack(self, strategy: str) -> Path:
        """Training shards of one strategy."""
        return self.shards / "pack" / strategy

    def run(self, name: str) -> Path:
        """Results of the training `name`."""
        return self.runs / name

    def run_work(self, name: str) -> Path:
        """Checkpoints of the training `name`."""
        return self.runs_work / name

    def work_of(self, out: Path) -> Path:
        """Scratch folder of a stage whose result is `out`."""
        return self.work / out.relative_to(self.shards)
