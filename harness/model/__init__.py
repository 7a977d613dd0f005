"""The Whisper base model: loaded once, adapted for a trial, and restored bit for bit afterwards.

Fine-tuning methods, optimizers, batched LoRA, the loss and the encoder-state cache belong here. No other package
imports PEFT or bitsandbytes. The training loop, decoding and error rates do not belong here.
"""

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
