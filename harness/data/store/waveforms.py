"""Cache the decoded samples of the training clips, for augmentation."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from harness.data.audio import Samples
from harness.data.store.entry import file_stamp
from harness.data.store.prepare import Speech
from harness.records.files import write_json

FULL_SCALE = 32767


@dataclass(frozen=True)
class Waveforms:
    """The training clips.

    Attributes:
        samples: All clips one after another, 16 bit, memory-mapped.
        spans: Row -> (first sample, number of samples).
    """

    samples: npt.NDArray[np.int16]
    spans: dict[int, tuple[int, int]]

    def __getitem__(self, row: int) -> Samples:
        """Return the clip of a row: float32, 16 kHz, mono, in [-1, 1]."""
        start, length = self.spans[row]
        clip: Samples = self.samples[start : start + length].astype(np.float32) / np.float32(FULL_SCALE)
        return clip


def open_waveforms(speech: Speech) -> Waveforms:
    """Open the samples of all training clips; they are decoded once per entry of the feature store.

    16 bit is the depth of most corpora and needs half the space of float32; rounding is 98 dB below full scale.
    """
    rows = sorted(set(speech.rows("train")))
    file, index = speech.entry / "waveforms.i16", speech.entry / "waveforms.json"
    with FileLock(f"{speech.entry}.waveforms.lock"):
        spans = _read_spans(index, file, rows)
        if spans is None:
            spans = _write(speech, rows, file)
            write_json(index, {"spans": list(spans.items()), "stamp": file_stamp(file)}, indent=None)
    return Waveforms(np.memmap(file, dtype=np.int16, mode="r"), spans)


def _read_spans(index: Path, file: Path, rows: list[int]) -> dict[int, tuple[int, int]] | None:
    """Return the spans if the file is complete, unchanged and has these rows; else None."""
    try:
        stored = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    spans = {int(row): (int(span[0]), int(span[1])) for row, span in stored["spans"]}
    return spans if list(file_stamp(file)) == stored["stamp"] and sorted(spans) == rows else None


def _write(speech: Speech, rows: list[int], file: Path) -> dict[int, tuple[int, int]]:
    spans: dict[int, tuple[int, int]] = {}
    position = 0
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("wb") as out, ThreadPoolExecutor() as pool:
        for start in range(0, len(rows), 256):  # in parts, because a pool's map would decode all of them ahead
            part = rows[start : start + 256]
            for row, clip in zip(part, pool.map(lambda r: speech.samples(speech.utterances[r]), part), strict=True):
                out.write((np.clip(clip, -1, 1) * FULL_SCALE).round().astype(np.int16).tobytes())
                spans[row] = (position, len(clip))
                position += len(clip)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)
    return spans
