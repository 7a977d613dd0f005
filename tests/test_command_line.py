"""The command lines: help in groups, short usage errors, and messages for wrong values."""

import pytest

import compare
import run_sweep
from harness import app, cache, command_line, transcribe
from harness.publish import __main__ as publish

COMMANDS = {
    "run_sweep.py": run_sweep,
    "compare.py": compare,
    "python -m harness.publish": publish,
    "python -m harness.transcribe": transcribe,
    "python -m harness.app": app,
    "python -m harness.cache": cache,
}
GROUPS = {
    "run_sweep.py": [
        "study",
        "data and model",
        "search",
        "follow-up runs",
        "compute",
        "cluster",
        "output",
        "other actions",
    ],
    "compare.py": ["systems", "scoring", "data", "output"],
    "python -m harness.publish": ["model", "data", "output", "Hugging Face Hub"],
    "python -m harness.transcribe": ["recordings", "model", "output"],
    "python -m harness.app": ["model", "page"],
    "python -m harness.cache": ["cache"],
}


def refused(module, arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        module.main(arguments)
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_groups_and_examples_and_fits_80_columns(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = COMMANDS[name].parser().format_help()
    places = [text.index(f"\n{group}:\n") for group in GROUPS[name]]
    assert places == sorted(places) and text.index("\nexamples:\n") > places[-1]
    assert text.splitlines()[0].startswith(f"usage: {name} ") and max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_is_explained(name):
    for action in COMMANDS[name].parser()._actions:
        assert action.help and not action.help.endswith("."), action


@pytest.mark.parametrize("name", COMMANDS)
def test_each_example_parses(name):
    lines = [line.strip() for line in COMMANDS[name].parser().epilog.splitlines()[1:]]
    assert lines
    for line in lines:
        command, _, arguments = line.partition(name.removeprefix("python "))
        assert command.startswith("python ")
        COMMANDS[name].parser().parse_args(arguments.replace('"some API=api.jsonl"', "API=api.jsonl").split())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_usage_error_is_two_lines(name, capsys):
    lines = refused(COMMANDS[name], ["--nonsense"], capsys).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"usage: {name} ") and lines[0].endswith("; see --help")
    assert lines[1].startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--trials 0o10", "--trials: expected a whole number of 0 or more, got '0o10'"),
        ("--trials -1", "--trials: expected a whole number of 0 or more, got '-1'"),
        ("--keep 0", "--keep: expected a whole number of 1 or more, got '0'"),
        ("--seed x", "--seed: expected a whole number, got 'x'"),
        ("--timeout soon", "--timeout: expected a number of 0 or more, got 'soon'"),
        ("--timeout nan", "--timeout: expected a number of 0 or more, got 'nan'"),
        ("--workers all", "--workers: expected auto or a whole number of 1 or more, got 'all'"),
        ("--pack 0", "--pack: expected auto, off or a whole number of 1 or more, got '0'"),
        ("--data-fractions 0.5,2", "--data-fractions: expected fractions above 0 and at most 1, such as 0.1,0.3,1, got '0.5,2'"),
        ("--data-fractions half", "--data-fractions: expected fractions above 0 and at most 1, such as 0.1,0.3,1, got 'half'"),
        ("--slurm gpu", "--slurm: expected KEY=VALUE, got 'gpu'"),
        ("--sampler tpee", "--sampler: expected one of tpe, random, grid, gp, cmaes, nsga2, got 'tpee'; did you mean 'tpe'?"),
        ("--trails 3", "unrecognized arguments: --trails 3; did you mean --trials?"),
        ("--trials", "--trials: expected one argument"),
        ("--space demo --json", "--json requires --dry-run"),
        ("--space demo --dry-run --preflight", "--dry-run and --preflight cannot be combined"),
        ("", "--space is required, for example --space demo (see --list)"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_what_was_expected(arguments, said, capsys):
    assert refused(run_sweep, arguments.split(), capsys).splitlines()[1] == f"error: {said}"


def test_options_that_exclude_each_other(capsys):
    said = refused(app, ["--study", "s", "--trial", "1", "--refit"], capsys)
    assert "error: --refit: not allowed with --trial\n" in said


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("65535", 65535)])
def test_a_port(text, value):
    assert command_line.port(text) == value


def test_a_port_out_of_range(capsys):
    said = refused(app, ["--study", "s", "--port", "65536"], capsys)
    assert "--port: expected a port from 0 to 65535, got '65536'" in said


def test_values_are_what_the_options_had_before_they_shared_types():
    options = run_sweep.parser().parse_args(
        ["--data-fractions", "1,0.1,0.3", "--workers", "3", "--slurm", "a=b=c", "--pack", "off", "--timeout", "1e3"]
    )
    assert options.data_fractions == (0.1, 0.3, 1.0) and options.workers == "3" and options.slurm == [("a", "b=c")]
    assert options.pack == "off" and options.timeout == 1000.0 and options.results.name == "results"


def test_the_cache_folder_defaults_to_the_sweep_s(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("harness.plan.CACHE_DIR", tmp_path / "mine")
    assert cache.main([]) == 0
    assert "0 entries" in capsys.readouterr().out
