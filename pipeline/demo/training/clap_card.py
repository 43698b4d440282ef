"""The demo's CLAP as files: the real format, with rounded weights, and its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import ClapProcessor

from pipeline.demo.training.clap_data import make_extractor
from pipeline.demo.training.keeping import write_weights

CARD = """# CLAP of the demo

A small CLAP in transformers' format that places clips of the demo's music and captions of it in one space, made for the
demo only: it knows the demo's 14 synthetic instruments, nine kinds of scores and the words of the demo's captions, and
nothing else.

- Architecture: transformers' ClapModel without fusion; a Swin tower of three stages over patches of 8 x 8, a RoBERTa
  tower of two layers, 64 dimensions.
- Data: {clips} clips of 10 s of public-domain scores that come with music21, without the works that the demo's presets
  hold out for their test split; rendered by the demo's synthesiser at 32 kHz, levelled and resampled as the stages
  `ingest` and `embed` do; captions and lists of aspects drawn anew from the facts for every step.
- Training: {steps} steps of {batch} clips with two texts each, seed {seed}, in the phases that `clap.py` lists:
  contrastive with soft targets, a push between clips that crowd, and heads for the facts on both towers, which are not
  kept; then half as many steps for all but the audio tower, in which shared facts count more. bfloat16 autocast; on
  another machine the weights will differ in part.
- It has heard each instrument with its own repertoire only; what an instrument never plays in the demo it misplaces
  often. It does not hear the tempo, and guesses it from the kind of music.
- Command: `python -m pipeline.demo.training clap --steps {steps} --seed {seed}`; about 20 minutes of one core. The
  committed weights' first 287 steps ran when 800 were planned, under the slower fall of the learning rate that goes
  with it: the command does not repeat them exactly.
- Weights are rounded to half precision; `pipeline.demo.expand` writes them out in float32 for the demo.

Figures, with these rounded weights, on 480 other excerpts of held-out works, each with one caption. A neighbour is one
of a caption's ten nearest clips, its own left out; `low` and `high` are the ends of a 95 % interval (bootstrap over
captions), `chance` is that of any two clips, `even` lets all values of a fact weigh alike. Times are of one CPU thread.

{figures}

Any use is allowed.
"""


def write_checkpoint(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the folder as transformers reads it, weights in half precision."""
    model.logit_scale_t.data.copy_(model.logit_scale_a.data)
    write_weights(model, folder, leave_out=())
    ClapProcessor(make_extractor(), tokenizer).save_pretrained(folder)
