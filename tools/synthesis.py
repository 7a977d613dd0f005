"""Offline speech synthesis through the espeak-ng library that PyPI's espeakng-loader carries."""

import ctypes
import functools
from _ctypes import dlclose
from dataclasses import dataclass

import espeakng_loader
import numpy as np
import soxr

SYNTH_RATE = 22_050  # what espeak-ng renders, in Hz

# From espeak-ng's speak_lib.h: synchronous output, "do not exit on error", UTF-8 text, the rate and pitch parameters.
OUTPUT_SYNCHRONOUS, DONT_EXIT, CHARS_UTF8, RATE, PITCH = 2, 0x8000, 1, 1, 3

_pieces: list[np.ndarray] = []


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
def _collect(samples, count, _events):
    if samples and count > 0:
        _pieces.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
    return 0


class _VoiceEntry(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_char_p),
        ("identifier", ctypes.c_char_p),
        *[(field, ctypes.c_ubyte) for field in ("gender", "age", "variant", "xx1")],
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    ]


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_VoiceEntry))
    library.espeak_SetSynthCallback(_collect)
    data = str(espeakng_loader.get_data_path()).encode()
    if library.espeak_Initialize(OUTPUT_SYNCHRONOUS, 0, data, DONT_EXIT) != SYNTH_RATE:
        raise RuntimeError("espeak-ng did not initialise")
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    return library


@functools.cache
def accents() -> dict[str, str]:
    """espeak-ng's language tag -> the identifier that it wants instead of the tag."""
    library = _load()
    entries, found, place = library.espeak_ListVoices(None), {}, 0
    while entries[place]:
        entry = entries[place].contents
        found.setdefault(entry.languages[1:].decode().lower(), entry.identifier.decode())
        place += 1
    dlclose(library._handle)
    return found


@dataclass(frozen=True)
class Utterance:
    """What to say and how: rate in words a minute (80 to 450), pitch 0 to 99, noise as an SNR in dB or None."""

    text: str
    voice: str  # "<accent>+<variant>", for example "en-gb-scotland+f3"
    rate: int
    pitch: int
    snr: float | None
    seed: int


def speak(utterance: Utterance) -> np.ndarray:
    """Render to float32 mono at SYNTH_RATE, peak 0.5 before noise; equal arguments give equal samples.

    The library keeps state between calls, so every call loads it afresh (half a millisecond).
    """
    accent, _, variant = utterance.voice.partition("+")
    library = _load()
    name = accents()[accent] + (f"+{variant}" if variant else "")
    if library.espeak_SetVoiceByName(name.encode()) != 0:
        raise ValueError(f"unknown espeak-ng voice {utterance.voice!r}")
    library.espeak_SetParameter(RATE, utterance.rate, 0)
    library.espeak_SetParameter(PITCH, utterance.pitch, 0)
    _pieces.clear()
    text = utterance.text.encode() + b"\0"
    library.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, 1, 0, CHARS_UTF8, None, None)
    library.espeak_Terminate()
    dlclose(library._handle)
    clean = np.concatenate(_pieces).astype(np.float32)
    clean *= 0.5 / max(1.0, float(np.abs(clean).max()))
    return clean if utterance.snr is None else add_noise(clean, utterance.snr, utterance.seed)


def add_noise(clean: np.ndarray, snr: float, seed: int) -> np.ndarray:
    """Add white noise at a signal-to-noise ratio in dB over the whole clip; never louder than full scale."""
    noise = np.random.default_rng(seed).standard_normal(len(clean), dtype=np.float32)
    noise *= np.sqrt(np.mean(clean**2) / np.mean(noise**2) / 10 ** (snr / 10))
    noisy = clean + noise
    return noisy / max(1.0, float(np.abs(noisy).max()))


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Resample from SYNTH_RATE to `rate`."""
    return soxr.resample(samples, SYNTH_RATE, rate, quality="HQ").astype(np.float32)
