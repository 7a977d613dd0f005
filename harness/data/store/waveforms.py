"""Decoded samples of the training clips, cached beside their features for augmentation."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from harness.data.audio import Samples
from harness.data.store.entry import stamp
from harness.data.store.prepare import Speech
from harness.records.files import write_json

FULL_SCALE = 32767


@dataclass(frozen=True)
class Waveforms:
    """All training clips end to end, 16 bit, memory-mapped; `spans` is row -> (first sample, samples)."""

    samples: npt.NDArray[np.int16]
    spans: dict[int, tuple[int, int]]

    def __getitem__(self, row: int) -> Samples:
        """The clip of a row: float32, 16 kHz, mono, in -1..1."""
        start, length = self.spans[row]
        clip: Samples = self.samples[start : start + length].astype(np.float32) / np.float32(FULL_SCALE)
        return clip


def open_waveforms(speech: Speech) -> Waveforms:
    """The samples of all training clips; decoded once for each entry of the cache, then only opened.

    16 bit is what most corpora hold and half the room of float: rounding is 98 dB below full scale.
    """
    rows = sorted(set(speech.rows("train")))
    file, about = speech.entry / "waveforms.i16", speech.entry / "waveforms.json"
    with FileLock(f"{speech.entry}.waveforms.lock"):
        spans = _spans(about, file, rows)
        if spans is None:
            spans = _write(speech, rows, file)
            write_json(about, {"spans": list(spans.items()), "stamp": stamp(file)}, indent=None)
    return Waveforms(np.memmap(file, dtype=np.int16, mode="r"), spans)


def _spans(about: Path, file: Path, rows: list[int]) -> dict[int, tuple[int, int]] | None:
    """The spans of a whole and untouched file that holds these rows; None if it must be written."""
    try:
        stored = json.loads(about.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    spans = {int(row): (int(span[0]), int(span[1])) for row, span in stored["spans"]}
    return spans if list(stamp(file)) == stored["stamp"] and sorted(spans) == rows else None


def _write(speech: Speech, rows: list[int], file: Path) -> dict[int, tuple[int, int]]:
    spans: dict[int, tuple[int, int]] = {}
    position = 0
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("wb") as out, ThreadPoolExecutor() as pool:
        for start in range(0, len(rows), 256):  # some at a time: a pool's map would decode all of them ahead
            some = rows[start : start + 256]
            for row, clip in zip(some, pool.map(lambda r: speech.samples(speech.utterances[r]), some), strict=True):
                out.write((np.clip(clip, -1, 1) * FULL_SCALE).round().astype(np.int16).tobytes())
                spans[row] = (position, len(clip))
                position += len(clip)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)
    return spans
