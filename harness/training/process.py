"""Run a trainer as a process: python -m harness.training.process. Its start and end are kept as short as possible."""

import gc
import os
import signal
import sys

from harness.hardware.processes import die_with_parent


def main() -> None:
    """Run a trainer that dies with its supervisor and ignores Ctrl-C, which the supervisor handles."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()  # imported objects stay: collecting garbage among them takes a sixth of the import time
    from harness.training import orders as trainer

    gc.enable()
    trainer.main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # all results are stored; tearing down four thousand modules would take over a second


if __name__ == "__main__":
    main()
