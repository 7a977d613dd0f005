"""Trials trained together in this process, by orders as a supervisor sends them."""

from collections import deque
from pathlib import Path

from harness.spec.messages import Decide, Finished, Partial, Report, Train
from harness.spec.rung_evaluation import RungEvaluation
from harness.training.packed_trials import run_packed_trials


class OrderQueue:
    """A channel that decides each rung at once, and hands out waiting orders as lanes become free."""

    def __init__(self, orders, decide=lambda lane, rung: True):
        self.later, self.decide = deque(orders), decide
        self.waits, self.said = deque(), {}

    def send(self, answer, lane=0):
        self.said.setdefault(lane, []).append(answer)
        if isinstance(answer, Report) and not answer.last:
            self.waits.append(Decide(lane=lane, go_on=self.decide(lane, answer.rung)))
        elif isinstance(answer, Partial):
            if self.later:  # somebody else speaks first
                self.waits.append(self.later.popleft())
            self.waits.append(Decide(lane=lane, go_on=self.decide(lane, answer)))
        elif not isinstance(answer, Report) and self.later:
            self.waits.append(self.later.popleft())

    def waiting(self):
        return bool(self.waits)

    def receive(self):
        return self.waits.popleft() if self.waits else None


def orders(configs, folder: Path, budget, **judging):
    """An order for each configuration, in lanes from 1, each with its lane for a seed: they see different batches."""
    made = []
    for lane, config in enumerate(configs, start=1):
        attempt = folder / str(lane)
        attempt.mkdir(parents=True, exist_ok=True)
        common = {"budget": budget, "seed": lane, "judging": RungEvaluation(**judging), "packed": True}
        made.append(Train(lane=lane, config=config, attempt=str(attempt), **common))
    return made


def together(context, given, at_once, decide=lambda lane, rung: True):
    """Train so many of the orders at once, the others as room is made; what each lane's trial came to."""
    line = OrderQueue(given[at_once:], decide)
    line.waits.extend(given[1:at_once])
    run_packed_trials(line, context, given[0])
    return {lane: said[-1].result if isinstance(said[-1], Finished) else said[-1] for lane, said in line.said.items()}
