"""python -m harness.training.process: a trainer as a process, which starts and ends as fast as it can."""

import gc
import os
import signal
import sys

from harness.hardware.processes import die_with_parent


def main() -> None:
    """Be a trainer, one that neither outlives its supervisor nor hears Ctrl-C, which is the supervisor's to handle."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()  # what an import makes is there to stay: looking for garbage in it takes a sixth of the time
    from harness.training import orders as trainer

    gc.enable()
    trainer.main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # all that was asked for is stored; taking four thousand modules apart would take over a second


if __name__ == "__main__":
    main()
