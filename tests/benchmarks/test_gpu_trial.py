"""benchmarks/gpu_trial.py at toy size: every setting that a CPU can run is run and reported."""

import json

from benchmarks import gpu_trial


def test_it_runs_on_a_cpu_and_reports_every_setting(tmp_path, capsys):
    gpu_trial.main(["--model", "toy", "--batch", "2", "--steps", "4", "--output", str(tmp_path / "f.json")])
    figures = json.loads((tmp_path / "f.json").read_text())
    on_cpu = {
        "lora fp32",
        "lora bf16",
        "full fp32",
        "full bf16 checkpointing",
        "frozen encoder bf16",
        "lora bf16 on nf4",
    }
    assert on_cpu <= set(figures["settings"]) and not any("fp16" in name for name in figures["settings"])
    for row in figures["settings"].values():
        assert row["samples_per_second"] > 0 and row["flops_per_second"] > 0 and row["peak_bytes"] > 1e8
        rate = figures["matmul_flops"][row["precision"]]
        assert row["share_of_ceiling"] in (row["flops_per_second"] / rate, None)  # None on a busy machine
    assert figures["decoding"]["rtfx"] > 0
    assert "full fp32" in capsys.readouterr().out


def test_memory_that_runs_out_is_a_row(monkeypatch, tmp_path, capsys):
    def starved(*args, **kwargs):
        raise MemoryError("no more")
        yield

    monkeypatch.setattr(gpu_trial, "train", starved)
    gpu_trial.main(["--model", "toy", "--batch", "1", "--only", "lora fp32"])
    assert "out of memory" in capsys.readouterr().out
