"""Tokenizers of the toy checkpoints, made from captions alone, without a hub."""

from __future__ import annotations

import json
import math
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tokenizers import ByteLevelBPETokenizer
from transformers import RobertaTokenizer, T5Tokenizer

ROBERTA_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
"""In the order of RoBERTa's ids 0 to 3; its mask comes last."""
ROBERTA_VOCAB_SIZE = 800
SPACE = "\u2581"


def build_roberta_tokenizer(texts: Sequence[str]) -> RobertaTokenizer:
    """Train byte-level BPE on captions; any text can be spelt, as every byte is a token."""
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator(
        texts,
        vocab_size=ROBERTA_VOCAB_SIZE,
        min_frequency=2,
        show_progress=False,
        special_tokens=list(ROBERTA_SPECIALS),
    )
    model = json.loads(trainer.to_str())["model"]
    merges: list[Any] = [tuple(merge) for merge in model["merges"]]
    return RobertaTokenizer(vocab=model["vocab"], merges=merges, model_max_length=512)


def build_t5_tokenizer(texts: Sequence[str]) -> T5Tokenizer:
    """Make a unigram vocabulary: the captions' words, and single characters to spell all others.

    Counted rather than trained: the unigram trainer of `tokenizers` gives other pieces on every run.
    """
    words = Counter(word for text in texts for word in text.split())
    total = sum(words.values())
    rare = math.log(1 / total)
    scores = {f"{SPACE}{word}": math.log(count / total) for word, count in words.items()}
    alphabet = sorted(
        {character for text in texts for character in text if not character.isspace()} | set(string.printable[:94])
    )
    spelling = [(character, rare - 5.0) for character in (SPACE, *alphabet)]
    pieces = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    specials = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    known = {piece for piece, _ in pieces}
    return T5Tokenizer(
        vocab=[*specials, *pieces, *(entry for entry in spelling if entry[0] not in known)],
        extra_ids=0,
        model_max_length=512,
    )
