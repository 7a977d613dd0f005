"""The resident Whisper: loaded once, adapted for a trial, and put back exactly as it was."""

import os
from importlib import import_module

# PEFT imports bitsandbytes, which hands what it falls back on without kernels of its own to torch's compiler as it is
# imported. That loads the compiler, a quarter of a trainer's start and 40 MB, for functions that neither CPUs nor
# NVIDIA's GPUs run. torch's own switch, which it reads at each call, keeps it out until somebody wants it.
SWITCH = "TORCHDYNAMO_DISABLE"
_said = os.environ.get(SWITCH)
os.environ[SWITCH] = "1"
try:
    import_module("bitsandbytes")
finally:
    del os.environ[SWITCH]
    if _said is not None:
        os.environ[SWITCH] = _said
