"""Test the tests: change one thing in the code at a time, and see whether the tests of its area notice.

pip install cosmic-ray
python -m tools.mutants --count 150

The changes are Cosmic Ray's (another comparison, operator, number or boolean, a removed decorator, ...), drawn evenly
over the areas of tools/mutants.yaml, which names the test files of each. Each is made in a copy of the checkout. The
results are appended to a JSON-lines file; run the same command again to resume, `--report` to print the survivors.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from harness.catalog import ROOT

AREAS = ROOT / "tools" / "mutants.yaml"
ANNOTATIONS = ("annassign", "tfpdef", "decorator")
# Changes that nobody makes by mistake, that any test notices, or that change nothing: bit operators in arithmetic, `is`
# for `==`, a removed `@dataclass`; and `|`, which is mostly part of a type.
SKIPPED = re.compile(
    r"ReplaceBinaryOperator_BitOr|RemoveDecorator|ExceptionReplacer|VariableReplacer|VariableInserter"
    r"|_(BitOr|BitAnd|BitXor|LShift|RShift)$|_(Eq|NotEq|Lt|LtE|Gt|GtE)_(Is|IsNot)$|_(Is|IsNot)_(Eq|NotEq|Lt|LtE|Gt|GtE)$"
)


class Mutant(NamedTuple):
    """One change: the area, the module, and Cosmic Ray's operator with the number of its occurrence there."""

    area: str
    module: str
    operator: str
    occurrence: int


def all_mutants(area: str, modules: list[str]) -> Iterator[Mutant]:
    """Yield every change that Cosmic Ray can make in some modules, without those in annotations."""
    names = [name for name in operator_names() if not SKIPPED.search(name)]
    operators = {name: get_operator(name) for name in names if not get_operator(name).arguments()}
    for module in modules:
        nodes = list(ast_nodes(get_ast((ROOT / module).read_text(encoding="utf-8"))))
        for name, operator in operators.items():
            positions = [node for node in nodes for _ in operator().mutation_positions(node)]
            yield from (Mutant(area, module, name, n) for n, node in enumerate(positions) if not in_annotation(node))


def in_annotation(node: Any) -> bool:
    """Whether a node is part of a type annotation or a decorator."""
    while node is not None:
        if node.type in ANNOTATIONS:
            return True
        node = node.parent
    return False


def draw(areas: dict[str, dict[str, list[str]]], count: int, seed: int) -> list[Mutant]:
    """Draw `count` mutants, as many from each area as from the others, of each module in an area alike."""
    order = {}
    for area, held in areas.items():
        by_module: dict[str, list[Mutant]] = {}
        for mutant in all_mutants(area, held["modules"]):
            by_module.setdefault(mutant.module, []).append(mutant)
        shuffled = [random.Random(f"{seed} {area} {name}").sample(m, len(m)) for name, m in by_module.items()]
        order[area] = [m for turn in zip_longest_lists(shuffled) for m in turn]
    return [mutant for turn in zip_longest_lists(list(order.values())) for mutant in turn][:count]


def zip_longest_lists(lists: list[list[Mutant]]) -> Iterator[list[Mutant]]:
    """Yield the first of each list, then the second of each that has one, and so on."""
    for place in range(max(map(len, lists), default=0)):
        yield [one[place] for one in lists if place < len(one)]


def run_tests(copy: Path, tests: list[str], timeout: float) -> tuple[str, float]:
    """Run the quick ones of some tests in the copy; returns passed, failed or timeout, and the seconds."""
    environment = dict(os.environ, PYTHONPATH=str(copy), OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", *tests]
    began = time.monotonic()
    with subprocess.Popen(
        command, cwd=copy, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            process.wait(timeout=timeout)
            outcome = "passed" if process.returncode == 0 else "failed"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            outcome = "timeout"
    return outcome, time.monotonic() - began


def try_mutant(copy: Path, mutant: Mutant, tests: list[str], timeout: float) -> dict[str, Any]:
    """Make one change in the copy, run the tests of its area, and take the change back."""
    path = copy / mutant.module
    code = path.read_text(encoding="utf-8")
    changed = mutate_code(code, get_operator(mutant.operator)(), mutant.occurrence)
    lines = [
        (number, old.strip(), new.strip())
        for number, (old, new) in enumerate(zip(code.splitlines(), changed.splitlines(), strict=False), 1)
        if old != new
    ]
    path.write_text(changed, encoding="utf-8")
    try:
        outcome, seconds = run_tests(copy, tests, timeout)
    finally:
        path.write_text(code, encoding="utf-8")
    line, old, new = lines[0] if lines else (0, "", "")
    return {**mutant._asdict(), "outcome": outcome, "seconds": round(seconds, 1), "line": line, "old": old, "new": new}


def report(results: list[dict[str, Any]], harmless: dict[str, str]) -> str:
    """Return a table by area, and a line for each mutant that the tests did not notice.

    Args:
        results: The lines of the results file.
        harmless: Why a changed line changes nothing that anybody sees, by its text.
    """
    kinds = {"failed": "noticed", "passed": "not noticed", "timeout": "over time", "harmless": "harmless"}
    lines = [f"| area | {' | '.join(kinds.values())} |", f"|---|{'---:|' * len(kinds)}"]
    for result in results:
        if result["outcome"] != "failed" and result["new"] in harmless:
            result["outcome"] = "harmless"
    counted = {
        area: Counter(r["outcome"] for r in results if r["area"] == area) for area in {r["area"] for r in results}
    }
    counted["all"] = sum(counted.values(), Counter[str]())
    lines += [f"| {area} | {' | '.join(str(found[kind]) for kind in kinds)} |" for area, found in counted.items()]
    lines.append("")
    for result in results:
        if result["outcome"] != "failed":
            why = harmless.get(result["new"], kinds[result["outcome"]])
            lines.append(f"- {result['module']}:{result['line']}: `{result['old']}` -> `{result['new']}`: {why}")
    return "\n".join(lines)


def main() -> None:
    """Draw mutants, try those that are not in the results yet, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=150, help="mutants in all (default 150)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the drawing (default 1)")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for the tests of one mutant (default 60)")
    parser.add_argument("--areas", nargs="+", metavar="AREA", help="areas of tools/mutants.yaml (default: all)")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "mutants.jsonl", help="JSON-lines file")
    parser.add_argument("--report", action="store_true", help="print the results only")
    options = parser.parse_args()
    areas = yaml.safe_load(AREAS.read_text(encoding="utf-8"))
    harmless = areas.pop("harmless")
    areas = {name: areas[name] for name in options.areas or areas}
    stored = options.results.read_text(encoding="utf-8").splitlines() if options.results.is_file() else []
    results = [json.loads(line) for line in stored]
    if not options.report:
        known = {tuple(result[name] for name in Mutant._fields) for result in results}
        copy = options.results.with_suffix(".copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "results", ".*_cache", "site"))
        (copy / "results").mkdir()
        for area, held in areas.items():
            if (baseline := run_tests(copy, held["tests"], 600))[0] != "passed":
                sys.exit(f"the tests of {area} do not pass without a change: {' '.join(held['tests'])}")
            print(f"{area}: tests pass in {baseline[1]:.0f} s", flush=True)
        for mutant in draw(areas, options.count, options.seed):
            if mutant in known:
                continue
            results.append(try_mutant(copy, mutant, areas[mutant.area]["tests"], options.timeout))
            print(f"{results[-1]['outcome']:8} {mutant.module}:{results[-1]['line']} {results[-1]['new']}", flush=True)
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(results[-1], ensure_ascii=False) + "\n")
        shutil.rmtree(copy)
    print(report([result for result in results if result["area"] in areas], harmless))


if __name__ == "__main__":
    main()
