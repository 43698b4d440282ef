"""Train the demo's MusicGen from captions alone, so that LoRA has a base to adapt: caption in, codes of 10 s out.

Text encoder and decoder learn together; the codec is the committed one and stays as it is.

Shape letters: B batch, K codebooks, S columns.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import (
    EncodecFeatureExtractor,
    GenerationConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    MusicgenProcessor,
    T5Config,
)

from pipeline.demo.captions import grid_texts
from pipeline.demo.expand import WEIGHTS
from pipeline.demo.expand_codec import load_encodec_weights, write_encodec, write_musicgen
from pipeline.demo.synth import TIMBRES
from pipeline.demo.training.keeping import Keeper, learning_rate, write_card, write_weights
from pipeline.demo.training.music import Music, held_out_music, training_music
from pipeline.demo.training.musicgen_data import CaptionedCodes, encode_music
from pipeline.demo.training.musicgen_figures import code_losses, decode_captioned, measure, time_generation
from pipeline.demo.vocabulary import build_t5_tokenizer
from pipeline.engine.progress import progress
from pipeline.models.codec import load_codec

DEFAULT_STEPS = 1800
BATCH_SIZE = 4
PEAK_RATE, WARM_UP_STEPS = 1e-3, 50
NUM_TRAINING_CLIPS, NUM_HELD_OUT_CLIPS = 1200, 120
CLIP_FRAMES = 500
LEFT_OUT = ("audio_encoder.", "text_encoder.encoder.embed_tokens.")
"""The codec lies beside it; T5's second name for its embedding."""
CARD = """\
# The demo's MusicGen

MusicGen (transformers' format, half precision, without its codec, which is the one in `encodec` beside it): a caption
in, 4 codebooks of 256 codes at 50 frames a second out. **For the demo only**: it knows the captions and renderings of
this project's own corpus, and is far too small to sound good. It is there so that LoRA has a base to adapt.

- Data: {clips} renderings of 10 s of public-domain scores of music21 (works that no preset's test split holds), each
  with a caption written anew from its facts every time; one in ten left out, for guidance. No examples in context.
- Training: {steps} steps of {batch} clips, seed {seed}, text encoder and decoder together, on one CPU core, products in
  bfloat16.
- Made by `python -m pipeline.demo.training musicgen --steps {steps} --seed {seed}`. The seed decides everything, but
  other processors and library versions sum in another order: the weights would come out alike, not to the bit.
- Put together with its codec, in float32, by `pipeline.demo.expand_codec.write_musicgen`.

## Figures

Of these weights, by `pipeline.demo.training.musicgen_figures`, on {held} clips of works of the test splits. Losses are
cross-entropies in nats per code, teacher-forced. Unigram: codes guessed by how often they occur in training. Untrained:
the weights that training starts from. A swapped caption is that of a clip with another instrument; bounds by bootstrap
over clips.

{figures}

Any use is allowed.
"""


def train(out: Path, *, steps: int, seed: int, cache: Path) -> dict[str, float]:
    """Train, write the weights, measure them.

    Args:
        out: folder for the weights and their card.
        steps: of gradient descent.
        seed: of weights, data and all that is drawn.
        cache: rendered clips, their codes, and the checkpoint from which the same call goes on.

    Returns:
        Figures on held-out clips.
    """
    torch.set_num_threads(1)
    music, held_music = training_music(NUM_TRAINING_CLIPS, cache), held_out_music(NUM_HELD_OUT_CLIPS, cache)
    learnt, held = _captioned(music, cache / "train.npy", seed), _captioned(held_music, cache / "held.npy", seed)
    with torch.random.fork_rng(devices=[]):
        tokenizer = build_t5_tokenizer(sorted(set(grid_texts(tuple(TIMBRES)))))
        untrained = build_model(len(tokenizer), seed=seed)
        model = build_model(len(tokenizer), seed=seed)
        learn(model, tokenizer, learnt, steps=steps, seed=seed, keeper=Keeper(cache / "musicgen.pt"))
        _write(model, tokenizer, out)
        facts = {
            "clips": len(learnt), "steps": steps, "batch": BATCH_SIZE, "seed": seed, "held": len(held),
        }  # fmt: skip
        write_card(out, CARD, facts, {})
        figures = _measure(out, untrained, tokenizer, learnt=learnt, held=held, seed=seed)
    write_card(out, CARD, facts, figures)
    return figures


def _captioned(music: Music, path: Path, seed: int) -> CaptionedCodes:
    with tempfile.TemporaryDirectory() as folder:
        write_encodec(Path(folder) / "encodec")
        codec = load_codec(f"{folder}/encodec")
    codes_CKT = encode_music(music, codec, path)
    return CaptionedCodes(codes_CKT, music.facts, codebook_size=codec.codebook_size, seed=seed)


def build_model(vocab_size: int, *, seed: int) -> Any:
    """The generator as training starts from it, with the committed codec."""
    torch.manual_seed(seed)
    codec = load_encodec_weights(WEIGHTS / "encodec")
    config = MusicgenConfig(
        text_encoder=_text_encoder_config(vocab_size),
        audio_encoder=codec.config,
        decoder=_decoder_config(codec.config.codebook_size, codec.config.num_quantizers),
    )
    model: Any = MusicgenForConditionalGeneration(config)
    model.audio_encoder.load_state_dict(codec.state_dict())
    for embedding in model.decoder.model.decoder.embed_tokens:
        # The library's 0.02 drowns in the positions: such a model learns to copy, not to read captions.
        torch.nn.init.normal_(embedding.weight, std=1.0)
    for layer in (module for module in model.decoder.modules() if isinstance(module, torch.nn.Linear)):
        # And with 0.02 here gradients are a hundred times smaller than at the size of the real ones.
        torch.nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    size = codec.config.codebook_size
    model.generation_config = GenerationConfig(
        bos_token_id=size,
        pad_token_id=size,
        decoder_start_token_id=size,
        do_sample=True,
        guidance_scale=3.0,
        max_length=CLIP_FRAMES,
    )
    return model


def _text_encoder_config(vocab_size: int) -> T5Config:
    return T5Config(vocab_size=vocab_size, d_model=64, d_kv=16, d_ff=256, num_layers=2, num_heads=4)


def _decoder_config(codebook_size: int, num_codebooks: int) -> MusicgenDecoderConfig:
    # Widths are multiples of 64: 4-bit weights need that.
    return MusicgenDecoderConfig(
        vocab_size=codebook_size,
        num_codebooks=num_codebooks,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=3,
        ffn_dim=640,
        # It sees too little of anything to learn it by heart, and drawing masks is a tenth of the time.
        dropout=0.0,
        pad_token_id=codebook_size,
        bos_token_id=codebook_size,
    )


def learn(model: Any, tokenizer: Any, learnt: CaptionedCodes, *, steps: int, seed: int, keeper: Keeper) -> None:
    """Train text encoder and decoder; the codec stays as it is.

    Args:
        model: what `build_model` made.
        tokenizer: of its text encoder.
        learnt: clips to learn from.
        steps: how many.
        seed: of all that is drawn.
        keeper: keeps the checkpoint.
    """
    model.train()
    # Its weights are the committed ones.
    model.audio_encoder.requires_grad_(False).eval()
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    done = keeper.load(model, optimiser)
    for step in progress(range(done, steps), total=steps - done, desc="train musicgen", unit="step"):
        torch.manual_seed(seed * steps + step)
        optimiser.param_groups[0]["lr"] = learning_rate(step, steps, peak=PEAK_RATE, warm_up_steps=WARM_UP_STEPS)
        batch = learnt.batch(step, BATCH_SIZE)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits_BKSV = decode_captioned(model, tokenizer, batch.inputs_BKS, batch.captions)
        losses_K = code_losses(logits_BKSV, batch.labels_BKS).mean(dim=0)
        optimiser.zero_grad(set_to_none=True)
        losses_K.mean().backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        keeper.note(step, {f"codebook_{k + 1}": loss for k, loss in enumerate(losses_K)})
        keeper.save_sometimes(model, optimiser, step + 1)
    keeper.save(model, optimiser, max(done, steps))


def _write(model: Any, tokenizer: Any, out: Path) -> None:
    write_weights(model.eval(), out, leave_out=LEFT_OUT)
    model.generation_config.save_pretrained(out)
    rate_hz = model.config.audio_encoder.sampling_rate
    extractor = EncodecFeatureExtractor(feature_size=1, sampling_rate=rate_hz, padding_side="left")
    MusicgenProcessor(extractor, tokenizer).save_pretrained(out)


def _measure(
    out: Path, untrained: Any, tokenizer: Any, *, learnt: CaptionedCodes, held: CaptionedCodes, seed: int
) -> dict[str, float]:
    """Figures of the weights as the demo expands them."""
    with tempfile.TemporaryDirectory() as folder:
        write_musicgen(Path(folder), weights=out)
        model: Any = MusicgenForConditionalGeneration.from_pretrained(folder)
    figures = measure(model, untrained, tokenizer, learnt=learnt, held=held, seed=seed)
    figures["processor time to generate 10 s with guidance, s"] = time_generation(
        model, tokenizer, num_frames=CLIP_FRAMES
    )
    return figures
