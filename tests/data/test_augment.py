"""Augmentation: heard again the same, different in each epoch, and only what is asked for."""

import random

import numpy as np
import pytest
from recordings import make_folder, tone, write_clip

from harness import catalog
from harness.data.augment import augment, augmented_features
from harness.data.store.waveforms import open_waveforms
from harness.errors import UserError
from harness.spec.augmentation import Augmentation

PARTS = {
    "gain_db": (-12, -6),
    "pitch_semitones": (2, 3),
    "time_stretch_rate": (1.2, 1.3),
    "snr_db": (5, 10),
    "room": True,
}


def always(**parts) -> Augmentation:
    return Augmentation(name="test", p=1.0, **parts)


@pytest.fixture
def voice() -> np.ndarray:
    generator = np.random.default_rng(0)
    return (tone(1.0)[:, 0] * (1 + 0.3 * generator.standard_normal(16_000))).astype(np.float32)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_changes_the_clip_the_same_way_again(voice, part):
    what = always(**{part: PARTS[part]})
    once = augment(voice, what, 1, 0, "a")
    np.testing.assert_array_equal(augment(voice, what, 1, 0, "a"), once)
    assert once.dtype == np.float32 and np.isfinite(once).all()
    assert len(once) != len(voice) or not np.allclose(once, voice)
    for other in [(2, 0, "a"), (1, 1, "a"), (1, 0, "b")]:
        changed = augment(voice, what, *other)
        assert len(changed) != len(once) or not np.array_equal(changed, once), other


def test_gain_and_stretch_do_what_their_numbers_say(voice):
    quiet = augment(voice, always(gain_db=(-6, -6)), 1, 0, "a")
    np.testing.assert_allclose(quiet, voice * 10 ** (-6 / 20), rtol=1e-4)
    assert len(augment(voice, always(time_stretch_rate=(1.25, 1.25)), 1, 0, "a")) == pytest.approx(12_800, rel=0.02)
    noisy = augment(voice, always(snr_db=(10, 10)), 1, 0, "a")
    ratio = 10 * np.log10((voice**2).mean() / ((noisy - voice) ** 2).mean())
    assert ratio == pytest.approx(10, abs=0.5)


def level(samples: np.ndarray) -> float:
    return float(10 * np.log10((samples.astype(np.float64) ** 2).mean()))


LEVELS = {  # part -> lowest and highest change of the level, dB
    "gain_db": (-12.1, -5.9),
    "pitch_semitones": (-3, 1),
    "time_stretch_rate": (-2, 2),
    "snr_db": (0.3, 1.3),  # noise of 5 to 10 dB below the speech is added
    "room": (-0.1, 0.1),
}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_keeps_level_and_peak(voice, part):
    """A simulated room once raised speech by 8 to 18 dB, to peaks of 3."""
    quiet = 0.1 * voice
    for number in range(8):
        changed = augment(quiet, always(**{part: PARTS[part]}), 1, number, "a")
        assert LEVELS[part][0] <= level(changed) - level(quiet) <= LEVELS[part][1]
        assert np.abs(changed).max() < 0.5


@pytest.mark.parametrize("name", catalog.names("augmentations"))
def test_those_that_ship_stay_within_full_scale(voice, name):
    what = catalog.augmentation(name).model_copy(update={"p": 1.0})
    loud = voice * (0.95 / np.abs(voice).max())
    for number in range(8):
        changed = augment(loud, what, 1, number, "a")
        assert np.abs(changed).max() <= 1 + 1e-6
        assert -9 <= level(changed) - level(loud) <= 6.5


def test_a_stretched_clip_keeps_its_end(voice):
    """Of a clip that nearly fills the window, the end was once cut off, and its text kept."""
    slow = always(time_stretch_rate=(0.8, 1.25))
    ended = np.concatenate([np.zeros(15_000, np.float32), 3 * tone(0.0625)[:, 0]])
    free = [len(augment(ended, slow, 1, epoch, "a")) for epoch in range(8)]
    fitted = [augment(ended, slow, 1, epoch, "a", longest=17_000) for epoch in range(8)]
    assert max(free) > 17_500 and max(map(len, fitted)) <= 17_000
    for clip in fitted:
        assert np.abs(clip[-400:]).max() > 0.1, "the tone at the end is lost"
    assert len({len(clip) for clip in fitted}) > 4, "clips that fit are stretched"
    unfit = augment(ended, always(time_stretch_rate=(0.8, 0.9)), 1, 0, "a", longest=16_500)
    np.testing.assert_array_equal(unfit, ended)


def test_a_stretched_clip_fits_the_window_of_the_trial(tmp_path, prepared, extractor):
    make_folder(tmp_path / "s")  # half a second each
    speech = prepared(folder=tmp_path / "s")
    rows, waveforms = speech.rows("train"), open_waveforms(speech)
    slow = always(time_stretch_rate=(0.5, 1.0))
    got = augmented_features(speech, waveforms, extractor, slow, rows, [0] * len(rows), seed=1, window=60)
    assert got.shape == (len(rows), 80, 60)
    silence = got[:, :, -1:]
    assert (got[:, :, 48] != silence[:, :, 0]).any(axis=1).all()
    wide = augmented_features(speech, waveforms, extractor, slow, rows, [0] * len(rows), seed=1)
    assert wide.shape[2] == 3000 and np.abs(wide[:, :, 65:95] - wide[:, :, -1:]).max() > 0.5


def test_noise_comes_from_the_folder(tmp_path, voice):
    with pytest.raises(UserError, match="contains no recordings"):
        augment(voice, always(noise_folder=tmp_path / "empty", snr_db=(0, 0)), 1, 0, "a")
    write_clip(tmp_path / "noise/hum.wav", 3.0, pitch=3000)
    noisy = augment(voice, always(noise_folder=tmp_path / "noise", snr_db=(0, 0)), 1, 0, "a")
    added = np.abs(np.fft.rfft(noisy - voice))
    assert added.argmax() == pytest.approx(3000, abs=2)


def test_the_trials_own_generators_are_left_alone(voice):
    random.seed(3)
    np.random.seed(3)
    expected = random.random(), np.random.random()
    random.seed(3)
    np.random.seed(3)
    augment(voice, always(gain_db=(-6, 6)), 1, 0, "a")
    assert (random.random(), np.random.random()) == expected


def test_a_probability_of_0_leaves_the_features_as_they_are(tmp_path, prepared, extractor):
    make_folder(tmp_path / "s")
    speech = prepared(folder=tmp_path / "s")
    rows = speech.rows("train")[:4]
    waveforms = open_waveforms(speech)
    nothing = Augmentation(name="nothing", p=0.0, gain_db=(-6, 6))
    got = augmented_features(speech, waveforms, extractor, nothing, rows, [0] * 4, seed=1)
    np.testing.assert_allclose(got, speech.features[rows], atol=2e-2)  # samples of 16 bit
    changed = augmented_features(speech, waveforms, extractor, always(snr_db=(0, 5)), rows, [0] * 4, seed=1)
    assert np.abs(changed.astype(np.float32) - got)[:, :, :50].mean() > 0.1


def test_waveforms_are_cached_and_made_anew_when_damaged(tmp_path, prepared):
    make_folder(tmp_path / "s")
    speech = prepared(folder=tmp_path / "s")
    row = speech.rows("train")[2]
    samples = open_waveforms(speech)[row]
    np.testing.assert_allclose(samples, speech.samples(speech.utterances[row]), atol=1 / 32767)
    file = speech.entry / "waveforms.i16"
    written = file.stat().st_mtime_ns
    open_waveforms(speech)
    assert file.stat().st_mtime_ns == written
    file.write_bytes(file.read_bytes()[:-100])
    np.testing.assert_array_equal(open_waveforms(speech)[row], samples)


def test_specaugment_masks_bands_within_the_sound(tmp_path, prepared, extractor):
    make_folder(tmp_path / "s")
    speech = prepared(folder=tmp_path / "s")
    what = Augmentation(name="masks", time_masks=1, time_mask_frames=10, frequency_masks=1, frequency_mask_bins=8)
    rows = speech.rows("train")
    plain = np.array(speech.features[rows])
    got = augmented_features(speech, None, extractor, what, rows, [0] * len(rows), seed=1)
    np.testing.assert_array_equal(got, augmented_features(speech, None, extractor, what, rows, [0] * len(rows), seed=1))
    changed = got != plain
    assert changed.any(axis=(1, 2)).sum() >= len(rows) - 1
    assert not changed[:, :, 50:].any(), "silence behind the half second of sound was masked"
    assert changed.any(axis=1).sum(axis=1).max() <= 50 and changed.any(axis=2).sum() > 0
    np.testing.assert_array_equal(plain, speech.features[rows])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "changes nothing"),
        ({"gain_db": (6, -6)}, "lower value first"),
        ({"noise_folder": "x"}, "needs snr_db"),
        ({"time_stretch_rate": (0.05, 1)}, "between 0.1 and 10"),
        ({"pitch_semitones": (-1, 25)}, "between -24 and 24"),
        ({"gane_db": (1, 2)}, "did you mean 'gain_db'"),
    ],
)
def test_a_wrong_augmentation_is_refused(fields, said):
    with pytest.raises(UserError, match=said):
        Augmentation.parse({"name": "x", **fields}, "x.yaml")


def test_those_that_ship_are_valid_and_run(voice):
    for name in catalog.names("augmentations"):
        what = catalog.augmentation(name)
        assert what.name == name
        assert np.isfinite(augment(voice, what, 1, 0, "a")).all()
