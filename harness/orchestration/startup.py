"""Start a sweep: lock the study, and start its first trainer while this process imports the rest."""

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from harness.errors import DISK_FULL, UserError, is_disk_full
from harness.orchestration.gpu_assignment import gpu_assignments, log_of
from harness.orchestration.trainer_launch import Trainer
from harness.plan import Plan, ensure_manifest


@contextmanager
def alone(plan: Plan) -> Iterator[None]:
    """Lock the study against other sweeps on this machine.

    Raises:
        UserError: The study has another identity, another sweep is running, or the disk is full.
    """
    try:
        plan.folder.path.mkdir(parents=True, exist_ok=True)
        with FileLock(plan.folder.path / "supervisor.lock", timeout=0):
            ensure_manifest(plan)
            yield
    except Timeout:
        raise UserError(f"study {plan.study!r} is already being worked on by another process") from None
    except OSError as error:
        if is_disk_full(error):
            raise UserError(DISK_FULL) from None
        raise


@contextmanager
def first_trainer(plan: Plan) -> Iterator[Trainer | None]:
    """Start the trainer of the first worker, and end it with the context. Yields None if jobs start their own."""
    if plan.compute.launcher != "local":
        yield None
        return
    assignment = gpu_assignments(plan.compute, plan.processes)[0]
    with Trainer(
        plan.open_message(), log_of(plan, assignment.number), assignment.threads, assignment.gpu, plan.processes
    ) as trainer:
        yield trainer
