"""Cache the output of frozen encoder layers for each utterance, computed once for all trials that share them."""

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
from accelerate.utils import gather_object
from filelock import FileLock
from torch import Tensor

from harness.data.batches import chunks
from harness.data.store.prepare import Speech
from harness.model.base import HALF_DTYPES, Base
from harness.model.split_encoder import run_first_layers
from harness.model_size.parameters import POSITIONS_PER_SECOND, dimensions_of, frozen_layers
from harness.spec.trial import Precision, TrialConfig

VERSION = 1  # of the stored states: increase it when they change for the same input
SPARE_BYTES = 2**30  # of disk space that stay free
FLUSH_EVERY = 512  # utterances; then they are marked as computed


@dataclass(frozen=True)
class LogMelInputs:
    """Log-mel features of the feature store: (clips, mel bins, frames), fp32."""

    speech: Speech
    frames: int
    depth: None = None

    def take(self, rows: Sequence[int]) -> Tensor:
        """Return the features of utterances, in the order of `rows`."""
        return torch.from_numpy(np.asarray(self.speech.features[np.asarray(rows), :, : self.frames], dtype=np.float32))


@dataclass
class EncoderStates:
    """Encoder states after `depth` layers, (clips, positions, width), memory-mapped from a file shared by processes.

    The encoder's output is stored in the trial's precision. In half precision this is exact, except for adapters of
    cross-attention with dropout, which round it once more. States of earlier layers are stored in fp32, in which the
    residual stream is summed.

    Attributes:
        mel: The features that the states are computed from.
        depth: Number of encoder layers applied.
        states: The mapped states, bf16 and fp16 as uint16.
        filled: Which utterances are computed.
        dtype: The states' type in torch.
        resident: A copy in GPU memory, if any.
        copied: `filled` as it was when `resident` was copied.
    """

    mel: LogMelInputs
    depth: int
    states: npt.NDArray[np.float32 | np.uint16]
    filled: npt.NDArray[np.bool_]
    dtype: torch.dtype
    resident: Tensor | None = None
    copied: npt.NDArray[np.bool_] | None = None

    def copy_to(self, device: torch.device) -> None:
        """Copy the states into a device's memory."""
        self.copied = np.array(self.filled)
        self.resident = torch.from_numpy(self.states).view(self.dtype).to(device, copy=True)

    def take(self, rows: Sequence[int]) -> Tensor:
        """Return the states of utterances, in the order of `rows`.

        Raises:
            RuntimeError: If states were not computed; call `fill` first.
        """
        computed = self.filled if self.resident is None or self.copied is None else self.copied
        missing = [row for row in rows if not computed[row]]
        if missing:
            raise RuntimeError(
                f"encoder states of {len(missing)} of {len(rows)} utterances are missing: rows {missing}"
            )
        if self.resident is not None:
            return self.resident[torch.as_tensor(rows, device=self.resident.device)]
        return torch.from_numpy(self.states[np.asarray(rows)]).view(self.dtype)

    def fill(self, rows: Sequence[int], base: Base, batch_size: int, accelerator: Accelerator) -> int:
        """Compute the missing states of utterances and return their number; processes of a trial share the work.

        The first process lists them for all: each would see another list, since the others are already writing.
        """
        listed = [sorted({row for row in rows if not self.filled[row]})]
        if accelerator.num_processes > 1:
            torch.distributed.broadcast_object_list(listed, src=0, device=torch.device("cpu"))
        missing = listed[0]
        own, encoder = missing[accelerator.process_index :: accelerator.num_processes], base.model.model.encoder
        encoder.eval()
        for part in chunks(own, FLUSH_EVERY):
            for batch in chunks(part, batch_size):
                with torch.inference_mode(), accelerator.autocast():
                    states = run_first_layers(encoder, self.mel.take(batch).to(base.device), self.depth)
                storage = _storage_types(self.dtype)[1]
                self.states[batch] = states.to("cpu", self.dtype).contiguous().view(storage).numpy()
            self.states.flush()  # type: ignore[attr-defined]  # before they are marked, in case the machine crashes
            self.filled[part] = True
        accelerator.wait_for_everyone()
        if self.copied is not None and not self.copied[list(rows)].all():
            self.resident = None  # lacks states that were computed since, here or by another process
        return len(missing)


@dataclass
class EncoderStateCache:
    """Encoder-state cache of a task: one file for each model, depth, precision and window.

    Attributes:
        speech: The prepared task.
        folder: Where the files are; None switches the cache off.
        use_gpu_memory: Whether states may be copied into GPU memory.
        opened: The open files, by key.
        fingerprints: Hashes of the frozen weights, by base and depth.
    """

    speech: Speech
    folder: Path | None
    use_gpu_memory: bool = True
    opened: dict[str, EncoderStates] = field(default_factory=dict)
    fingerprints: dict[tuple[int, int], str] = field(default_factory=dict)

    def open(self, base: Base, config: TrialConfig, precision: Precision) -> EncoderStates | None:
        """Open the encoder states that a configuration can use.

        The base must be in its original state, without an adapter. All processes of a trial must call it.

        Returns:
            The states; None if the configuration trains the first encoder layer, or if the disk is full.
        """
        depth, window = frozen_layers(dimensions_of(base.model.config), config), config.encoder_window_seconds
        positions = base.model.config.max_source_positions
        positions = positions if window is None else round(window * POSITIONS_PER_SECOND)
        if self.folder is None or depth == 0 or base.model.config.encoder_layerdrop > 0:
            return None
        description = {
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
        key = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:20]
        if key not in self.opened:
            complete = depth == base.model.config.encoder_layers
            dtype = HALF_DTYPES.get(precision, torch.float32) if complete else torch.float32
            shape = (len(self.speech.utterances), positions, base.model.config.d_model)
            encoder_states = self._open_file(self.folder / key, description, shape, depth, dtype)
            found = [encoder_states is not None]
            if torch.distributed.is_initialized():
                found = gather_object(found)  # the disk may be full for one process only
            if encoder_states is None or not all(found):
                return None
            self.opened[key] = encoder_states
        return self.opened[key]

    def copy_to_gpu(self, encoder_states: EncoderStates, device: torch.device, limit: int | None = None) -> int:
        """Copy filled states into GPU memory if they fit; the copy of other states is dropped.

        Args:
            encoder_states: The states.
            device: The GPU; on a CPU nothing is copied.
            limit: Bytes that may be used; by default a quarter of the GPU's memory.

        Returns:
            The bytes that the copy occupies; 0 without one.
        """
        if limit is None:
            limit = torch.cuda.get_device_properties(device).total_memory // 4 if device.type == "cuda" else 0
        if not self.use_gpu_memory or encoder_states.states.nbytes > limit:
            return 0
        if encoder_states.resident is None:
            self._drop_copies()
            encoder_states.copy_to(device)
        return encoder_states.states.nbytes

    def release_gpu_memory(self) -> bool:
        """Drop the copies in GPU memory and make no new ones; returns whether there were any."""
        self.use_gpu_memory = False
        return self._drop_copies()

    def _drop_copies(self) -> bool:
        copied = [encoder_states for encoder_states in self.opened.values() if encoder_states.resident is not None]
        for encoder_states in copied:
            encoder_states.resident = None
        return bool(copied)

    def _open_file(
        self, folder: Path, description: dict[str, object], shape: tuple[int, int, int], depth: int, dtype: torch.dtype
    ) -> EncoderStates | None:
        rows, storage = shape[0], _storage_types(dtype)[0]
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (folder / "entry.json").is_file():
                needed = int(np.prod(shape)) * storage.itemsize
                if shutil.disk_usage(folder.parent).free < needed + SPARE_BYTES:
                    print(
                        f"no room for {needed / 1e9:.1f} GB of encoder states in {folder.parent}: they are not cached"
                    )
                    return None
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                for name, size, type_ in (("states.bin", shape, storage), ("filled.bin", (rows,), np.dtype(bool))):
                    np.memmap(folder / name, type_, "w+", shape=size)
                entry = description | {"task": self.speech.task.name, "shape": shape, "dtype": str(dtype)}
                (folder / "entry.json").write_text(json.dumps(entry, indent=1), encoding="utf-8")
        states = np.memmap(folder / "states.bin", storage, "r+", shape=shape)
        filled = np.memmap(folder / "filled.bin", bool, "r+", shape=(rows,))
        return EncoderStates(LogMelInputs(self.speech, 2 * shape[1]), depth, states, filled, dtype)

    def _fingerprint(self, base: Base, depth: int) -> str:
        """Hash the frozen weights of the first `depth` layers, without positions (sinusoids, cut to the window)."""
        key = id(base.model.model.encoder.conv1.weight), depth  # views of a base share its weights
        if key not in self.fingerprints:
            digest = hashlib.blake2b(digest_size=16)
            later = [f"layers.{layer}." for layer in range(depth, base.model.config.encoder_layers)]
            for name, value in base.model.model.encoder.named_parameters():
                if not name.startswith(("embed_positions.", *later)):
                    digest.update(name.encode())
                    digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
            self.fingerprints[key] = digest.hexdigest()
        return self.fingerprints[key]


def trains_on_cached_states(encoder_states: EncoderStates | None, config: TrialConfig) -> bool:
    """Return whether training, too, can read cached states: nothing random acts before them."""
    random = (config.dropout, config.attention_dropout, config.activation_dropout)
    masked = (config.mask_time_prob, config.mask_feature_prob)
    return encoder_states is not None and not any(random) and not any(masked) and config.augmentation is None


def _storage_types(dtype: torch.dtype) -> tuple[np.dtype, torch.dtype]:
    """Return the numpy and torch types that hold the bits of a number; numpy has no bf16."""
    return (np.dtype(np.float32), torch.float32) if dtype == torch.float32 else (np.dtype(np.uint16), torch.uint16)
