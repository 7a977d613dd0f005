"""Samples -> log-mel features, by the model's own extractor, without computing the silence behind short clips."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from transformers import WhisperFeatureExtractor

from harness.data.audio import SAMPLE_RATE, Samples

GROUP = 16  # clips in one call: enough to amortise it, few enough to stay in the cache of a core


def log_mel(extractor: WhisperFeatureExtractor, clips: Sequence[Samples]) -> npt.NDArray[np.float16]:
    """Features of shape (clips, mel bins, frames), fp16, equal to `extractor(clips)` rounded to fp16.

    A window's frames that lie wholly in the padding are all alike, so one of them is computed and repeated:
    a clip of 3 s costs a tenth of one of 30 s.
    """
    shape = (len(clips), extractor.feature_size, extractor.nb_max_frames)
    features = np.empty(shape, dtype=np.float16)
    sort_by_length = sorted(range(len(clips)), key=lambda index: len(clips[index]))
    for start in range(0, len(clips), GROUP):
        group = sort_by_length[start : start + GROUP]
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
    """Up to a frame that sees only silence, even where the STFT mirrors the end; the whole window if there is none."""
    hop: int = extractor.hop_length
    needed = -(-(longest + int(extractor.n_fft) + hop) // hop) * hop
    return min(int(extractor.n_samples), needed)
