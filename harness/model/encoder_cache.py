"""What the frozen first layers of the encoder make of each utterance: computed once, for all trials that share them."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from filelock import FileLock
from torch import Tensor

from harness.data.batches import chunks
from harness.data.store.prepare import Speech
from harness.model.base import HALVES, Base
from harness.model.parameters import POSITIONS_PER_SECOND, dimensions_of, frozen_layers
from harness.model.split_encoder import run_first_layers
from harness.spec.trial import Precision, TrialConfig

VERSION = 1  # of what is stored: raise it when the content for the same input changes
SPARE_BYTES = 2**30  # of the disk, left free
PORTION = 512  # utterances after which what is computed is marked so


@dataclass(frozen=True)
class LogMelInputs:
    """Log-mel features as prepared: (clips, mel bins, frames), fp32."""

    speech: Speech
    frames: int
    depth: None = None

    def take(self, rows: Sequence[int]) -> Tensor:
        """The features of some rows, in their order."""
        return torch.from_numpy(np.asarray(self.speech.features[np.asarray(rows), :, : self.frames], dtype=np.float32))


@dataclass
class EncoderStates:
    """States behind `depth` layers, (clips, positions, width), mapped from a file that processes share.

    The encoder's output is kept in the precision of what takes it: in a half precision that is exact but for adapters
    of cross-attention with dropout, which round it once more. States before its end are summed on in fp32.
    """

    mel: LogMelInputs
    depth: int
    states: npt.NDArray[np.float32 | np.uint16]
    filled: npt.NDArray[np.bool_]
    dtype: torch.dtype
    resident: Tensor | None = None  # a copy on the GPU,
    copied: npt.NDArray[np.bool_] | None = None  # and what was filled when it was made

    def copy_to(self, device: torch.device) -> None:
        """Keep what is filled in a device's memory too."""
        self.copied = np.array(self.filled)
        self.resident = torch.from_numpy(self.states).view(self.dtype).to(device, copy=True)

    def take(self, rows: Sequence[int]) -> Tensor:
        """The states of some rows, in their order; `fill` has computed them."""
        if self.resident is not None:
            return self.resident[torch.as_tensor(rows, device=self.resident.device)]
        return torch.from_numpy(self.states[np.asarray(rows)]).view(self.dtype)

    def fill(self, rows: Sequence[int], base: Base, batch_size: int, accelerator: Accelerator) -> int:
        """Compute those of some rows that are missing; several processes share the work. Returns how many."""
        missing = sorted({row for row in rows if not self.filled[row]})
        mine, encoder = missing[accelerator.process_index :: accelerator.num_processes], base.model.model.encoder
        encoder.eval()
        for portion in chunks(mine, PORTION):
            for batch in chunks(portion, batch_size):
                with torch.inference_mode(), accelerator.autocast():
                    made = run_first_layers(encoder, self.mel.take(batch).to(base.device), self.depth)
                self.states[batch] = made.to("cpu", self.dtype).contiguous().view(_stored(self.dtype)[1]).numpy()
            self.states.flush()  # type: ignore[attr-defined]  # states before marks, should the machine go down
            self.filled[portion] = True
        accelerator.wait_for_everyone()
        if self.copied is not None and not self.copied[list(rows)].all():  # filled here, or by another process
            self.resident = None
        return len(missing)


@dataclass
class EncoderStateCache:
    """The cache of a study's data: a file for each model, depth, precision and window. Without a folder it is off."""

    speech: Speech
    folder: Path | None
    roomy: bool = True  # the GPU's memory may hold states
    opened: dict[str, EncoderStates] = field(default_factory=dict)
    fingerprints: dict[tuple[int, int], str] = field(default_factory=dict)

    def of(self, base: Base, config: TrialConfig, precision: Precision) -> EncoderStates | None:
        """What a configuration's trial shares with others; None where it trains its first layer, or the disk is full.

        The base must be as it was loaded, without an adapter.
        """
        depth, window = frozen_layers(dimensions_of(base.model.config), config), config.encoder_window_seconds
        positions = base.model.config.max_source_positions
        positions = positions if window is None else round(window * POSITIONS_PER_SECOND)
        if self.folder is None or depth == 0 or base.model.config.encoder_layerdrop > 0:
            return None
        about = {
            "version": VERSION,
            "model": base.name,
            "weights": self._fingerprint(base, depth),
            "base_weights": base.weights,
            "layers": depth,
            "precision": precision,
            "device": base.device.type,
            "positions": positions,
            "features": self.speech.entry.name,
            "torch": torch.__version__,
        }
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:20]
        if key not in self.opened:
            whole = depth == base.model.config.encoder_layers
            dtype = HALVES.get(precision, torch.float32) if whole else torch.float32
            shape = (len(self.speech.utterances), positions, base.model.config.d_model)
            encoder_states = self._open(self.folder / key, about, shape, depth, dtype)
            if encoder_states is None:
                return None
            self.opened[key] = encoder_states
        return self.opened[key]

    def settle(self, encoder_states: EncoderStates, device: torch.device, room: int | None = None) -> int:
        """Have a GPU keep filled states in its memory, where they fit into `room`: by default a quarter of it.

        Only the newest are kept. Returns the bytes that it then holds of them.
        """
        if room is None:
            room = torch.cuda.get_device_properties(device).total_memory // 4 if device.type == "cuda" else 0
        if not self.roomy or encoder_states.states.nbytes > room:
            return 0
        if encoder_states.resident is None:
            self._let_go()
            encoder_states.copy_to(device)
        return encoder_states.states.nbytes

    def release(self) -> bool:
        """Give that memory back, and take none again; False where there was none to give."""
        self.roomy = False
        return self._let_go()

    def _let_go(self) -> bool:
        held = [encoder_states for encoder_states in self.opened.values() if encoder_states.resident is not None]
        for encoder_states in held:
            encoder_states.resident = None
        return bool(held)

    def _open(
        self, folder: Path, about: dict[str, object], shape: tuple[int, int, int], depth: int, dtype: torch.dtype
    ) -> EncoderStates | None:
        rows, kind = shape[0], _stored(dtype)[0]
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (folder / "entry.json").is_file():
                needed = int(np.prod(shape)) * kind.itemsize
                if shutil.disk_usage(folder.parent).free < needed + SPARE_BYTES:
                    print(f"no room for {needed / 1e9:.1f} GB of encoder states in {folder.parent}: not cached")
                    return None
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                for name, size, type_ in (("states.bin", shape, kind), ("filled.bin", (rows,), np.dtype(bool))):
                    np.memmap(folder / name, type_, "w+", shape=size)
                about = about | {"task": self.speech.task.name, "shape": shape, "dtype": str(dtype)}
                (folder / "entry.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        states = np.memmap(folder / "states.bin", kind, "r+", shape=shape)
        filled = np.memmap(folder / "filled.bin", bool, "r+", shape=(rows,))
        return EncoderStates(LogMelInputs(self.speech, 2 * shape[1]), depth, states, filled, dtype)

    def _fingerprint(self, base: Base, depth: int) -> str:
        """A name for the weights before the first trainable one. Positions are sinusoids, of which a window is cut."""
        key = id(base.model.model.encoder.conv1.weight), depth  # views of a base share its weights
        if key not in self.fingerprints:
            seen = hashlib.blake2b(digest_size=16)
            later = [f"layers.{layer}." for layer in range(depth, base.model.config.encoder_layers)]
            for name, value in base.model.model.encoder.named_parameters():
                if not name.startswith(("embed_positions.", *later)):
                    seen.update(name.encode())
                    seen.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
            self.fingerprints[key] = seen.hexdigest()
        return self.fingerprints[key]


def trains_on_cached_states(encoder_states: EncoderStates | None, config: TrialConfig) -> bool:
    """Whether training too may take cached states: nothing random acts before them."""
    random = (config.dropout, config.attention_dropout, config.activation_dropout)
    masked = (config.mask_time_prob, config.mask_feature_prob)
    return encoder_states is not None and not any(random) and not any(masked) and config.augmentation is None


def _stored(dtype: torch.dtype) -> tuple[np.dtype, torch.dtype]:
    """The kinds under which numpy and torch know a number's bits."""
    return (np.dtype(np.float32), torch.float32) if dtype == torch.float32 else (np.dtype(np.uint16), torch.uint16)
