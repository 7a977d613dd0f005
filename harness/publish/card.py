"""The model card: data, recipe, scores with their intervals as the comparison has them, limits."""

import json
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness.compare.tables.escape import markdown
from harness.publish.best_run import Winner

TEMPLATES = Path(__file__).parent / "templates"
LIBRARY = {"adapter": "peft", "merged": "transformers", "openai": "whisper", "ctranslate2": "ctranslate2"}


def card(winner: Winner, form: str, checked: str) -> str:
    """README.md of a published form. Texts from the data, from file names and from users are escaped."""
    # Markdown, not HTML: every value passes the md filter instead of jinja's own escaping.
    environment = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True)  # noqa: S701
    environment.filters["md"] = lambda value: markdown(str(value))
    record = winner.record
    front = {
        "library_name": LIBRARY[form],
        "pipeline_tag": "automatic-speech-recognition",
        "tags": ["whisper", "whisper-sweep"],
        **({"language": [winner.language]} if winner.language else {}),
        **({"base_model": base_name(winner)} if "/" in base_name(winner) else {}),
    }
    return environment.get_template("card.md.j2").render(
        front=yaml.safe_dump(front, allow_unicode=True, sort_keys=False).strip(),
        name=record.name,
        study=winner.study.path.name,
        base=base_name(winner),
        form=form,
        checked=checked,
        data=data(winner),
        settings=record.config.settings(),
        budget={name: value for name, value in record.budget.model_dump(mode="json").items() if value is not None},
        seed=record.seed,
        cost=record.cost,
        packages=record.environment.get("packages", {}),
        commit=record.environment.get("commit"),
        validation=record.scores,
        rows=scores(winner),
        normalizer=record.scores.normalizer if record.scores else "",
        notes=record.notes,
        task=winner.manifest["identity"]["task"]["name"],
        language=winner.language or "several",
        speech_task=winner.speech_task,
    )


def base_name(winner: Winner) -> str:
    """The base model; of a folder on this machine its last part."""
    return Path(winner.model).name if Path(winner.model).is_dir() else winner.model


def data(winner: Winner) -> dict[str, Any]:
    """Utterances, minutes and speakers of each split."""
    path = winner.study.path / "data_report.json"
    splits: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["splits"] if path.is_file() else {}
    return splits


def scores(winner: Winner) -> list[dict[str, Any]]:
    """The rows of the comparison on test for this run and the untouched model; none before compare.py was run."""
    path = winner.study.comparison / "leaderboard.json"
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return [row for row in rows if row["system"] == winner.record.name or row["kind"] == "zero_shot"]
