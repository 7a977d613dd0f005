"""The resident Whisper: loaded once, adapted for a trial, and put back exactly as it was."""

import os
from importlib import import_module

# PEFT imports bitsandbytes, which at import passes its kernel-free fallbacks to torch's compiler. That loads the
# compiler (a quarter of a trainer's start-up time and 40 MB) for functions that neither CPUs nor NVIDIA GPUs run.
# torch's own switch, which it reads at each call, avoids that until something really compiles.
SWITCH = "TORCHDYNAMO_DISABLE"
_previous = os.environ.get(SWITCH)
os.environ[SWITCH] = "1"
try:
    import_module("bitsandbytes")
finally:
    del os.environ[SWITCH]
    if _previous is not None:
        os.environ[SWITCH] = _previous
