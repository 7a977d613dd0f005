"""The machine's rate of matrix products: plausible, measured once, and out of the trial's way."""

import pytest
import torch

from harness.hardware import matmul_rate as machine
from harness.hardware.matmul_rate import cached_matmul_rate, matmul_rate

CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_matrix_rate_is_a_rate(precision, monkeypatch):
    monkeypatch.setattr(machine, "MAX_SECONDS", 1e-3)
    torch.set_float32_matmul_precision("high")
    random_state = torch.get_rng_state()
    assert 1e8 < matmul_rate(CPU, precision) < 1e14
    assert torch.equal(random_state, torch.get_rng_state()) and torch.get_float32_matmul_precision() == "high"
    torch.set_float32_matmul_precision("highest")


def test_it_is_measured_once_for_each_machine_precision_and_number_of_threads(tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(
        machine, "matmul_rate", lambda device, precision: float(len(measured.append(precision) or measured))
    )
    assert [cached_matmul_rate(CPU, p, tmp_path) for p in ("fp32", "bf16", "fp32")] == [1.0, 2.0, 1.0]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 97)
    assert cached_matmul_rate(CPU, "fp32", tmp_path) == 3.0
    (tmp_path / "matmul_rates.json").write_text("{ torn")
    assert cached_matmul_rate(CPU, "fp32", tmp_path) == 4.0
    assert cached_matmul_rate(CPU, "fp32", tmp_path) == 4.0


def test_where_memory_is_too_full_nothing_is_known(tmp_path, monkeypatch):
    def full(device, precision):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(machine, "matmul_rate", full)
    assert cached_matmul_rate(CPU, "fp32", tmp_path) is None
