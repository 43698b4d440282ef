"""What the decoder is told beside codes: captions and CLAP vectors as states, attended to or put among the columns.

Shape letters: B batch, K codebooks, S columns, R columns with states among them, N examples, M states of a vector, L
states of an episode, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.errors import ContractError
from pipeline.music.sequence import separator_id
from train.icl.columns import embed_codes, insert_states
from train.icl.parts import CLAP_STATES, COLUMN_STATES, SEGMENT_VECTORS, SEPARATOR_WORDS
from train.icl.text import NO_SEGMENT, block_mask, full_mask

if TYPE_CHECKING:
    from train.icl.model import IclModel

Prompts = Sequence[str | None]
"""Of an episode, in the order of its segments, the target's last; None is the null prompt."""


class Read(NamedTuple):
    """Prompts and CLAP vectors of a batch as states.

    Attributes:
        states_BLD: states for cross-attention, projected; None where they are columns.
        segments_BL: segment of each of them, NO_SEGMENT for padding.
        inserted: per episode and segment the states [L, D] that become columns; None where they are attended to.
    """

    states_BLD: Tensor | None = None
    segments_BL: Tensor | None = None
    inserted: list[list[Tensor]] | None = None


def read_states(model: IclModel, prompts: Sequence[Prompts], clap_ND: Sequence[Tensor]) -> Read:
    """Turn prompts and CLAP vectors into states.

    Args:
        model: its text encoder, parts and format.
        prompts: per episode its prompts.
        clap_ND: per episode the vectors of its examples, where they are shown.

    Raises:
        ContractError: the shards' vectors are not as wide as `train.clap_dim`.
    """
    if model.params.text_placement == "inline":
        pairs = zip(prompts, clap_ND, strict=True)
        return Read(inserted=[_inline_states(model, own, vectors_ND) for own, vectors_ND in pairs])
    text = model.text.join(prompts)
    states_BLD, segments_BL = model.project(text), text.segments_BL
    if any(len(vectors_ND) for vectors_ND in clap_ND):
        more_BLD, more_BL = _clap_states(model, clap_ND)
        states_BLD = torch.cat([states_BLD, more_BLD.to(states_BLD.dtype)], dim=1)
        segments_BL = torch.cat([segments_BL, more_BL], dim=1)
    return Read(_mark_segments(model, states_BLD, segments_BL, prompts), segments_BL)


def _inline_states(model: IclModel, prompts: Prompts, clap_ND: Tensor) -> list[Tensor]:
    vectors_NMD = _project_clap(model, clap_ND) if len(clap_ND) else []
    states: list[Tensor] = []
    for segment, prompt in enumerate(prompts):
        own = [_text_columns(model, prompt)] if prompt is not None else []
        own += [vectors_NMD[segment]] if segment < len(vectors_NMD) else []
        nothing_LD = torch.zeros(0, model.network.config.decoder.hidden_size, device=model.device)
        states.append(torch.cat(own) if own else nothing_LD)
    return states


def _text_columns(model: IclModel, prompt: str) -> Tensor:
    """States of a text as columns, [L, D]."""
    with model.autocast():
        return model.parts[COLUMN_STATES](model.text.encode(prompt)).flatten(0, 1)


def _project_clap(model: IclModel, vectors: Tensor) -> Tensor:
    if vectors.shape[-1] != model.params.clap_dim:
        raise ContractError(
            f"the shards hold CLAP vectors of width {vectors.shape[-1]}, train.clap_dim is {model.params.clap_dim}; "
            "set it to theirs"
        )
    with model.autocast():
        return model.parts[CLAP_STATES](vectors)


def _clap_states(model: IclModel, clap_ND: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """States of all examples' vectors, [B, N * M, D], and the segment of each."""
    width = max(vectors_ND.shape[1] for vectors_ND in clap_ND)
    rows = [vectors_ND if len(vectors_ND) else vectors_ND.new_zeros(0, width) for vectors_ND in clap_ND]
    states_BNMD = _project_clap(model, nn.utils.rnn.pad_sequence(rows, batch_first=True))
    segments_BN = torch.full(states_BNMD.shape[:2], NO_SEGMENT, device=model.device)
    for b, vectors_ND in enumerate(rows):
        segments_BN[b, : len(vectors_ND)] = torch.arange(len(vectors_ND))
    return states_BNMD.flatten(1, 2), segments_BN.repeat_interleave(states_BNMD.shape[2], dim=1)


def _mark_segments(model: IclModel, states_BLD: Tensor, segments_BL: Tensor, prompts: Sequence[Prompts]) -> Tensor:
    """Add to each state the vector of its segment, where a format has such vectors."""
    if SEGMENT_VECTORS not in model.parts:
        return states_BLD
    last_B1 = torch.tensor([[len(own) - 1] for own in prompts], device=model.device)
    is_null_BN = nn.utils.rnn.pad_sequence(
        [torch.tensor([prompt is None for prompt in own]) for own in prompts], batch_first=True
    ).to(model.device)
    # A null prompt stays a zero state, which says nothing; padding is seen by nobody.
    said_BL = (segments_BL != NO_SEGMENT) & ~is_null_BN.gather(1, segments_BL.clamp(min=0))
    marks_BLD = model.parts[SEGMENT_VECTORS]((last_B1 - segments_BL) * said_BL)
    return states_BLD + (marks_BLD * said_BL[..., None]).to(states_BLD.dtype)


def lay_columns(
    model: IclModel, inputs_BKS: Tensor, starts: Sequence[Sequence[int]], read: Read
) -> tuple[Tensor, Tensor | None]:
    """What the decoder reads: ids where all columns are ids, else embeddings.

    Returns:
        Ids [B, K, S] and None; or embeddings [B, R, D] and the place among them where the column after each of the
        old ones is predicted, None where nothing came between.
    """
    if read.inserted is None and model.params.separator != "text":
        return inputs_BKS, None
    vectors_BSD = embed_codes(model.network.decoder.model.decoder.embed_tokens, inputs_BKS)
    if model.params.separator == "text":
        is_separator_BS = inputs_BKS[:, 0] == separator_id(model.codec.codebook_size)
        said_D = _text_columns(model, SEPARATOR_WORDS).mean(dim=0).to(vectors_BSD.dtype)
        vectors_BSD = torch.where(is_separator_BS[..., None], said_D, vectors_BSD)
    return (vectors_BSD, None) if read.inserted is None else insert_states(vectors_BSD, starts, read.inserted)


def states_mask(model: IclModel, segments_BS: Tensor, read: Read) -> Tensor | None:
    """Which states each column sees, additive [B, 1, S, L]; None where there is no cross-attention."""
    if read.segments_BL is None or read.states_BLD is None:
        return None
    if model.params.cross_attention == "full":
        return full_mask(segments_BS.shape[1], read.segments_BL, read.states_BLD.dtype)
    return block_mask(segments_BS, read.segments_BL, read.states_BLD.dtype)
