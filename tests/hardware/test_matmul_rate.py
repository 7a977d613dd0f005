"""The machine's rate of matrix products: plausible, the highest ever measured, and out of the trial's way."""

import pytest
import torch

from harness.hardware import matmul_rate as machine
from harness.hardware.matmul_rate import best_matmul_rate, matmul_rate, matmul_share

CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_matrix_rate_is_a_rate(precision, monkeypatch):
    monkeypatch.setattr(machine, "MAX_SECONDS", 1e-3)
    torch.set_float32_matmul_precision("high")
    random_state = torch.get_rng_state()
    assert 1e8 < matmul_rate(CPU, precision) < 1e14
    assert torch.equal(random_state, torch.get_rng_state()) and torch.get_float32_matmul_precision() == "high"
    torch.set_float32_matmul_precision("highest")


@pytest.fixture
def measured(monkeypatch):
    """Rates that the next measurements give; empty afterwards: all were asked for."""
    rates = list[float]()
    machine._measured_once.cache_clear()
    monkeypatch.setattr(machine, "matmul_rate", lambda device, precision: rates.pop(0))
    yield rates
    machine._measured_once.cache_clear()
    assert not rates


def new_process():
    machine._measured_once.cache_clear()


def test_it_is_measured_once_for_each_process_precision_and_number_of_threads(tmp_path, measured, monkeypatch):
    measured += [1.0, 2.0, 3.0, 4.0]
    assert [best_matmul_rate(CPU, p, tmp_path) for p in ("fp32", "bf16", "fp32")] == [1.0, 2.0, 1.0]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 97)
    assert best_matmul_rate(CPU, "fp32", tmp_path) == 3.0
    new_process()
    (tmp_path / "matmul_rates.json").write_text("{ torn")
    assert [best_matmul_rate(CPU, "fp32", tmp_path) for _ in range(2)] == [4.0, 4.0]


def test_a_rate_measured_beside_other_work_does_not_stay(tmp_path, measured):
    measured += [2e9, 280e9, 3e9]
    rates = []
    for _ in range(3):
        rates.append(best_matmul_rate(CPU, "fp32", tmp_path))
        new_process()
    assert rates == [2e9, 280e9, 280e9]


def test_training_faster_than_the_rate_has_it_measured_again(tmp_path, measured):
    measured += [2e9, 280e9]
    assert best_matmul_rate(CPU, "fp32", tmp_path, achieved=1e9) == 2e9
    assert best_matmul_rate(CPU, "fp32", tmp_path, achieved=106e9) == 280e9
    assert best_matmul_rate(CPU, "fp32", tmp_path, achieved=106e9) == 280e9


def test_the_fastest_of_several_products_counts(monkeypatch):
    monkeypatch.setattr(machine, "SIZES", (8,))
    durations = [9.0, 2.0, 5.0, 4.0, 3.0, 6.0, 7.0]
    times = [time for number, seconds in enumerate(durations) for time in (100.0 * number, 100.0 * number + seconds)]
    monkeypatch.setattr(machine.time, "perf_counter", lambda: times.pop(0))
    assert matmul_rate(CPU, "fp32") == 2 * 8**3 / 2.0


def test_a_share_is_never_above_one(capsys):
    assert matmul_share(70e9, 280e9) == 0.25 and matmul_share(280e9, 280e9) == 1.0
    assert matmul_share(0.0, 280e9) is None and matmul_share(1e9, None) is None
    assert capsys.readouterr().err == ""
    assert matmul_share(106e9, 2e9) is None
    assert "106.0 GFLOP/s, more than the 2.0 GFLOP/s" in capsys.readouterr().err


def test_where_memory_is_too_full_the_stored_rate_counts_or_none(tmp_path, measured, monkeypatch):
    def full(device, precision):
        raise torch.OutOfMemoryError("CUDA out of memory")

    measured.append(7.0)
    assert best_matmul_rate(CPU, "fp32", tmp_path) == 7.0
    new_process()
    monkeypatch.setattr(machine, "matmul_rate", full)
    assert best_matmul_rate(CPU, "bf16", tmp_path) is None
    assert best_matmul_rate(CPU, "fp32", tmp_path) == 7.0
