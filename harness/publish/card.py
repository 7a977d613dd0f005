"""Write the model card of a published form: scores, data, configuration, limits."""

from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness.compare.tables.escape import markdown
from harness.model.base import Base
from harness.publish.best_run import BestRun
from harness.publish.card_scores import card_scores
from harness.publish.usage import usage

TEMPLATES = Path(__file__).parent / "templates"
LIBRARY = {"adapter": "peft", "merged": "transformers", "openai": "whisper", "ctranslate2": "ctranslate2"}


def model_card(best_run: BestRun, form: str, check: str, base: Base, official: bool = False) -> str:
    """Return the README.md of a published form. Texts from the data, file names and users are escaped.

    Args:
        best_run: The published run.
        form: One of FORMS.
        check: The result of checking the form, as a sentence without its full stop.
        base: The base model.
        official: Whether openai-whisper and faster-whisper can read the model.
    """
    # The output is Markdown, not HTML: each value is escaped by the md filter, not by jinja.
    environment = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True)  # noqa: S701
    environment.filters["md"] = lambda value: markdown(str(value))
    record = best_run.record
    front = {
        "library_name": LIBRARY[form],
        "pipeline_tag": "automatic-speech-recognition",
        "tags": ["whisper", "whisper-sweep"],
        **({"language": [best_run.spoken_language]} if best_run.spoken_language else {}),
        **({"base_model": base_name(best_run)} if "/" in base_name(best_run) else {}),
    }
    return environment.get_template("card.md.j2").render(
        front=yaml.safe_dump(front, allow_unicode=True, sort_keys=False).strip(),
        name=record.name,
        study=best_run.study.path.name,
        base=base_name(best_run),
        form=form,
        check=check,
        data=split_summaries(best_run),
        settings=record.config.settings(),
        budget={name: value for name, value in record.budget.model_dump(mode="json").items() if value is not None},
        seed=record.seed,
        cost=record.cost,
        packages=record.environment.get("packages", {}),
        commit=record.environment.get("commit"),
        validation=record.scores,
        rows=card_scores(best_run),
        normalizer=record.scores.normalizer if record.scores else "",
        notes=record.notes,
        task=best_run.manifest["identity"]["task"]["name"],
        language=best_run.spoken_language or "several",
        use=usage(environment, best_run, form, base, official).strip(),
        speech_task=best_run.speech_task,
    )


def base_name(best_run: BestRun) -> str:
    """Return the name of the base model; of a local folder only the last part."""
    return Path(best_run.model).name if Path(best_run.model).is_dir() else best_run.model


def split_summaries(best_run: BestRun) -> dict[str, Any]:
    """Return utterances, seconds and speakers of each split."""
    splits: dict[str, Any] = best_run.data_report.get("splits", {})
    return splits
