"""Start several trainer processes for one trial with torch's launcher, which `accelerate launch` uses too.

`accelerate launch` itself starts several processes on GPUs only, unless MPI is installed. Accelerate reads the ranks
from the same environment variables with either launcher.
"""

import sys

from harness.hardware.processes import die_with_parent


def main() -> None:
    """Start N trainers on this machine, on a free port; rank 0 uses standard input and output."""
    die_with_parent()
    from torch.distributed.run import main as torchrun  # takes seconds, in which the supervisor may die

    torchrun(["--standalone", "--nproc-per-node", sys.argv[1], "--module", "harness.training.process"])


if __name__ == "__main__":
    main()
