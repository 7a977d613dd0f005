"""--preflight: the heaviest configuration for a few steps, then memory, hours and cost of the whole sweep."""

import re
from pathlib import Path

import pytest

from harness import catalog
from harness.orchestration import preflight
from harness.orchestration.preflight import Forecast, heaviest
from harness.plan import SearchOptions, make_plan
from harness.spec.budget import Budget
from harness.spec.messages import Finished
from harness.spec.result import TrialResult


@pytest.mark.parametrize("name", catalog.names("search_spaces"))
def test_every_space_has_a_heaviest_configuration(name):
    _, space = catalog.space(name)
    config = heaviest(space)
    sizes = space.sampled.get("per_device_train_batch_size")
    assert sizes is None or config.per_device_train_batch_size == max(v for v in sizes.extremes())
    assert config.r is None or "r" not in space.sampled or config.r == max(space.sampled["r"].extremes())


def test_what_is_heaviest_in_the_small_space():
    config = heaviest(catalog.space("lora_small")[1])
    assert (config.r, len(config.target_modules), config.scope, config.optim) == (64, 6, "both", "adamw")
    assert (config.precision, config.per_device_train_batch_size) == ("tf32", 32)
    assert config.gradient_accumulation_steps == 1


def test_it_measures_and_forecasts_and_stores_no_study(command, small_space, tmp_path):
    said = command(
        "run_sweep.py", "--space", small_space, "--trials", "10", "--cache-dir", tmp_path / "cache", "--results",
        tmp_path / "results", "--preflight", "--price-per-hour", "3", "--deadline", "0.0001",
    ).stdout  # fmt: skip
    row = re.search(r"heaviest trial\s+16 x 1\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)\s+([\d.]+) (?:s|min)", said)
    assert row is not None and float(row[1]) > 0.2 and float(row[2]) > 0, said
    assert re.search(r"vanilla\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)", said)
    most = re.search(r"at most ([\d.]+) (?:s|min) for 10 trials and 1 baselines", said)
    assert float(most[1]) > 0 and "cost at 3 an hour: at most" in said
    assert "a deadline of 0.0001 h: the sweep does not fit" in said
    assert not list((tmp_path / "results").rglob("study.json")) and not list((tmp_path / "results").rglob("optuna.db"))


def test_hours_are_those_of_the_whole_budget(lora):
    class Cost:
        samples_per_second = 10.0

    class Rung:
        evaluation_seconds = 36.0

    whole = Forecast("t", lora, Cost(), Rung())
    budget = Budget(examples=72000, rungs=(0.25, 0.5, 1.0))
    assert whole.hours(budget, 1) == pytest.approx(2 + 0.03)
    assert whole.hours(budget, 1, kept=0.5) == pytest.approx((0.5 + 0.01) + (0.5 + 0.01) / 2 + (1 + 0.01) / 4)
    assert whole.hours(Budget(train_seconds=3600), 1) == pytest.approx(1.01)
    assert whole.hours(Budget(steps=100), 2) == pytest.approx(100 * 8 * 2 / 10 / 3600 + 0.01)


def test_what_follows_the_search_is_in_the_forecast(lora):
    class Hours(Forecast):
        def hours(self, budget, processes, kept=None):
            return 1.0

    zero = lora.model_validate({"method": "none"})
    forecasts = [Hours("t", lora, None, None), Hours("vanilla", zero, None, None), Hours("tutorial", lora, None, None)]

    def hours(**search_options):
        plan = make_plan(
            "demo", trials=8, seed=1, results=Path("results"), search_options=SearchOptions(**search_options)
        )
        return preflight._sum(plan, plan.space.budget, forecasts, None)

    alone = hours()
    assert alone == 10
    assert hours(refit=True) - alone == 1
    assert hours(data_fractions=(0.1, 0.3, 1.0)) - alone == 2
    assert hours(confirm=2, seeds=3) - alone == 3 * (2 + 1)
    assert hours(confirm=2, seeds=3, tune_baselines=5) - hours(tune_baselines=5) == 3 * (2 + 2)
    assert hours(confirm=1, seeds=3, data_fractions=(0.1,), refit=True) - hours(confirm=1, seeds=3) == 3 + 1


def test_a_space_that_does_not_fit_is_said_before_it_starts(monkeypatch, tmp_path, capsys):
    import run_sweep

    class Starved:
        class ready:
            device, data = "cuda", {"splits": {"train": {"utterances": 8}}}

        def __init__(self, *args, **kwargs):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def send(self, order):
            pass

        def come_up(self, say):
            return self

        def receive(self):
            return Finished(result=TrialResult.out_of_memory())

    monkeypatch.setattr(preflight, "Trainer", Starved)
    arguments = ["--space", "lora_small", "--task", "demo", "--results", str(tmp_path), "--preflight"]
    assert run_sweep.main([*arguments, "--baselines", "none"]) == 2
    printed = capsys.readouterr()
    assert "out of memory" in printed.out and "out of memory: heaviest trial" in printed.err


@pytest.mark.parametrize(
    "options, said",
    [(["--price-per-hour", "2"], "require --preflight"), (["--preflight", "--dry-run"], "cannot be combined")],
)
def test_options_that_do_not_go_together_are_refused(command, options, said):
    assert said in command("run_sweep.py", "--space", "demo", *options, code=2).stderr
