"""Exchange messages with the supervisor: JSON lines, orders on standard input, answers on standard output."""

import os
import select
import sys

import torch

from harness.hardware.processes import rank, world_size
from harness.spec.messages import Answer, Order, order_adapter

CPU = torch.device("cpu")
READ_SIZE = 1 << 16  # bytes


class Channel:
    """The trainer's connection to its supervisor.

    It moves standard output to another descriptor, so that libraries that print do not disturb the messages. Of
    several processes only rank 0 communicates; it broadcasts each order to the others.
    """

    def __init__(self) -> None:
        self._input, self._buffer = sys.stdin.fileno(), b""
        self._output = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def send(self, answer: Answer, lane: int = 0) -> None:
        """Send one answer for a lane."""
        if rank() > 0:
            return
        self._output.write(answer.model_copy(update={"lane": lane}).model_dump_json() + "\n")
        self._output.flush()

    def receive(self) -> Order | None:
        """Wait for the next order; None once the supervisor has closed the connection."""
        lines = [self._read_line() if rank() == 0 else b""]
        if world_size() > 1:
            torch.distributed.broadcast_object_list(lines, src=0, device=CPU)
        return order_adapter.validate_json(lines[0]) if lines[0] else None

    def waiting(self) -> bool:
        """Return whether `receive` would return at once, with an order or with the end of the connection."""
        return b"\n" in self._buffer or bool(select.select([self._input], [], [], 0)[0])

    def _read_line(self) -> bytes:
        while b"\n" not in self._buffer:
            received = os.read(self._input, READ_SIZE)
            if not received:
                return b""
            self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line
