"""Render the demo's speech: voices and noise that the demo model has never heard, voices disjoint between splits.

python -m tools.make_demo_speech --output harness/demo/speech     (under a minute)
"""

import argparse
import csv
import itertools
import random
from pathlib import Path

import numpy as np
import soundfile

from tools.sentences import sentences
from tools.synthesis import SYNTH_RATE, Utterance, resample, speak

ACCENTS = ("en-gb-scotland", "en-029", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc")
# Split -> (voices as "<accent>+<variant>", clips a voice). No voice, and no variant, is in two splits.
SPLITS = {
    "train": (
        [
            f"{accent}+{variant}"
            for accent in ACCENTS
            for variant in ("m2", "m4", "m8", "f3", "Andy", "linda", "john", "Denis")
        ],
        20,
    ),
    "validation": ([f"{accent}+{variant}" for accent in ACCENTS[:4] for variant in ("m6", "f5")], 15),
    "test": ([f"{accent}+{variant}" for accent in ACCENTS for variant in ("m7", "Annie")], 20),
}
CONDITIONS = {"none": None, "mild": 18.0, "moderate": 10.0}  # white noise, SNR in dB
LONG_RECORDINGS, LONG_SENTENCES = 5, 10


def render(text: str, voice: str, condition: str, rng: random.Random) -> np.ndarray:
    """One sentence in one voice at SYNTH_RATE, with its condition's noise."""
    rate, pitch = rng.randint(145, 195), rng.randint(30, 70)
    return speak(Utterance(text, voice, rate, pitch, CONDITIONS[condition], rng.randrange(2**31)))


def write(path: Path, samples: np.ndarray, stereo: bool) -> None:
    """Write Ogg: mono Opus at 8 kHz as on a telephone, or Vorbis at 44.1 kHz in stereo with the voice off centre."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if stereo:
        channels = np.stack([samples, 0.6 * samples], axis=1)
        soundfile.write(path, resample(channels, 44_100), 44_100, subtype="VORBIS", compression_level=0.97)
    else:
        soundfile.write(path, resample(samples, 8_000), 8_000, format="OGG", subtype="OPUS", compression_level=0.97)


def clips(split: str, seed: int, output: Path):
    """Render one split's clips; yields rows of metadata.csv."""
    voices, per_voice = SPLITS[split]
    rng, texts = random.Random(f"{split}-{seed}"), sentences(split, seed + 1)
    for voice, repeat in itertools.product(voices, range(per_voice)):
        text, condition = next(texts), list(CONDITIONS)[repeat % len(CONDITIONS)]
        file = f"{split}/{voice}-{repeat:02d}.ogg"
        write(output / file, render(text, voice, condition, rng), stereo=repeat % 7 == 0)
        yield {"file": file, "text": text, "voice": voice, "condition": condition, "split": split}


def long_recordings(seed: int, output: Path):
    """Join new test sentences of one voice, with pauses, into recordings longer than the model's window."""
    rng, texts = random.Random(f"long-{seed}"), sentences("test", seed + 2)
    for voice in SPLITS["test"][0][:: len(SPLITS["test"][0]) // LONG_RECORDINGS][:LONG_RECORDINGS]:
        chosen, pieces = list(itertools.islice(texts, LONG_SENTENCES)), []
        for text in chosen:
            pieces += [render(text, voice, "none", rng), np.zeros(int(rng.uniform(0.2, 0.6) * SYNTH_RATE), np.float32)]
        file = f"test_long/{voice}.ogg"
        write(output / file, np.concatenate(pieces), stereo=False)
        yield {"file": file, "text": " ".join(chosen), "voice": voice, "condition": "none", "split": "test_long"}


def main() -> None:
    """Render all splits and write metadata.csv."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rows = [row for split in SPLITS for row in clips(split, options.seed, options.output)]
    rows += long_recordings(options.seed, options.output)
    with (options.output / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} recordings in {options.output}")


if __name__ == "__main__":
    main()
