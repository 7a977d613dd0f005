"""A trainer's end of the line to its supervisor: JSON lines, orders on standard input, answers on standard output."""

import os
import select
import sys

import torch

from harness.hardware.processes import rank, world_size
from harness.spec.messages import Answer, Order, order_adapter

CPU = torch.device("cpu")
PIECE = 1 << 16  # bytes read at once


class Channel:
    """Libraries that print to standard output cannot disturb it: the line is moved away first.

    Of several processes the first talks, and passes on what it is told.
    """

    def __init__(self) -> None:
        self._orders, self._heard = sys.stdin.fileno(), b""
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def send(self, answer: Answer, lane: int = 0) -> None:
        """Send one answer."""
        if rank() > 0:
            return
        self._answers.write(answer.model_copy(update={"lane": lane}).model_dump_json() + "\n")
        self._answers.flush()

    def receive(self) -> Order | None:
        """The next order; None when the supervisor has closed the line."""
        lines = [self._line() if rank() == 0 else b""]
        if world_size() > 1:
            torch.distributed.broadcast_object_list(lines, src=0, device=CPU)
        return order_adapter.validate_json(lines[0]) if lines[0] else None

    def waiting(self) -> bool:
        """Whether an order has come, or the end of the line, so that `receive` need not wait."""
        return b"\n" in self._heard or bool(select.select([self._orders], [], [], 0)[0])

    def _line(self) -> bytes:
        while b"\n" not in self._heard:
            piece = os.read(self._orders, PIECE)
            if not piece:
                return b""
            self._heard += piece
        line, _, self._heard = self._heard.partition(b"\n")
        return line
