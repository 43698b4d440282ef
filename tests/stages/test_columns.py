"""What each stage writes, on two corpora of two shards and more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.keys import clip_key
from pipeline.data.shards import Sample, ShardFile, decode_json, decode_npy, decode_npz, load_index
from pipeline.music.audio import decode_flac
from pipeline.music.loudness import integrated_loudness

CORPORA = ("musiccaps", "library")


def samples(folder: Path) -> Iterator[Sample]:
    for entry in load_index(folder):
        yield from ShardFile(folder / entry.name)


def by_key(folder: Path) -> dict[str, Sample]:
    return {sample.key: sample for sample in samples(folder)}


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_bytes())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_ingest_accounts_for_every_file(chain: Path):
    folder = chain / "shards/ingest/library"
    counts = manifest(folder)["counts"]
    assert counts["in"] == counts["used"] + sum(counts["dropped"].values()) == 14
    dropped = {line["item"]: line["reason"] for line in lines(folder / "drops.jsonl") if line["clip"] is None}
    assert dropped == {
        "silent.wav": "silent",
        "short.wav": "too_short",
        "broken.wav": "bad_values",
        "empty.mp3": "empty",
        "notes.pdf": "not_audio",
        "liar.ogg": "unreadable",
        "cut.flac": "truncated",
    }
    # `half.wav` lost its silent second clip, but not the recording.
    clips_dropped = {(line["item"], line["reason"]) for line in lines(folder / "drops.jsonl") if line["clip"]}
    assert ("half.wav", "silent") in clips_dropped
    assert manifest(chain / "shards/ingest/musiccaps")["counts"]["dropped"] == {"audio_missing": 1}


def test_ingest_cuts_long_recordings_and_keeps_the_rest(chain: Path):
    tracks = {line["track"]: line for line in lines(chain / "shards/ingest/library/tracks.jsonl")}
    assert [clip["span_s"] for clip in tracks["long.wav"]["clips"]] == [[0.0, 10.0], [10.0, 20.0], [20.0, 23.0]]
    assert tracks["sung.flac"]["tags"]["title"] == "Sakura"
    assert tracks["sung.flac"]["path"] == "sung.flac"


@pytest.mark.parametrize("corpus", CORPORA)
def test_ingest_levels_every_clip(chain: Path, corpus: str):
    found = list(samples(chain / "shards/ingest" / corpus))
    assert len(found) == {"musiccaps": 8, "library": 9}[corpus]
    for sample in found:
        clip = decode_json(sample.members["json"])
        wave_N, rate_hz = decode_flac(sample.members["flac"])
        assert (rate_hz, len(wave_N)) == (clip["sample_rate_hz"], clip["num_samples"])
        level_lufs = integrated_loudness(wave_N, rate_hz)
        assert clip["audio"]["limited"] or abs(level_lufs + 18.0) < 0.1
        assert level_lufs < -17.9
        assert clip["audio"]["true_peak_dbtp"] <= -0.99


def test_ingest_keeps_captions_and_aspects(chain: Path):
    clip = decode_json(
        by_key(chain / "shards/ingest/musiccaps")[clip_key("musiccaps", "-bcdefghi00", 0)].members["json"]
    )
    assert clip["captions"] == [{"text": "A plucked tune, number 0", "source": "human", "author": "0"}]
    assert clip["aspects"] == ["plucked", "fast"]
    side = decode_json(by_key(chain / "shards/ingest/library")[clip_key("library", "text.flac", 0)].members["json"])
    assert side["captions"] == [{"text": "a side file's words", "source": "human"}]


def test_split_joins_the_same_recording_across_corpora(chain: Path):
    content = json.loads((chain / "shards/split/split.json").read_bytes())
    twin, original = clip_key("library", "twin.flac", 0), clip_key("musiccaps", "abcdefghi03", 0)
    assert content["group"][twin] == content["group"][original]
    assert content["split"][twin] == content["split"][original]
    again, fifth = clip_key("library", "again.mp3", 0), clip_key("musiccaps", "_bcdefghi05", 0)
    assert sorted((again, fifth)) in content["near_duplicates"]
    assert content["group"][again] == content["group"][fifth]
    long_clips = {content["split"][clip_key("library", "long.wav", n)] for n in range(3)}
    assert len(long_clips) == 1
    assert content["split"][clip_key("musiccaps", "abcdefghi07", 0)] == "test"
    assert set(content["split"].values()) == {"train", "val", "test"}
    assert content["summary"]["library"]["train"]["clips"] > 0


def test_lyrics_come_from_tags_by_time(chain: Path):
    found = by_key(chain / "shards/lyrics/library")
    sung, plain = clip_key("library", "sung.flac", 0), clip_key("library", "plain.flac", 0)
    assert set(found) == {sung, plain}
    phrases = decode_json(found[sung].members["lyrics.json"])["phrases"]
    assert [(p["text"], p["start_s"], p["end_s"], p["source"]) for p in phrases] == [
        ("さくら さくら", 0.5, 2.0, "tag"),
        ("やよいの そらは", 2.0, 4.5, "tag"),
        ("みわたす かぎり", 4.5, None, "tag"),
    ]
    assert [p["start_s"] for p in decode_json(found[plain].members["lyrics.json"])["phrases"]] == [None, None]


def test_transcribe_leaves_clips_with_lyrics_alone(chain: Path):
    dropped = {line["item"]: line["reason"] for line in lines(chain / "shards/transcribe/library/drops.jsonl")}
    assert dropped[clip_key("library", "sung.flac", 0)] == "has_lyrics"
    assert set(dropped.values()) <= {"has_lyrics", "no_speech"}
    counts = manifest(chain / "shards/transcribe/library")["counts"]
    assert counts["in"] == counts["used"] + sum(counts["dropped"].values()) == 9


@pytest.mark.parametrize("corpus", CORPORA)
def test_describe_writes_captions_only_where_there_are_none(chain: Path, corpus: str):
    ingest, described = by_key(chain / "shards/ingest" / corpus), by_key(chain / "shards/describe" / corpus)
    assert set(ingest) == set(described)
    for key, sample in described.items():
        own = decode_json(ingest[key].members["json"])["captions"]
        made = decode_json(sample.members["describe.json"])["captions"]
        assert bool(own) != bool(made)
        assert all(caption["source"] == "template" and len(caption["text"]) > 10 for caption in made)


@pytest.mark.parametrize("corpus", CORPORA)
def test_encode_writes_one_frame_per_hop(chain: Path, corpus: str):
    clips, codes = by_key(chain / "shards/ingest" / corpus), by_key(chain / "shards/encode" / corpus)
    assert set(clips) == set(codes)
    stamp = manifest(chain / "shards/encode" / corpus)["models"]["codec"]
    for key, sample in codes.items():
        codes_KT = decode_npy(sample.members["codes.npy"])
        seconds = decode_json(clips[key].members["json"])["num_samples"] / 16000
        assert codes_KT.dtype == np.uint16
        assert codes_KT.shape == (stamp["num_codebooks"], int(seconds * stamp["frame_rate_hz"]))
        assert codes_KT.max() < stamp["codebook_size"]


@pytest.mark.parametrize("corpus", CORPORA)
def test_embed_writes_unit_vectors_for_audio_and_every_caption(chain: Path, corpus: str):
    for sample in samples(chain / "shards/embed" / corpus):
        vectors = decode_npz(sample.members["clap.npz"])
        assert vectors["audio"].shape == (64,)
        assert vectors["text"].shape == (1, 64)
        assert vectors["text"].dtype == vectors["audio"].dtype == np.float16
        assert np.allclose(np.linalg.norm(vectors["text"].astype(np.float32), axis=1), 1, atol=2e-3)


@pytest.mark.parametrize("strategy", ["random", "semantic"])
@pytest.mark.parametrize("corpus", CORPORA)
def test_retrieve_gives_train_clips_of_other_groups(chain: Path, strategy: str, corpus: str):
    content = json.loads((chain / "shards/split/split.json").read_bytes())
    found = by_key(chain / "shards/retrieve" / strategy / corpus)
    assert set(found) == set(by_key(chain / "shards/ingest" / corpus))
    for key, sample in found.items():
        examples = [example["key"] for example in decode_json(sample.members["examples.json"])["examples"]]
        assert len(set(examples)) == 3
        assert {content["split"][example] for example in examples} == {"train"}
        assert content["group"][key] not in {content["group"][example] for example in examples}


@pytest.mark.parametrize("strategy", ["random", "semantic"])
def test_pack_is_self_contained(chain: Path, strategy: str):
    codes = by_key(chain / "shards/encode/musiccaps") | by_key(chain / "shards/encode/library")
    vectors = by_key(chain / "shards/embed/musiccaps") | by_key(chain / "shards/embed/library")
    content = json.loads((chain / "shards/split/split.json").read_bytes())
    packed = by_key(chain / "shards/pack" / strategy)
    assert set(packed) == set(content["split"])
    for key, sample in packed.items():
        value = decode_json(sample.members["json"])
        keys = [example["key"] for example in value["examples"]]
        scores = [example["score"] for example in value["examples"]]
        assert len(keys) == 2
        assert strategy == "random" or scores == sorted(scores)  # nearest last
        frames = [decode_npy(codes[k].members["codes.npy"])[:, :40] for k in keys]
        assert [example["num_frames"] for example in value["examples"]] == [f.shape[1] for f in frames]
        assert np.array_equal(decode_npy(sample.members["examples.npy"]), np.concatenate(frames, axis=1))
        target = decode_npy(codes[key].members["codes.npy"])[:, :60]
        assert np.array_equal(decode_npy(sample.members["target.npy"]), target)
        clap = decode_npy(sample.members["clap.npy"])
        expected = [decode_npz(vectors[k].members["clap.npz"]) for k in [key, *keys]]
        assert np.array_equal(clap, np.stack([np.stack([v["text"][0], v["audio"]]) for v in expected]))
        assert value["prompt"] == value["captions"][value["caption_index"]]["text"]


def test_pack_puts_each_split_into_its_own_shards(chain: Path):
    folder = chain / "shards/pack/semantic"
    content = json.loads((chain / "shards/split/split.json").read_bytes())
    names = {entry.name: {content["split"][key] for key in entry.keys} for entry in load_index(folder)}
    assert names == {
        "train-000000.tar": {"train"},
        "train-000001.tar": {"train"},
        "val-000000.tar": {"val"},
        "test-000000.tar": {"test"},
    }


def test_pack_carries_lyrics(chain: Path):
    value = decode_json(by_key(chain / "shards/pack/random")[clip_key("library", "sung.flac", 0)].members["json"])
    assert [phrase["text"] for phrase in value["lyrics"]] == ["さくら さくら", "やよいの そらは", "みわたす かぎり"]
