"""Two processes train one trial together over gloo: the curve of one process, one voice, and no orphans."""

import os
import signal
import time

import psutil
import pytest
from processes import living

from harness.orchestration.trainer_launch import Trainer, TrainerDiedError
from harness.spec.budget import Budget
from harness.spec.messages import Decide, Finished, Open, Report, Train
from harness.spec.trial import TrialConfig

LORA = TrialConfig(
    method="lora",
    r=8,
    alpha_over_r=2,
    lora_dropout=0.0,  # its masks would be drawn apart
    target_modules=("q_proj", "v_proj"),
    learning_rate=3e-3,
    per_device_train_batch_size=8,
)
BUDGET = Budget(examples=84, rungs=(0.5, 1.0))  # the last step is cut to 4 examples


@pytest.fixture(scope="module")
def pair(task, cache, tmp_path_factory):
    """A trainer of two processes."""
    order = Open(model="demo", task=task, cache_dir=str(cache), seed=1)
    with Trainer(order, tmp_path_factory.mktemp("pair") / "trainer.log", threads=2, processes=2) as trainer:
        yield trainer.come_up()


def conduct(trainer, config, folder, budget=BUDGET, resume=None):
    folder.mkdir()
    trainer.send(Train(config=config, budget=budget, seed=1, attempt=str(folder), resume=resume and str(resume)))
    while isinstance(answer := trainer.receive(), Report):
        if not answer.last:
            trainer.send(Decide(go_on=True))
    assert isinstance(answer, Finished), answer
    return answer.result


def test_two_processes_follow_the_curve_of_one(pair, context, task, cache, tmp_path):
    halves = LORA.model_copy(update={"per_device_train_batch_size": 4})
    together = conduct(pair, halves, tmp_path / "two")
    with Trainer(
        Open(model="demo", task=task, cache_dir=str(cache), seed=1), tmp_path / "trainer.log", threads=1
    ) as single:
        alone = conduct(single.come_up(), LORA, tmp_path / "one")
    assert together.cost.processes == 2 and alone.cost.processes == 1
    for one, two in zip(alone.rungs, together.rungs, strict=True):
        assert (one.step, one.examples) == (two.step, two.examples)
        assert two.train_loss == pytest.approx(one.train_loss, rel=1e-3)
        assert two.loss == pytest.approx(one.loss, rel=1e-3)
        assert two.scores.utterances == one.scores.utterances
    assert alone.rungs[1].train_loss < 0.9 * alone.rungs[0].train_loss
    lines = [(tmp_path / name / "transcripts.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert len(lines[0]) == len(lines[1]) == alone.rungs[0].scores.utterances


def test_a_last_step_smaller_than_the_processes_does_not_hang(pair, tmp_path):
    result = conduct(pair, LORA, tmp_path / "t", Budget(examples=17))
    assert (result.cost.steps, result.cost.examples) == (2, 17)


def test_an_interrupted_pair_goes_on_from_its_last_rung(pair, tmp_path):
    dropped = LORA.model_copy(update={"lora_dropout": 0.2, "per_device_train_batch_size": 4})
    whole = conduct(pair, dropped, tmp_path / "whole")
    folder = tmp_path / "first"
    folder.mkdir()
    pair.send(Train(config=dropped, budget=BUDGET, seed=1, attempt=str(folder)))
    assert isinstance(pair.receive(), Report)
    (folder / "checkpoint").rename(folder / "kept")
    pair.send(Decide(go_on=False))
    assert isinstance(pair.receive(), Finished)
    resumed = conduct(pair, dropped, tmp_path / "second", resume=folder / "kept")
    assert resumed.rungs[1].train_loss == whole.rungs[1].train_loss


def test_the_processes_die_with_their_launcher(task, cache, tmp_path):
    order = Open(model="demo", task=task, cache_dir=str(cache), seed=1)
    trainer = Trainer(order, tmp_path / "trainer.log", threads=1, processes=2).come_up()
    ranks = living("harness.training.process", trainer.pid)
    assert len(ranks) == 2
    os.kill(trainer.pid, signal.SIGKILL)
    with pytest.raises(TrainerDiedError):
        trainer.receive()
    _, alive = psutil.wait_procs(ranks, timeout=10)
    assert not alive
    trainer.close()


def test_one_process_that_runs_out_of_memory_ends_all_with_word_of_it(task, cache, tmp_path, monkeypatch):
    starve = tmp_path / "starve"
    starve.mkdir()
    (starve / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    import harness.training.loop as t\n"
        "    def starved(*a, **k): raise MemoryError('no more')\n"
        "    t._backward = starved\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(starve))
    order = Open(model="demo", task=task, cache_dir=str(cache), seed=1)
    with Trainer(order, tmp_path / "trainer.log", threads=1, processes=2).come_up() as trainer:
        attempt = tmp_path / "attempt"
        attempt.mkdir()
        trainer.send(Train(config=LORA, budget=BUDGET, seed=1, attempt=str(attempt)))
        began = time.monotonic()
        with pytest.raises(TrainerDiedError):
            while not isinstance(trainer.receive(), Report):
                pass
        assert (attempt / "out_of_memory").read_text() == "no more"
        assert time.monotonic() - began < 60
