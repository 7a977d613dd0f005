import json
from pathlib import Path

import pytest
from made import Leaderboard, Study

import compare


@pytest.fixture
def run(tmp_path, capsys):
    """compare.py's main: (exit code, standard output, standard error)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = compare.main([*map(str, arguments), "--results", str(tmp_path / "results")])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def leaderboard(run, tmp_path):
    """The board of a comparison of transcripts."""

    def call(*arguments: object) -> Leaderboard:
        code, out, err = run(*arguments, "--format", "json", "--output", tmp_path / "out", "--no-figures")
        assert code == 0, err
        return Leaderboard(out, tmp_path / "out")

    return call


@pytest.fixture
def write(tmp_path):
    """Write JSONL: ids u0, u1, ... of one field, with more fields for all."""

    def call(name: str, field: str, texts: list[str], **more: list) -> Path:
        path = tmp_path / name
        rows = [{"id": f"u{n}", field: text, **{k: v[n] for k, v in more.items()}} for n, text in enumerate(texts)]
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return call


@pytest.fixture
def study(tmp_path):
    """Zero-shot, a recipe, and four trials of which the second is best on validation."""
    made = Study(tmp_path / "results")
    made.run("baselines/vanilla/1", "zero_shot", "vanilla", 70)
    made.run("baselines/tutorial/1", "recipe", "tutorial", 40, wer=0.25)
    for number, wer in enumerate([0.3, 0.1, 0.2, 0.4]):
        made.run(f"trials/{number}", "trial", f"trial {number}", 20 + number, number=number, wer=wer)
    return made


@pytest.fixture
def compared(run, study):
    """The board of that study."""

    def call(*arguments: object) -> Leaderboard:
        code, out, err = run("--study", "made", *arguments, "--format", "json")
        assert code == 0, err
        return Leaderboard(out, study.folder / "comparison")

    return call
