"""Samples and features against scipy and the model's own extractor."""

import numpy as np
import pytest
import soundfile
from recordings import tone, write_clip, write_table
from scipy.signal import chirp, resample_poly
from transformers import WhisperFeatureExtractor

from harness.data.audio import decode
from harness.data.store.log_mel import log_mel


@pytest.mark.parametrize(("bins", "window"), [(80, 30), (128, 30), (80, 3)])
def test_log_mel_is_the_extractors_to_fp16_rounding(bins, window):
    extractor = WhisperFeatureExtractor(feature_size=bins, chunk_length=window)
    generator = np.random.default_rng(0)
    lengths = [0.1, 0.5, 1.0, 1.7, window - 0.04, window - 0.02, window]
    clips = [generator.standard_normal(round(16_000 * seconds)).astype(np.float32) * 0.1 for seconds in lengths]
    clips += [np.zeros(8_000, np.float32), tone(1.3)[:, 0], np.r_[tone(0.4)[:, 0], np.zeros(9_001, np.float32)]]
    expected = extractor(clips, sampling_rate=16_000, return_tensors="np").input_features
    got = log_mel(extractor, clips)
    assert got.dtype == np.float16 and got.shape == expected.shape == (len(clips), bins, 100 * window)
    # fp16 rounding is half a unit in the last place; another summation order may tip a value over to its neighbour.
    difference = np.abs(got.astype(np.float32) - expected)
    assert (difference <= np.spacing(np.abs(expected).astype(np.float16)).astype(np.float32)).all()
    assert (got == expected.astype(np.float16)).mean() > 0.9999


def test_features_in_the_cache_are_those_of_the_files(tmp_path, prepared, extractor):
    rows = []
    for number, split in enumerate(["train", "train", "validation", "test"]):
        write_clip(tmp_path / f"s/{number}.wav", 0.4 + number, pitch=150 + 50 * number)
        rows.append({"file": f"{number}.wav", "text": "a", "split": split})
    write_table(tmp_path / "s/metadata.csv", rows)
    speech = prepared(folder=tmp_path / "s")
    for row, utterance in enumerate(speech.utterances):
        samples, _ = soundfile.read(tmp_path / "s" / utterance.file, dtype="float32")
        expected = extractor(samples, sampling_rate=16_000, return_tensors="np").input_features[0]
        np.testing.assert_allclose(speech.features[row], expected.astype(np.float16), rtol=2e-3, atol=1e-6)
        assert utterance.seconds == pytest.approx(len(samples) / 16_000, abs=0.001)


@pytest.mark.parametrize("rate", [8_000, 22_050, 24_000, 44_100, 48_000])
def test_mix_down_and_resampling_against_scipy(tmp_path, rate):
    """A chirp below both Nyquist rates, another on each channel: scipy's polyphase filter says the same."""
    seconds = 2.0
    time = np.arange(round(seconds * rate)) / rate
    left = 0.4 * chirp(time, 100, seconds, 0.4 * min(rate, 16_000))
    right = 0.2 * chirp(time, 300, seconds, 1000)
    soundfile.write(tmp_path / "chirp.wav", np.stack([left, right], axis=1), rate, subtype="FLOAT")
    got = decode(tmp_path / "chirp.wav")
    common = np.gcd(rate, 16_000)
    expected = resample_poly((left + right) / 2, 16_000 // common, rate // common, window=("kaiser", 14.0))
    assert len(got) == pytest.approx(seconds * 16_000, abs=1) and got.dtype == np.float32
    inner = slice(1600, 30_400)  # the two filters meet the file's ends differently
    signal, error = expected[inner], got[inner] - expected[inner]
    assert 10 * np.log10((signal**2).mean() / (error**2).mean()) > 40


def test_resampling_removes_what_16_khz_cannot_hold(tmp_path):
    time = np.arange(2 * 48_000) / 48_000
    soundfile.write(tmp_path / "high.wav", 0.5 * np.sin(2 * np.pi * 11_000 * time), 48_000, subtype="FLOAT")
    assert np.abs(decode(tmp_path / "high.wav")[800:-800]).max() < 1e-3
