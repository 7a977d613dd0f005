"""README and docs: links resolve, commands parse, and generated pages are up to date."""

import json
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from harness import catalog
from harness.catalog import ROOT
from harness.spec.base import read_yaml
from harness.spec.space import SearchSpace
from tools import cli_reference, configuration_table, schemas

PAGES = sorted([ROOT / "README.md", ROOT / "benchmarks" / "RESULTS.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:\S+=\S+ )*python (?P<name>run_sweep\.py|compare\.py|-m harness\.\w+)(?P<arguments>.*)")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(text_of(page)) if kind == language]


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """The commands of this project in a page's fenced blocks: name, arguments."""
    found = []
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if match := COMMAND.match(line.strip()):
                found.append((match["name"], shlex.split(match["arguments"], comments=True)))
    return found


@cache
def parsers():
    return cli_reference.parsers()


def anchor(heading: str) -> str:
    """The id that both GitHub and the site give a heading without symbols."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_relative_links_resolve(page):
    for link in LINK.findall(FENCE.sub("", text_of(page))):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, fragment = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{named(page)} links to {link}, which does not exist"
        if fragment:
            headings = re.findall(r"^#+ (.+)$", text_of(path), re.MULTILINE)
            assert fragment in [anchor(heading) for heading in headings], f"{named(page)} links to {link}: no heading"


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=named)
def test_commands_parse(page):
    for name, arguments in commands(page):
        try:
            parsers()[name].parse_args(arguments)
        except SystemExit:
            pytest.fail(f"{named(page)}: python {name} {shlex.join(arguments)} does not parse")


def test_commands_are_found():
    """The pattern finds commands behind variables and over several lines."""
    assert sum(len(commands(page)) for page in PAGES) > 80
    names = {name for page in PAGES for name, _ in commands(page)}
    assert names == set(parsers())


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=named)
def test_commands_name_spaces_and_baselines_that_exist(page):
    studies = {"mine.yaml", "one.yaml", "NAME"}
    for name, arguments in commands(page):
        if name == "run_sweep.py":
            options = parsers()[name].parse_args(arguments)
            assert options.space is None or options.space in {*catalog.names("search_spaces"), *studies}
            assert set(options.baselines or ()) <= {*catalog.names("baselines"), "all", "none"}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "json")], ids=named)
def test_json_examples_are_json(page):
    for block in blocks(page, "json"):
        json.loads(block)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=named)
def test_yaml_examples_are_yaml_and_whole_spaces_are_valid(page, tmp_path):
    for number, block in enumerate(blocks(page, "yaml")):
        file = tmp_path / f"{number}.yaml"
        if len(re.findall(r"^budget:", block, re.MULTILINE)) > 1:
            continue  # alternatives, one a line
        file.write_text(block, encoding="utf-8")
        value = read_yaml(file)
        if isinstance(value, dict) and {"model", "task", "budget", "sampled"} <= set(value):
            SearchSpace.load(file)


def test_command_lines_are_up_to_date():
    assert text_of(cli_reference.TARGET) == cli_reference.page(), "run python -m tools.cli_reference"


def test_settings_are_up_to_date():
    assert text_of(configuration_table.TARGET) == configuration_table.table(), "run python -m tools.configuration_table"


@pytest.mark.parametrize("name, text", sorted(schemas.schemas().items()))
def test_schemas_are_up_to_date(name, text):
    assert text_of(schemas.FOLDER / name) == text, "run python -m tools.schemas"


KINDS = {"search_spaces": "space", "tasks": "task", "baselines": "recipe", "augmentations": "augmentation"}


@pytest.mark.parametrize("folder, schema", sorted(KINDS.items()))
def test_the_projects_own_files_satisfy_the_schemas(folder, schema):
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json.loads(text_of(schemas.FOLDER / f"{schema}.json")))
    for name in catalog.names(folder):
        faults = [error.message for error in validator.iter_errors(read_yaml(ROOT / folder / f"{name}.yaml"))]
        assert not faults, f"{folder}/{name}.yaml"


def test_an_invalid_file_does_not_satisfy_its_schema():
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json.loads(text_of(schemas.FOLDER / "space.json")))
    space = read_yaml(ROOT / "search_spaces" / "demo.yaml")
    assert list(validator.iter_errors({**space, "sampled": {"rank": {"choices": [8]}}}))
    assert list(validator.iter_errors({**space, "fixed": {"method": "loar"}}))


def test_every_page_of_the_site_is_in_its_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [page for page in PAGES if page.is_relative_to(ROOT / "docs") and named(page)[5:] not in navigation]
    assert not missing


def test_the_readme_is_short():
    assert len(text_of(ROOT / "README.md").splitlines()) <= 120


# Each has one term in docs/glossary.md: leaderboard, best run, resume, evaluation of a rung, zero-shot.
REPLACED = re.compile(
    r"\b(the board|the winner(?!'s curse)|goes? on|judging|left behind by|how it stands)\b", re.IGNORECASE
)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_one_term_for_one_thing(page):
    assert not REPLACED.findall(FENCE.sub("", text_of(page)))
