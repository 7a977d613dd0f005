"""Augment training clips, reproducibly for each trial seed, epoch and utterance."""

import functools
import hashlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import WhisperFeatureExtractor

from harness.data.audio import SAMPLE_RATE, Samples
from harness.data.store.log_mel import log_mel
from harness.data.store.prepare import Speech
from harness.data.store.waveforms import Waveforms
from harness.errors import UserError
from harness.spec.augmentation import Augmentation

GENERATOR_LOCK = threading.Lock()  # all threads share the global generators
NOISE_SUFFIXES = {".wav", ".flac", ".ogg", ".mp3"}

Features = npt.NDArray[np.float16]


def augment(
    samples: Samples, augmentation: Augmentation, seed: int, epoch: int, utterance: str, longest: int | None = None
) -> Samples:
    """Apply the waveform parts of an augmentation to one clip, and lower it to full scale if it is louder.

    Args:
        samples: The clip, float32, 16 kHz.
        augmentation: What to apply.
        seed: The trial's seed.
        epoch: The epoch.
        utterance: Id of the utterance.
        longest: Largest number of samples that the clip may be stretched to; None: any.

    Returns:
        The changed clip, float32, 16 kHz; its length differs only if `time_stretch_rate` is set.
    """
    if not augmentation.on_waveform:
        return samples
    transforms, stretch = _transforms(augmentation)
    with _seeded(_seed(seed, epoch, utterance)):
        if stretch is not None:
            _fit_stretch(stretch, augmentation, 0.0 if longest is None else len(samples) / longest)
        changed: Samples = transforms(samples=samples, sample_rate=SAMPLE_RATE)
    return np.ascontiguousarray(changed / max(1.0, float(np.abs(changed).max())), dtype=np.float32)


def _fit_stretch(stretch: Any, augmentation: Augmentation, lowest: float) -> None:
    """Limit a TimeStretch to rates from `lowest`, so that a clip keeps its end; without such a rate it is left out."""
    assert augmentation.time_stretch_rate is not None
    stretch.min_rate, stretch.max_rate = augmentation.time_stretch_rate
    stretch.min_rate = max(stretch.min_rate, lowest)
    stretch.p = augmentation.p if stretch.min_rate <= stretch.max_rate else 0.0


def mask(features: Features, augmentation: Augmentation, seed: int, epoch: int, utterance: str, frames: int) -> None:
    """Apply SpecAugment in place to one clip: masked bands are set to the clip's mean.

    Args:
        features: Log-mel features, shape (mel bins, frames).
        augmentation: How many masks to apply, and their size.
        seed: The trial's seed.
        epoch: The epoch.
        utterance: Id of the utterance.
        frames: Number of frames with sound; the padding behind them is not masked.
    """
    generator = np.random.default_rng(_seed(seed, epoch, utterance, "mask"))
    bins, mean = features.shape[0], features[:, :frames].mean(dtype=np.float32)
    for _ in range(augmentation.time_masks):
        width = int(generator.integers(0, min(augmentation.time_mask_frames, frames) + 1))
        start = int(generator.integers(0, frames - width + 1))
        features[:, start : start + width] = mean
    for _ in range(augmentation.frequency_masks):
        width = int(generator.integers(0, min(augmentation.frequency_mask_bins, bins) + 1))
        start = int(generator.integers(0, bins - width + 1))
        features[start : start + width, :frames] = mean


def augmented_features(
    speech: Speech,
    waveforms: Waveforms | None,
    extractor: WhisperFeatureExtractor,
    augmentation: Augmentation,
    rows: Sequence[int],
    epochs: Sequence[int],
    seed: int,
    window: int | None = None,
) -> Features:
    """Return the augmented features of a batch.

    Args:
        speech: The prepared data.
        waveforms: Samples of the training clips; may be None if the augmentation only masks features.
        extractor: The model's feature extractor.
        augmentation: What to apply.
        rows: Rows of the batch.
        epochs: How often the trial has seen each clip before; the augmentation differs each time.
        seed: The trial's seed.
        window: Number of frames of the encoder window; None for the extractor's.

    Returns:
        Features of shape (clips, mel bins, window), fp16.
    """
    window = window or int(extractor.nb_max_frames)
    names = [speech.utterances[row].id for row in rows]
    if augmentation.on_waveform:
        assert waveforms is not None, "this augmentation needs waveforms: call open_waveforms(speech)"
        longest = window * int(extractor.hop_length)
        clips = [
            augment(waveforms[row], augmentation, seed, epoch, name, longest)[:longest]
            for row, epoch, name in zip(rows, epochs, names, strict=True)
        ]
        features = log_mel(extractor, clips)
        frames = [-(-len(clip) // int(extractor.hop_length)) for clip in clips]
    else:
        features = np.array(speech.features[np.asarray(rows)])
        rate = SAMPLE_RATE / int(extractor.hop_length)
        frames = [round((speech.utterances[row].seconds or 0.0) * rate) for row in rows]
    if augmentation.on_features:
        for index, (name, epoch) in enumerate(zip(names, epochs, strict=True)):
            mask(features[index], augmentation, seed, epoch, name, max(1, min(frames[index], features.shape[2])))
    return features[:, :, :window]


def _seed(seed: int, epoch: int, utterance: str, purpose: str = "") -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{epoch}:{purpose}:{utterance}".encode()).digest()[:4], "big")


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators, which audiomentations uses, and restore their state for the trial's own draws."""
    with GENERATOR_LOCK:
        state, numpy_state = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)


@functools.lru_cache(maxsize=8)
def _transforms(augmentation: Augmentation) -> tuple[Any, Any]:
    """Return audiomentations' transforms, and the TimeStretch among them, if any.

    Their order is that of their causes in a recording: voice, room, noise, level.
    """
    import audiomentations as a  # takes a second (numba), so import it for augmented trials only

    transforms, stretch, p = list[Any](), None, augmentation.p
    if (pitch := augmentation.pitch_semitones) is not None:
        transforms.append(a.PitchShift(min_semitones=pitch[0], max_semitones=pitch[1], p=p))
    if (rate := augmentation.time_stretch_rate) is not None:
        stretch = a.TimeStretch(min_rate=rate[0], max_rate=rate[1], leave_length_unchanged=False, p=p)
        transforms.append(stretch)
    if augmentation.room:
        # Ray tracing draws from a generator that cannot be seeded; the image source method is deterministic.
        room = a.RoomSimulator(use_ray_tracing=False, max_order=3, leave_length_unchanged=True, p=p)
        transforms.append(_at_the_same_level(room))
    if (snr := augmentation.snr_db) is not None:
        if augmentation.noise_folder is None:
            transforms.append(a.AddGaussianSNR(min_snr_db=snr[0], max_snr_db=snr[1], p=p))
        else:
            sounds = _noise_files(augmentation)
            transforms.append(a.AddBackgroundNoise(sounds_path=sounds, min_snr_db=snr[0], max_snr_db=snr[1], p=p))
    if (gain := augmentation.gain_db) is not None:
        transforms.append(a.Gain(min_gain_db=gain[0], max_gain_db=gain[1], p=p))
    return a.Compose(transforms), stretch


def _at_the_same_level(transform: Any) -> Callable[[Samples, int], Samples]:
    """Return a transform whose output has the RMS of its input: the simulated room adds reflections to direct sound."""

    def apply(samples: Samples, sample_rate: int) -> Samples:
        changed: Samples = transform(samples, sample_rate)
        before, after = np.square(samples).mean(dtype=np.float64), np.square(changed).mean(dtype=np.float64)
        return changed if changed is samples or after == 0 else changed * np.float32(np.sqrt(before / after))

    return apply


def _noise_files(augmentation: Augmentation) -> list[str]:
    folder = augmentation.noise_folder
    assert folder is not None
    # Sorted, because a seed must not draw other noise with another order of the file system.
    files = sorted(str(path) for path in folder.expanduser().rglob("*") if path.suffix.lower() in NOISE_SUFFIXES)
    if not files:
        suffixes = ", ".join(sorted(NOISE_SUFFIXES))
        raise UserError(f"augmentation {augmentation.name}: noise_folder {folder} contains no recordings ({suffixes})")
    return files
