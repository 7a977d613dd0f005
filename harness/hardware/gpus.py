"""The GPUs of this machine, found without torch."""

import os
import subprocess
from contextlib import suppress


def gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name: those it names already, else each that nvidia-smi lists; none on a CPU."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    with suppress(OSError, subprocess.SubprocessError):
        asked = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        found = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)
        return found.stdout.split()
    return []
