"""Define augmentations of the training audio, with the names of audiomentations and SpecAugment."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from harness.spec.base import Spec

Range = tuple[float, float]


class Augmentation(Spec):
    """A named augmentation of the training clips.

    Each waveform part that is set is applied to a clip with probability `p`; the parts are transforms of
    audiomentations. SpecAugment (Park et al. 2019) masks the features afterwards. Evaluation is not augmented.
    """

    name: str = Field(pattern=r"^[\w.-]+$", description="name in tables and parameters")
    p: float = Field(0.5, ge=0, le=1, description="probability of each waveform part, drawn for each clip")
    gain_db: Range | None = Field(None, description="Gain: lowest and highest change, dB")
    pitch_semitones: Range | None = Field(None, description="PitchShift: lowest and highest shift, semitones")
    time_stretch_rate: Range | None = Field(
        None, description="TimeStretch: lowest and highest rate; 1.1 is a tenth faster. No clip leaves the window"
    )
    noise_folder: Path | None = Field(
        None, description="AddBackgroundNoise: folder of noise recordings, searched recursively"
    )
    snr_db: Range | None = Field(
        None, description="lowest and highest signal-to-noise ratio, dB; white noise without noise_folder"
    )
    room: bool = Field(False, description="RoomSimulator: a small simulated room (pyroomacoustics, image sources)")
    time_masks: int = Field(0, ge=0, description="SpecAugment: number of masked bands of frames")
    time_mask_frames: int = Field(50, ge=1, description="SpecAugment: largest width of a band, in frames of 10 ms")
    frequency_masks: int = Field(0, ge=0, description="SpecAugment: number of masked bands of mel bins")
    frequency_mask_bins: int = Field(10, ge=1, description="SpecAugment: largest width of a band, in mel bins")

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        for field in ("gain_db", "pitch_semitones", "time_stretch_rate", "snr_db"):
            value: Range | None = getattr(self, field)
            if value is not None and value[0] > value[1]:
                raise ValueError(f"{field} needs the lower value first")
        for field, lowest, highest in (("time_stretch_rate", 0.1, 10), ("pitch_semitones", -24, 24)):
            value = getattr(self, field)
            if value is not None and (value[0] < lowest or value[1] > highest):
                raise ValueError(f"{field} must lie between {lowest} and {highest}")
        if self.noise_folder is not None and self.snr_db is None:
            raise ValueError("noise_folder needs snr_db: [LOWEST, HIGHEST]")
        if not self.on_waveform and not self.on_features:
            raise ValueError("the augmentation changes nothing; set at least one part, such as gain_db: [-6, 6]")
        return self

    @property
    def on_waveform(self) -> bool:
        """Whether it changes samples, so that the features of each clip must be computed again."""
        parts = (self.gain_db, self.pitch_semitones, self.time_stretch_rate, self.snr_db)
        return self.room or any(part is not None for part in parts)

    @property
    def on_features(self) -> bool:
        """Whether it masks features."""
        return bool(self.time_masks or self.frequency_masks)
