"""Compute log-mel features with the model's own extractor, without computing the padding behind short clips."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from transformers import WhisperFeatureExtractor

from harness.data.audio import SAMPLE_RATE, Samples

GROUP = 16  # clips per call: enough to amortize it, few enough for the cache of a core


def log_mel(extractor: WhisperFeatureExtractor, clips: Sequence[Samples]) -> npt.NDArray[np.float16]:
    """Return features of shape (clips, mel bins, frames), fp16, equal to `extractor(clips)` rounded to fp16.

    All frames that lie entirely in the padding are equal, so one of them is computed and repeated: a clip of 3 s costs
    a tenth of one of 30 s.
    """
    shape = (len(clips), extractor.feature_size, extractor.nb_max_frames)
    features = np.empty(shape, dtype=np.float16)
    by_length = sorted(range(len(clips)), key=lambda index: len(clips[index]))
    for start in range(0, len(clips), GROUP):
        group = by_length[start : start + GROUP]
        mel = extractor(
            [clips[index] for index in group],
            sampling_rate=SAMPLE_RATE,
            max_length=_samples_needed(extractor, len(clips[group[-1]])),
            return_tensors="np",
        ).input_features
        features[group, :, : mel.shape[2]] = mel
        features[group, :, mel.shape[2] :] = mel[:, :, -1:]
    return features


def _samples_needed(extractor: WhisperFeatureExtractor, longest: int) -> int:
    """Return the length up to a frame of padding only, even where the STFT mirrors the end; at most the window."""
    hop: int = extractor.hop_length
    needed = -(-(longest + int(extractor.n_fft) + hop) // hop) * hop
    return min(int(extractor.n_samples), needed)
