"""Augmented training clips, the same again for the same trial seed, epoch and utterance."""

import functools
import hashlib
import random
import threading
from collections.abc import Iterator, Sequence
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

DRAWING = threading.Lock()  # the global generators are one for all threads
SOUNDS = {".wav", ".flac", ".ogg", ".mp3"}

Features = npt.NDArray[np.float16]


def augment(samples: Samples, augmentation: Augmentation, seed: int, epoch: int, utterance: str) -> Samples:
    """One clip as a trial hears it in one epoch: float32, 16 kHz; shorter or longer only by time_stretch_rate."""
    if not augmentation.on_waveform:
        return samples
    chain = _chain(augmentation)
    with _seeded(_seed(seed, epoch, utterance)):
        changed: Samples = chain(samples=samples, sample_rate=SAMPLE_RATE)
    return np.ascontiguousarray(changed, dtype=np.float32)


def mask(features: Features, augmentation: Augmentation, seed: int, epoch: int, utterance: str, frames: int) -> None:
    """SpecAugment in place on one clip (mel bins, frames): bands set to its mean, within its `frames` of sound."""
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
) -> Features:
    """Features of a batch as a trial hears it: (clips, mel bins, frames), fp16.

    Args:
        speech: the prepared data.
        waveforms: the training clips' samples; may be None where the augmentation only masks features.
        extractor: the model's own.
        augmentation: what to do.
        rows: of the batch.
        epochs: how often the trial saw each row's clip before, so that each time sounds different.
        seed: the trial's.
    """
    names = [speech.utterances[row].id for row in rows]
    if augmentation.on_waveform:
        assert waveforms is not None, "an augmentation of waveforms needs open_waveforms(speech)"
        window = int(extractor.n_samples)
        clips = [
            augment(waveforms[row], augmentation, seed, epoch, name)[:window]
            for row, epoch, name in zip(rows, epochs, names, strict=True)
        ]
        features = log_mel(extractor, clips)
        frames = [-(-len(clip) // int(extractor.hop_length)) for clip in clips]
    else:
        features = np.array(speech.features[np.asarray(rows)])
        rate = SAMPLE_RATE / int(extractor.hop_length)
        frames = [round((speech.utterances[row].seconds or 0.0) * rate) for row in rows]
    if augmentation.on_features:
        for place, (name, epoch) in enumerate(zip(names, epochs, strict=True)):
            mask(features[place], augmentation, seed, epoch, name, max(1, min(frames[place], features.shape[2])))
    return features


def _seed(seed: int, epoch: int, utterance: str, use: str = "") -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{epoch}:{use}:{utterance}".encode()).digest()[:4], "big")


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Audiomentations draws from the two global generators; the trial's own draws must not depend on that."""
    with DRAWING:
        state, numpy_state = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)


@functools.lru_cache(maxsize=8)
def _chain(augmentation: Augmentation) -> Any:
    """Audiomentations' transforms, in the order in which a recording comes to be: voice, room, noise, level."""
    import audiomentations as a  # takes a second (numba), which only augmented trials pay

    chain, p = [], augmentation.p
    if (pitch := augmentation.pitch_semitones) is not None:
        chain.append(a.PitchShift(min_semitones=pitch[0], max_semitones=pitch[1], p=p))
    if (rate := augmentation.time_stretch_rate) is not None:
        chain.append(a.TimeStretch(min_rate=rate[0], max_rate=rate[1], leave_length_unchanged=False, p=p))
    if augmentation.room:
        # Ray tracing draws from a generator that cannot be seeded; image sources are exact.
        chain.append(a.RoomSimulator(use_ray_tracing=False, max_order=3, leave_length_unchanged=True, p=p))
    if (snr := augmentation.snr_db) is not None:
        if augmentation.noise_folder is None:
            chain.append(a.AddGaussianSNR(min_snr_db=snr[0], max_snr_db=snr[1], p=p))
        else:
            sounds = _sounds(augmentation)
            chain.append(a.AddBackgroundNoise(sounds_path=sounds, min_snr_db=snr[0], max_snr_db=snr[1], p=p))
    if (gain := augmentation.gain_db) is not None:
        chain.append(a.Gain(min_gain_db=gain[0], max_gain_db=gain[1], p=p))
    return a.Compose(chain)


def _sounds(augmentation: Augmentation) -> list[str]:
    folder = augmentation.noise_folder
    assert folder is not None
    # Sorted, or the order of the file system would decide which noise a seed draws.
    found = sorted(str(path) for path in folder.expanduser().rglob("*") if path.suffix.lower() in SOUNDS)
    if not found:
        endings = ", ".join(sorted(SOUNDS))
        raise UserError(f"augmentation {augmentation.name}: noise_folder {folder} holds no recordings ({endings})")
    return found
