"""Train the demo's EnCodec: 16 kHz, 50 frames a second, 4 codebooks of 256.

Spectral losses and no discriminator: for the demo it is enough that codes decode to the tune.

Shape letters: B clips, N samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import EncodecConfig, EncodecModel

from pipeline.demo.training.codec_data import SegmentSource, held_out_songs, training_songs
from pipeline.demo.training.codec_figures import Waves, measure
from pipeline.demo.training.codec_steps import BATCH_SIZE, learn_codes, learn_sound
from pipeline.demo.training.keeping import Keeper, write_card, write_weights
from pipeline.demo.training.music import CODEC_RATE_HZ, FULL_SCALE, Music, Pcm, held_out_music, training_music

DEFAULT_STEPS = 10_000
SOUND_SHARE = 0.8
"""Steps of the decoder for every one of encoder and codebooks."""
NUM_CODEBOOKS, CODEBOOK_SIZE = 4, 256
NUM_TRAINING_CLIPS, NUM_TRAINING_SONGS = 1000, 240
NUM_HELD_OUT_CLIPS, NUM_HELD_OUT_SONGS = 120, 20
NUM_LEARNT_FOR_RIVALS, NUM_SONGS_FOR_RIVALS, NUM_SOLOS = 120, 30, 8
NUM_MEASURED_CLIPS = 40
CARD = """\
# The demo's codec

EnCodec (transformers' format, half precision): 16 kHz mono, hop 320 (50 frames a second), 4 codebooks of 256 codes,
1.6 kbit/s. **For the demo only**: it has heard this project's own synthesiser and singer and nothing else.

- Data: {clips} renderings of public-domain scores of music21 (works that no preset's test split holds), {songs} clips
  of random kana sung to random tunes by the demo's singer, and mixes of both; at random levels around ingest's.
- Training: {steps} steps for encoder and codebooks, {sound} for the decoder, of {batch} segments of a second, seed
  {seed}, on one CPU core, products in bfloat16.
- Made by `python -m pipeline.demo.training encodec --steps {steps} --seed {seed}`. The seed decides everything, but
  other processors and library versions sum in another order: the weights would come out alike, not to the bit.
- Expanded to float32 by `pipeline.demo.expand_codec.write_encodec`, which puts in what only training needs.

## Figures

Of these weights, by `pipeline.demo.training.codec_figures` through `pipeline.models.codec`, on {held} clips of works of
the test splits (music) and {held_songs} clips of other singers, tunes and words (songs).

Mel distance: mean absolute difference in dB of mel magnitudes, those under -80 dBFS raised to it, over windows of 256,
512, 1024 and 2048 samples. Two rivals at the same bit rate, frame by frame, with 4 residual codebooks of 256 at 50
frames a second by k-means of training clips: "k-means of samples" codes the wave; "k-means of frames" these very
magnitudes, once made sound with Griffin and Lim's phases, as whoever decodes needs it, and once without: the distance
to the spectra that its codes name, whether or not a sound has them.
"untrained" has the codec's shapes, random weights, and codebooks by k-means.

{figures}

Any use is allowed.
"""


def train(
    out: Path, *, steps: int, seed: int, cache: Path, recordings: Mapping[str, Waves] | None = None
) -> dict[str, float]:
    """Train, write the weights, measure them.

    Args:
        out: folder for the weights and their card.
        steps: of gradient descent for encoder and codebooks; the decoder's follow from it.
        seed: of weights, data and all that is drawn.
        cache: rendered clips, and the checkpoint from which the same call goes on.
        recordings: further waves at 16 kHz to measure on, by kind.

    Returns:
        Figures on held-out clips.
    """
    torch.set_num_threads(1)
    music, songs_BN = training_music(NUM_TRAINING_CLIPS, cache), training_songs(NUM_TRAINING_SONGS, cache)
    source = SegmentSource(music, songs_BN, seed=seed)
    sound_steps = max(1, round(SOUND_SHARE * steps))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained: Any = EncodecModel(codec_config())
        torch.manual_seed(seed)
        model: Any = EncodecModel(codec_config()).train()
        learn_codes(model, source, steps=steps, seed=seed, keeper=Keeper(cache / "codes.pt"))
        learn_sound(model, source, steps=sound_steps, seed=seed, keeper=Keeper(cache / "sound.pt"))
    write_weights(model.eval(), out, leave_out=("embed_avg", "cluster_size", "inited"))
    held, held_songs = held_out_music(NUM_HELD_OUT_CLIPS, cache), held_out_songs(NUM_HELD_OUT_SONGS, cache)
    facts = {
        "clips": len(music), "songs": len(songs_BN), "steps": steps, "sound": sound_steps, "batch": BATCH_SIZE,
        "seed": seed, "held": NUM_MEASURED_CLIPS, "held_songs": len(held_songs),
    }  # fmt: skip
    write_card(out, CARD, facts, {})
    figures = measure(
        out,
        untrained,
        learnt=[*_some(music, NUM_LEARNT_FOR_RIVALS), *_floats(songs_BN[:: len(songs_BN) // NUM_SONGS_FOR_RIVALS])],
        held={"music": _some(held, NUM_MEASURED_CLIPS), "songs": _floats(held_songs), **(recordings or {})},
        solos=[held.wave(index) for index in range(len(held)) if held.facts[index].texture == "solo"][:NUM_SOLOS],
    )
    write_card(out, CARD, facts, figures)
    return figures


def _some(music: Music, count: int) -> list[NDArray[np.float32]]:
    """Clips spread over all."""
    return [music.wave(int(index)) for index in np.linspace(0, len(music) - 1, count)]


def _floats(songs_BN: Pcm) -> list[NDArray[np.float32]]:
    return [song_N.astype(np.float32) / np.float32(FULL_SCALE) for song_N in songs_BN]


def codec_config() -> EncodecConfig:
    """Sizes of the demo's codec.

    Most of its work is done at low rates, where it is cheap: the first layer but one divides the rate by 8. A second of
    sound costs less than with [8, 5, 4, 2] and 12 filters, whose weights are nearly as many.
    """
    return EncodecConfig(
        sampling_rate=CODEC_RATE_HZ,
        audio_channels=1,
        normalize=False,
        # n_q = bandwidth / (50 Hz x 8 bits) = 4
        target_bandwidths=[1.6],
        upsampling_ratios=[2, 4, 5, 8],
        num_filters=15,
        hidden_size=64,
        codebook_dim=64,
        codebook_size=CODEBOOK_SIZE,
        num_lstm_layers=1,
        use_causal_conv=False,
        use_conv_shortcut=False,
    )
