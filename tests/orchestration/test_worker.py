"""What a worker makes of a trainer that ran out of memory, or was lost to a CUDA error."""

import time
from collections import deque
from pathlib import Path

import pytest

from harness.orchestration import trainer_client as module
from harness.orchestration.stop_signals import StopSignals
from harness.orchestration.trainer_launch import TrainerDiedError
from harness.orchestration.worker import Worker
from harness.plan import make_plan
from harness.records.study_folder import Run, StudyFolder
from harness.spec.messages import Decide, Failed, Finished, Ready, Report, Train
from harness.spec.result import Rung, Scores, TrialResult

SPLIT = {"utterances": 8, "seconds": 8.0, "hash": "0"}
READY = Ready(device="cuda", environment={}, data={"splits": {"train": SPLIT}, "languages": ["en"]})
SCORES = Scores(
    wer=0.5, wer_raw=0.5, cer=0.2, insertions=0, deletions=0, substitutions=0.5, utterances=2, reference_words=4, normalizer="x"
)  # fmt: skip
RUNG = Rung(index=0, step=1, examples=8, train_loss=1.0, loss=1.0, scores=SCORES, train_seconds=1, evaluation_seconds=1)
OUT = Finished(result=TrialResult.out_of_memory(), poisoned=True)
DONE = Finished(result=TrialResult(state="complete", rungs=(RUNG,), cost=None))


class Script:
    """Trainers that answer from a script, each as long as it lives."""

    def __init__(self, *lives):
        self.lives, self.orders, self.started = deque(lives), [], 0

    def __call__(self, *args, **kwargs):
        self.started, self.began = self.started + 1, time.monotonic() - 10
        self.answers, self.ready = deque(self.lives.popleft()), READY
        return self

    def come_up(self, say):
        return self

    def send(self, order):
        self.orders.append(order)

    def receive(self):
        if not self.answers:
            raise TrainerDiedError("the trainer died (killed by signal 9)")
        answer = self.answers.popleft()
        return answer(self.orders[0]) if callable(answer) else answer

    def close(self):
        pass


@pytest.fixture
def execute(tmp_path, monkeypatch, lora):
    def execute(*lives, **changes):
        script = Script(*lives)
        monkeypatch.setattr(module, "Trainer", script)
        plan = make_plan("demo", trials=1, seed=1, results=tmp_path / "results")
        config = lora.model_copy(update={"auto_micro_batch": True, **changes})
        run = Run("trial", "trial 0", config, 1, StudyFolder(plan.folder.path).trial(0), number=0)
        worker = Worker(plan, Silent(), [], StopSignals())
        outcome = worker.attempt(run, plan.folder.attempt(), lambda rung: True)
        return outcome, script, [order for order in script.orders if isinstance(order, Train)]

    return execute


def test_a_trainer_that_is_coming_up_already_is_the_first_and_no_other(tmp_path, monkeypatch, lora):
    script = Script([DONE], [DONE])
    monkeypatch.setattr(module, "Trainer", script)
    plan = make_plan("demo", trials=1, seed=1, results=tmp_path / "results")
    worker = Worker(plan, Silent(), [], StopSignals(), coming=script())
    assert script.started == 1 and worker.trainer.ready == READY and script.started == 1
    account = worker.time_account.account()
    assert account["start"] == pytest.approx(10, abs=1) and account["wall"] == pytest.approx(10, abs=1)
    worker.close()
    assert worker.trainer.ready == READY and script.started == 2


class Silent:
    def __getattr__(self, name):
        return lambda *args: None


def test_after_a_cuda_error_a_new_process_goes_on_with_half_the_micro_batch(execute):
    outcome, script, orders = execute([OUT], [Report(rung=RUNG, last=True), DONE])
    assert outcome.record.state == "complete" and script.started == 2
    sizes = [(o.config.per_device_train_batch_size, o.config.gradient_accumulation_steps) for o in orders]
    assert sizes == [(8, 1), (4, 2)] and orders[0].attempt == orders[1].attempt


def test_memory_that_is_too_small_for_any_micro_batch_is_an_outcome(execute):
    outcome, _, orders = execute([OUT], [OUT], [OUT], [OUT], [])
    assert (outcome.record.state, outcome.record.reason, outcome.retry) == ("pruned", "out_of_memory", None)
    assert [o.config.per_device_train_batch_size for o in orders] == [8, 4, 2, 1]


def test_without_auto_micro_batch_it_is_one_at_once(execute):
    outcome, script, _ = execute([OUT], [], auto_micro_batch=False)
    assert outcome.record.reason == "out_of_memory" and len(script.orders) == 1


@pytest.mark.parametrize("last_words", [(), (Failed(reason="connection closed by peer", poisoned=True),)])
def test_word_left_by_one_of_several_processes_is_believed(execute, last_words):
    def leave_word(order):
        Path(order.attempt, "out_of_memory").write_text("no more")
        return Report(rung=RUNG, last=True)

    outcome, _, _ = execute([leave_word, *last_words], [], auto_micro_batch=False)
    assert (outcome.record.state, outcome.record.reason) == ("pruned", "out_of_memory")


def test_a_trainer_that_dies_without_a_word_is_a_failure_to_retry(execute):
    outcome, script, _ = execute([Report(rung=RUNG, last=False)], [])
    assert (outcome.record.state, outcome.retry) == ("fail", "died")
    assert isinstance(script.orders[1], Decide) and outcome.record.rungs == (RUNG,)
