"""Several trainer processes for one trial: torch's launcher, which `accelerate launch` uses too, tied to its parent.

`accelerate launch` itself starts several processes on GPUs only, unless MPI is there; Accelerate finds the ranks that
either starts by the same environment variables.
"""

import sys

from harness.hardware.processes import die_with_parent


def main() -> None:
    """N trainers on this machine, on a free port; the first talks on stdin and stdout."""
    die_with_parent()
    from torch.distributed.run import main as torchrun  # takes seconds, in which the supervisor may die

    torchrun(["--standalone", "--nproc-per-node", sys.argv[1], "--module", "harness.training.process"])


if __name__ == "__main__":
    main()
