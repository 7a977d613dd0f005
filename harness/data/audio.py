"""Decode audio files to 16 kHz mono samples."""

import hashlib
import io
import re
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

SAMPLE_RATE = 16_000
QUALITY = "HQ"
RESAMPLER = f"soxr {QUALITY}"
UNSUPPORTED = {".m4a", ".aac", ".mp4", ".wma", ".webm", ".amr", ".3gp"}
UNKNOWN_SIZE = 0x7FFFF000  # from here on, and 0, sizes in the header of a wav file that was written to a pipe
LAYER_3 = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]..", re.DOTALL)  # the first bytes of an mp3's frame

Samples = npt.NDArray[np.float32]


class UndecodableError(Exception):
    """The file is not audio that soundfile reads, is truncated, or contains samples that are not finite."""


def decode(path: Path, offset: float | None = None, duration: float | None = None) -> Samples:
    """Decode a file, mix it down by the mean of the channels, and resample it.

    Args:
        path: A file that libsndfile reads: wav, flac, ogg, opus, mp3 and others.
        offset: Start in seconds; None for the whole file.
        duration: Seconds to read from there; None to read to the end.

    Returns:
        Samples in [-1, 1], float32, of shape (samples,).

    Raises:
        UndecodableError: The file cannot be decoded; the reason contains no path.
    """
    return decode_with_digest(path, offset, duration)[0]


def decode_with_digest(path: Path, offset: float | None = None, duration: float | None = None) -> tuple[Samples, str]:
    """Decode a file as `decode` does.

    Returns:
        The samples, and a digest of the file's bytes or, if only a part is read, of that part's samples.
    """
    if offset is not None:  # do not read the whole file: an hour's recording may contain a thousand clips
        samples = _decode(path, path.suffix, offset, duration)
        return samples, _digest(samples.tobytes())
    content = read_bytes(path)
    return _decode(content, path.suffix), _digest(content)


def audio_digest(path: Path, offset: float | None = None, duration: float | None = None) -> str:
    """Return the digest of `decode_with_digest`; audio is decoded only if a part is read."""
    return _digest(read_bytes(path)) if offset is None else decode_with_digest(path, offset, duration)[1]


def read_bytes(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        UndecodableError: The file cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UndecodableError("the file is missing") from None
    except OSError as error:
        raise UndecodableError(f"the file cannot be read: {error.strerror}") from None


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def _decode(source: bytes | Path, suffix: str, offset: float | None = None, duration: float | None = None) -> Samples:
    if source == b"":
        raise UndecodableError("the file is empty")
    if isinstance(source, bytes):
        _check_complete(source)
    try:
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            samples, rate = _read(file, offset, duration), file.samplerate
    except (soundfile.LibsndfileError, OSError, TypeError, RuntimeError) as error:
        raise UndecodableError(_reason(error, source, suffix)) from None
    if not len(samples):
        raise UndecodableError("contains no samples")
    mono: Samples = samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise UndecodableError("contains samples that are not finite")
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality=QUALITY)
    return mono.astype(np.float32, copy=False)


def _read(file: soundfile.SoundFile, offset: float | None, duration: float | None) -> Samples:
    if offset is None:
        samples: Samples = file.read(dtype="float32", always_2d=True)
        return samples
    start = round(offset * file.samplerate)
    if start >= file.frames:
        raise UndecodableError(f"starts at {offset:g} s of a file of {file.frames / file.samplerate:g} s")
    file.seek(start)
    part: Samples = file.read(
        -1 if duration is None else round(duration * file.samplerate), dtype="float32", always_2d=True
    )
    return part


def _check_complete(content: bytes) -> None:
    """Detect truncated wav, ogg and mp3 files, which libsndfile reads without an error."""
    expected = 0
    if content[:4] == b"RIFF" and len(content) >= 12:
        (size,) = struct.unpack("<I", content[4:8])
        expected = 0 if size >= UNKNOWN_SIZE else size + 8 - 1  # the last byte may be padding that was not written
    elif content[:4] == b"OggS":
        expected = _last_ogg_page_end(content)
    elif content[:3] == b"ID3" or content[:1] == b"\xff":
        expected = _mp3_end(content)
    if len(content) < expected:
        raise UndecodableError(f"the file is truncated: {len(content):,} bytes of {expected:,}")


def _last_ogg_page_end(content: bytes) -> int:
    """Return the end of the last page of an Ogg file according to its segment table."""
    page = content.rfind(b"OggS")
    if page + 27 > len(content):
        return page + 27
    segments = content[page + 26]
    table = content[page + 27 : page + 27 + segments]
    return page + 27 + segments + sum(table)


def _mp3_end(content: bytes) -> int:
    """Return where an mp3 ends by the Xing or Info header of its first frame; 0 if it has none with a size.

    ID3 tags stand before that frame, and may contain any text. Encoders differ in what they count, by a frame or two:
    of the audio, 5 % may be missing.
    """
    start = 0
    while content[start : start + 3] == b"ID3" and len(content) >= start + 10:
        size = content[start + 6 : start + 10]  # 7 bits a byte
        start += 10 + sum(byte << shift for byte, shift in zip(size, (21, 14, 7, 0), strict=True))
    frame = LAYER_3.search(content, start)
    if frame is None:
        return start
    first, (_, version, _, mode) = frame.start(), frame.group()
    mpeg_1, mono = version >= 0xFA, mode >= 0xC0
    header = first + 4 + ((17 if mono else 32) if mpeg_1 else (9 if mono else 17))
    name, flags = content[header : header + 4], int.from_bytes(content[header + 4 : header + 8])
    if name not in (b"Xing", b"Info") or not flags & 2:
        return 0
    place = header + (12 if flags & 1 else 8)  # the number of frames, if given, comes first
    return first + int(0.95 * int.from_bytes(content[place : place + 4], "big"))


def _reason(error: Exception, source: bytes | Path, suffix: str) -> str:
    if isinstance(source, Path) and not source.is_file():
        return "the file is missing"
    extension = suffix.lower()
    if extension in UNSUPPORTED:
        return f"{extension} is not supported; convert it, for example: ffmpeg -i IN{extension} OUT.flac"
    message = error.error_string if isinstance(error, soundfile.LibsndfileError) else type(error).__name__
    return f"not read as audio: {message}"
