"""Workers that share a trainer: whose turn it is, and which answer is whose."""

import queue
import threading
import time

import pytest

import run_sweep
from harness.errors import UserError
from harness.hardware.gpus import gpus
from harness.model_size.parameters import OFFICIAL
from harness.orchestration import pack_size as packing
from harness.orchestration.commands import compute_options
from harness.orchestration.shared_trainer import PackGate, SharedTrainer
from harness.orchestration.trainer_launch import TrainerDiedError
from harness.plan import ComputeOptions, make_plan
from harness.spec.messages import Failed, Leave, Partial, Refused, Train

FP32, BF16 = ("fp32", None), ("bf16", None)
MOMENT = 0.05  # seconds in which somebody who may not enter would


class Visitor:
    """Somebody at the gate, in a thread."""

    def __init__(self, gate, kind, given_up=lambda: False):
        self.inside, self.go = threading.Event(), threading.Event()
        self.has_turn = None
        before = len(gate._queue)
        self.thread = threading.Thread(target=self._visit, args=(gate, kind, given_up), daemon=True)
        self.thread.start()
        while not (self.inside.is_set() or len(gate._queue) > before):
            time.sleep(0.001)
        time.sleep(MOMENT)

    def _visit(self, gate, kind, given_up):
        with gate.through(kind, given_up) as self.has_turn:
            if self.has_turn:
                self.inside.set()
                self.go.wait(60)

    def leave(self):
        self.go.set()
        self.thread.join(10)
        time.sleep(MOMENT)

    def is_inside(self):
        return self.inside.wait(10)

    def waits(self):
        return not self.inside.is_set()


def test_one_kind_goes_together_and_nobody_starves():
    gate = PackGate()
    first, second = Visitor(gate, FP32), Visitor(gate, FP32)
    assert first.is_inside() and second.is_inside()
    alone, third = Visitor(gate, None), Visitor(gate, FP32)
    assert alone.waits() and third.waits(), "third came after the one that waits"
    first.leave()
    assert alone.waits()
    second.leave()
    assert alone.is_inside() and third.waits()
    other = Visitor(gate, BF16)
    alone.leave()
    assert third.is_inside() and other.waits()
    third.leave()
    assert other.is_inside()
    other.leave()


def test_who_gives_up_blocks_nobody():
    gate, stopped = PackGate(), threading.Event()
    first = Visitor(gate, FP32)
    waiting, third = Visitor(gate, None, stopped.is_set), Visitor(gate, FP32)
    stopped.set()
    waiting.thread.join(10)
    assert waiting.has_turn is False and third.is_inside()
    first.leave()
    third.leave()


class Process:
    """A trainer of which a test says what it answers."""

    ready = "ready"

    def __init__(self):
        self.orders, self.answers, self.killed = [], queue.Queue(), False

    def send(self, order):
        self.orders.append(order)

    def hear(self):
        answer = self.answers.get()
        if answer is None:
            raise TrainerDiedError("the trainer died (killed by signal 9)")
        return answer

    def hang_up(self):
        self.answers.put(None)

    def kill(self):
        self.killed = True
        self.answers.put(None)

    def close(self):
        pass


@pytest.fixture
def processes():
    return []


@pytest.fixture
def shared(processes):
    made = SharedTrainer()
    made.start = lambda: processes.append(Process()) or processes[-1]
    return made


def an_order(lora, tmp_path):
    from harness.spec.budget import Budget

    return Train(config=lora, budget=Budget(steps=1), seed=1, attempt=str(tmp_path), packed=True)


def test_each_lane_hears_its_own(shared, processes):
    one, other = shared.open(shared.start), shared.open(shared.start)
    (process,) = processes
    for lane, index in ((2, 7), (1, 5), (9, 1)):
        process.answers.put(Partial(index=index, errors=(), lane=lane))
    assert (one.receive().index, other.receive().index, one.ready) == (5, 7, "ready")
    process.answers.put(Refused(message="no", lane=2))
    with pytest.raises(UserError, match="no"):
        other.receive()


def test_death_is_death_in_every_lane_and_the_next_one_is_of_a_new_process(shared, processes, lora, tmp_path):
    one, other = shared.open(shared.start), shared.open(shared.start)
    one.send(an_order(lora, tmp_path))
    processes[0].answers.put(None)
    for lane in (one, other):
        with pytest.raises(TrainerDiedError, match="signal 9"):
            lane.receive()
    one.close()
    again = shared.open(shared.start)
    assert len(processes) == 2
    processes[1].answers.put(Failed(reason="x", poisoned=False, lane=3))
    assert again.receive().reason == "x"
    other.close()
    again.close()
    assert not [order for order in processes[0].orders if isinstance(order, Leave)]


def test_a_lane_that_is_left_drops_its_trial_and_the_last_one_lets_the_process_go(shared, processes, lora, tmp_path):
    one, other = shared.open(shared.start), shared.open(shared.start)
    one.send(an_order(lora, tmp_path))
    one.close()
    assert [(type(order), order.lane) for order in processes[0].orders] == [(Train, 1), (Leave, 1)]
    other.close()
    assert shared._line.died is not None and not shared._line._thread.is_alive()


def test_a_process_that_does_not_come_up_is_an_error_for_who_wanted_it(shared):
    def fails():
        raise UserError("no such model")

    with pytest.raises(UserError, match="no such model"):
        shared.open(fails)


def planned(tmp_path, space="demo", processes=1, **compute_options):
    return make_plan(
        space, trials=1, seed=1, results=tmp_path, processes=processes, compute=ComputeOptions(**compute_options)
    )


def test_how_many_train_together(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "gpus", list)
    assert packing.trials_per_pass(planned(tmp_path, pack=None)) == 1, "never by itself on a CPU"
    assert packing.trials_per_pass(planned(tmp_path, pack=3)) == 3
    assert packing.trials_per_pass(planned(tmp_path, pack=1)) == 1
    for refused in ({"processes": 2}, {"launcher": "slurm"}):
        with pytest.raises(UserError, match="--pack 2"):
            packing.trials_per_pass(planned(tmp_path, pack=2, **refused))
        assert packing.trials_per_pass(planned(tmp_path, pack=None, **refused)) == 1
    monkeypatch.setattr(packing, "gpus", lambda: ["0"])
    assert packing.trials_per_pass(planned(tmp_path, pack=None)) == packing.MAX_AUTOMATIC, "the demo is small"
    assert packing.trials_per_pass(planned(tmp_path, space="full_small", pack=None)) == 1
    assert gpus is not packing.gpus


@pytest.mark.parametrize(
    ("model", "scope", "cache", "trials"),
    [("small", "both", True, 1), ("small", "decoder", True, 2), ("small", "decoder", False, 1), ("tiny", "both", True, 1)],
)  # fmt: skip
def test_what_should_pay(lora, model, scope, cache, trials):
    config = lora.model_copy(update={"scope": scope, "precision": "bf16", "per_device_train_batch_size": 16})
    assert packing.estimated_trials_per_pass(OFFICIAL[f"openai/whisper-{model}"], config, cache) == trials


@pytest.mark.parametrize(("given", "trials"), [([], None), (["--pack", "off"], 1), (["--pack", "4"], 4)])
def test_the_option(given, trials):
    options = run_sweep.parser().parse_args(["--space", "demo", *given])
    assert compute_options(options).pack == trials


@pytest.mark.parametrize("wrong", ["0", "some"])
def test_an_option_that_is_no_number(wrong, capsys):
    with pytest.raises(SystemExit):
        run_sweep.parser().parse_args(["--pack", wrong])
    assert "--pack" in capsys.readouterr().err
