"""The model card of a run: what it was made from and under which licences, what it learned, how to use it.

The figures between the lines `---` at its top are what model hubs read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipeline.data.provenance import MANIFEST_NAME, file_digest
from pipeline.data.shards import ShardFile, decode_json
from train.inputs import label_digest
from train.params import NO_EFFECT, TrainParams

NOT_STATED = "not stated"
KNOWN_LICENCES = {re.compile(r"facebook/musicgen-"): "cc-by-nc-4.0"}
"""Licences of weights by the owner's word, for bases that lie here without their own card."""
TAGS = ("music", "text-to-audio", "musicgen", "in-context", "setlist")
SNIPPET = """\
import torch
from peft import PeftModel
from transformers import MusicgenForConditionalGeneration

model = MusicgenForConditionalGeneration.from_pretrained({base})
tables = model.decoder.model.decoder.embed_tokens
for k, table in enumerate(tables):  # one more row for the separator, after the pad's
    rows = torch.cat([table.weight.data, table.weight.data[-1:]])
    tables[k] = torch.nn.Embedding.from_pretrained(rows)
model = PeftModel.from_pretrained(model, "{adapter}")
"""
"""How an adapter is loaded without any code of ours; docs/train.md shows the same."""


@dataclass(frozen=True, slots=True)
class Base:
    """The base model as a card names it."""

    name: str
    """Hub id, or the name of a local folder."""
    revision: str | None
    """Commit on the hub; None for a local folder."""
    digest: str
    licence: str | None
    """As hubs spell it; None where neither its own card nor its owner is known to say."""

    @property
    def arguments(self) -> str:
        """What `from_pretrained` is called with."""
        return f'"{self.name}"' + (f', revision="{self.revision}"' if self.revision else "")


class CorpusShare(NamedTuple):
    """Clips of one kind in the training data; all but the last tell the kind."""

    split: str
    corpus: str
    licence: str
    num_samples: int


def base_of(label: str, revision: str | None, folder: Path) -> Base:
    """Describe a base model.

    Args:
        label: name and digest, as runs keep them.
        revision: commit, if it came from a hub.
        folder: where it lies; its own card is looked for there.
    """
    name = label.partition("@sha256:")[0]
    known = next((licence for pattern, licence in KNOWN_LICENCES.items() if pattern.match(name)), None)
    return Base(name, revision, label_digest(label), stated_licence(folder) or (known if revision else None))


def stated_licence(folder: Path) -> str | None:
    """The licence in the front matter of a checkpoint's own card."""
    path = folder / "README.md"
    text = path.read_text("utf-8", "replace") if path.is_file() else ""
    matter = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    try:
        said = yaml.safe_load(matter[1]) if matter else None
    except yaml.YAMLError:
        return None
    licence = said.get("license") if isinstance(said, dict) else None
    return licence if isinstance(licence, str) else None


def count_sources(splits: Mapping[str, Sequence[Path | str]], *, limit: int | None) -> list[CorpusShare]:
    """Count clips by corpus and licence, as pack wrote them into every sample; shards that stream are not read again.

    Args:
        splits: tars by split.
        limit: only the first so many samples of each split, as training reads them.
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    for split, paths in splits.items():
        seen = 0
        for path in [path for path in paths if isinstance(path, Path)]:
            shard = ShardFile(path)
            wanted = len(shard) if limit is None else max(0, min(len(shard), limit - seen))
            seen += wanted
            for i in range(wanted):
                meta = decode_json(shard[i].members["json"])
                counts[split, meta.get("corpus") or NOT_STATED, meta.get("licence") or NOT_STATED] += 1
    return [CorpusShare(*kind, num_samples) for kind, num_samples in sorted(counts.items())]


def manifest_digests(paths: Sequence[Path | str]) -> list[tuple[str, str]]:
    """The manifests beside local shards, by the names of their folders, with their SHA-256."""
    folders = sorted({path.parent for path in paths if isinstance(path, Path)})
    manifests = [folder / MANIFEST_NAME for folder in folders]
    return [(f"{path.parent.name}/{path.name}", file_digest(path)) for path in manifests if path.is_file()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """All that a card tells."""

    name: str
    params: TrainParams
    base: Base
    metrics: Mapping[str, Any]
    shards: Mapping[str, Sequence[Mapping[str, str]]]
    """Name and digest of every tar, by split."""
    sources: Sequence[CorpusShare]
    manifests: Sequence[tuple[str, str]]
    num_processes: int = 1
    """Each made its own batches."""

    def text(self) -> str:
        """The whole card."""
        parts = (front_matter(self.base, library="peft" if self.params.method == "lora" else "transformers"),)
        parts += (self._head(), self._use(), self._figures(), self._data(), self._settings())
        return "\n".join(parts)

    def _head(self) -> str:
        params = self.params
        counts = ", ".join(map(str, params.example_counts))
        return f"""\
# {self.name}

MusicGen that reads examples in its context: `{params.method}` training on packed shards.

- base model: {describe_base(self.base)}
- its licence: {licence_note(self.base)}
- examples per episode: {counts}, {params.order}; loss on: {params.loss_on}
- sequence: examples as {params.representation}, captions {params.text_placement} ({params.cross_attention}), \
separator {params.separator}
"""

    def _use(self) -> str:
        shards = "'shards/pack/STRATEGY/test-*.tar'"
        ours = f"""\
## Use

With Setlist, examples before the prompt:

    python -m train.generate --run {self.name} --shards {shards}
"""
        if self.params.method == "full":
            return f"""{ours}
`model/` is a whole checkpoint: `MusicgenForConditionalGeneration.from_pretrained("runs/{self.name}/model")`.
"""
        return f"""{ours}
As a model of its own, without an adapter:

    python -m train.merge --run {self.name} --out {self.name}-merged

{self._without_setlist()}"""

    def _without_setlist(self) -> str:
        if self.params.own_parts:
            named = ", ".join(self.params.own_parts)
            return f"This format has parts that peft does not read ({named}): load it by Setlist.\n"
        snippet = SNIPPET.format(base=self.base.arguments, adapter=f"runs/{self.name}/adapter")
        return f"Without Setlist:\n\n```python\n{snippet}```\n"

    def _figures(self) -> str:
        metrics, params = self.metrics, self.params
        num_episodes = params.batch_size * params.accumulate * self.num_processes
        by = f" by {self.num_processes} processes" if self.num_processes > 1 else ""
        lines = [
            f"steps: {metrics['step']} of {num_episodes} episodes{by}, {metrics['num_bad_steps']} skipped",
            f"trained parameters: {metrics['num_trained_parameters']:,}",
            f"last training loss: {_nats(metrics['train']['loss'])}",
            f"last validation loss: {_loss(metrics['validation'])}",
            f"lowest validation loss: {_loss(metrics['best_validation'])}",
            f"these weights: of step {metrics['published']['step']} ({metrics['published']['which']})",
        ]
        return "## Figures\n\n" + "".join(f"- {line}\n" for line in lines)

    def _data(self) -> str:
        rows = [f"| {s.split} | {s.corpus} | {s.num_samples:,} | {s.licence} |" for s in self.sources]
        table = "\n".join(["| split | corpus | samples | licence |", "|---|---|---|---|", *rows])
        told = table if rows else "The shards were streamed; their manifest names corpora and licences."
        files = [(f"{split} {shard['name']}", shard["sha256"]) for split, tars in self.shards.items() for shard in tars]
        digests = "\n".join(f"- {name}: {digest}" for name, digest in [*self.manifests, *files])
        return f"""\
## Data

{told}

Licences are those that the corpora state for their clips; what may be done with the result follows from them and from
that of the base model. The shards (SHA-256):

{digests}
"""

    def _settings(self) -> str:
        changed = yaml.safe_dump(changed_settings(self.params), sort_keys=True)
        return f"""\
## Settings

Those of section `train` that differ from their defaults; config.yaml holds all of them.

```yaml
{changed}```
"""


def describe_base(base: Base) -> str:
    """Name, revision and digest."""
    revision = f", revision {base.revision}" if base.revision else ""
    return f"{base.name}@sha256:{base.digest}{revision}"


def licence_note(base: Base) -> str:
    """Licence of the base model, or where to look for it."""
    return f"{base.licence} (the base model's)" if base.licence else "see the base model's card"


def front_matter(base: Base, *, library: str) -> str:
    """The lines that hubs read; a local folder's name would link to nothing there, so it is left out."""
    said: dict[str, Any] = {"library_name": library, "pipeline_tag": "text-to-audio"}
    said |= {"base_model": base.name} if base.revision else {}
    said |= {"license": base.licence} if base.licence else {}
    said["tags"] = [*TAGS, *(["lora"] if library == "peft" else [])]
    return f"---\n{yaml.safe_dump(said, sort_keys=True)}---\n"


def changed_settings(params: TrainParams) -> dict[str, Any]:
    """Settings that differ from their defaults and can change a result."""
    told = [field for field in fields(params) if field.name not in NO_EFFECT]
    values = {field.name: (getattr(params, field.name), field.default) for field in told}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, (value, _) in values.items()}
    return {name: plain[name] for name, (value, default) in values.items() if default is MISSING or value != default}


def _loss(figures: Mapping[str, Any] | None) -> str:
    return f"{_nats(figures['validation_loss'])} (step {figures['step']})" if figures else "none measured"


def _nats(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.4g} nats per code"
