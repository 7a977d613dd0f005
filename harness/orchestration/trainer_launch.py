"""Start a trainer process, send it orders and receive its answers."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from harness.catalog import ROOT
from harness.errors import UserError
from harness.spec.messages import Answer, Failed, Open, Order, Preparing, Ready, Refused, answer_adapter

TRAINER = ("-m", "harness.training.process")
RANKS = ("-m", "harness.training.data_parallel")

# BLAS and OpenMP each start one thread for every core; nested, they are many times slower than a single thread.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class TrainerDiedError(Exception):
    """The trainer ended without an answer; the message says how."""


class Trainer:
    """A trainer process, which holds a model and its data."""

    def __init__(
        self,
        order: Open,
        log: Path,
        threads: int | None = None,
        gpu: str | None = None,
        processes: int = 1,
    ) -> None:
        """Start the process, which begins to load model and data; `come_up` waits for it.

        Args:
            order: What to load.
            log: File that the process appends its output to.
            threads: CPU threads of all processes together; None: `threads_here`.
            gpu: GPUs that it sees, as in CUDA_VISIBLE_DEVICES; None: all.
            processes: Processes that train each trial together, each on its own GPU, or sharing the threads.
        """
        threads = max(1, (threads or threads_here()) // processes)
        environment = dict(os.environ, TOKENIZERS_PARALLELISM="false", PYTHONPATH=python_path())
        environment |= {name: str(threads) for name in THREAD_VARIABLES}
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        log.parent.mkdir(parents=True, exist_ok=True)
        self.began = time.monotonic()
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, *(TRAINER if processes == 1 else (*RANKS, str(processes)))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env=environment,
            )
        self.log = log
        self._ready: Ready | None = None
        self.send(order)

    def come_up(self, say: Callable[[str], None] = lambda text: None) -> Self:
        """Wait until model and data are loaded.

        Args:
            say: Called with the progress of the data's preparation.

        Raises:
            UserError: The model or the data cannot be used.
            TrainerDiedError: The process died while loading.
        """
        try:
            answer = self.receive()
            while isinstance(answer, Preparing):
                say(answer.text)
                answer = self.receive()
        except BaseException:
            self.close()
            raise
        if not isinstance(answer, Ready):
            self.close()
            reason = answer.reason if isinstance(answer, Failed) else repr(answer)
            raise TrainerDiedError(f"the trainer failed to start: {reason}; see {self.log}")
        self._ready = answer
        return self

    @property
    def ready(self) -> Ready:
        """Its first message, about its device and its data."""
        assert self._ready is not None
        return self._ready

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def send(self, order: Order) -> None:
        """Send an order. If the process has died, `receive` raises."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(order.model_dump_json() + "\n")
            self._process.stdin.flush()

    def receive(self) -> Answer:
        """Return the next answer.

        Raises:
            UserError: if the trainer refuses.
            TrainerDiedError: if it is gone.
        """
        answer = self.hear()
        if isinstance(answer, Refused):
            raise UserError(answer.message)
        return answer

    def hear(self) -> Answer:
        """Return the next answer, also a refusal.

        Raises:
            TrainerDiedError: if it is gone.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            raise TrainerDiedError(f"the trainer died ({how})")
        return answer_adapter.validate_json(line)

    def kill(self) -> None:
        """Kill the process; `receive` then raises."""
        self._process.kill()

    def hang_up(self) -> None:
        """Close the trainer's standard input, upon which it exits."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def close(self) -> None:
        """End the process: wait for it, and kill it if it does not exit within 10 s or is still loading."""
        assert self._process.stdout is not None
        self.hang_up()
        if self._ready is None:
            self._process.kill()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def threads_here() -> int:
    """Return OMP_NUM_THREADS, or the number of cores that this process may run on."""
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(said) if said.isdigit() and int(said) else len(os.sched_getaffinity(0))


def python_path() -> str:
    """Return a PYTHONPATH with which `harness` is found from any working directory."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
