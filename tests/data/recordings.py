"""Small recordings and tables made on the spot."""

import csv
from pathlib import Path

import numpy as np
import soundfile


def tone(seconds: float, rate: int = 16_000, channels: int = 1, pitch: float = 220.0) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * pitch * time)
    return np.stack([wave] * channels, axis=1).astype(np.float32)


def write_clip(path: Path, seconds: float = 0.5, rate: int = 16_000, channels: int = 1, pitch: float = 220.0) -> None:
    """A tone; the ending of the name decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    formats = {".opus": ("OGG", "OPUS"), ".mp3": ("MP3", None)}
    form, subtype = formats.get(path.suffix, (None, None))
    soundfile.write(path, tone(seconds, rate, channels, pitch), rate, format=form, subtype=subtype)


def write_table(path: Path, rows: list[dict[str, str]], **options: str) -> None:
    with path.open("w", newline="", encoding=options.get("encoding", "utf-8")) as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=options.get("delimiter", ","))
        writer.writeheader()
        writer.writerows(rows)


def make_folder(folder: Path, count: int = 12, speakers: int = 4, **columns: str) -> list[dict[str, str]]:
    """`count` clips of different pitch with metadata.csv; speakers take turns."""
    rows = []
    for number in range(count):
        file = f"audio/{number:03d}.wav"
        write_clip(folder / file, pitch=100 + 7 * number)
        rows.append({"file": file, "text": f"word {number}", "speaker": f"s{number % speakers}", **columns})
    write_table(folder / "metadata.csv", rows)
    return rows
