"""benchmarks/packed_trials.py at toy size: alone and packed, each kind is run and reported."""

import json

from benchmarks import packed_trials


def test_it_runs_on_a_cpu_and_reports_the_gain(tmp_path, capsys):
    options = ["--model", "toy", "--batch", "2", "--steps", "4", "--rounds", "1", "--trials", "2"]
    packed_trials.main([*options, "--output", str(tmp_path / "f.json")])
    kinds = json.loads((tmp_path / "f.json").read_text())["kinds"]
    assert kinds.keys() == packed_trials.KINDS.keys()
    for rows in kinds.values():
        assert rows["1"]["gain"] == 1 and rows["2"]["gain"] > 0
        assert all(row["samples_per_second"] > 0 for row in rows.values())
    assert "trials in one pass" in capsys.readouterr().out
