"""Write docs/configuration.md: every setting of a trial, from the types themselves.

python -m tools.configuration_table
"""

from types import NoneType
from typing import Any, Literal, get_args, get_origin

from harness.catalog import ROOT
from harness.spec.trial import CONDITIONS, TrialConfig

TARGET = ROOT / "docs" / "configuration.md"
INTRODUCTION = """# Settings of a trial

Each can be fixed or sampled in a search space, and fixed in a recipe of `baselines/`. The names are those of
transformers, peft and accelerate. This page is written by `python -m tools.configuration_table` from
`harness/spec/trial.py`; a test holds the two together.

| setting | values | default | applies | meaning |
|---|---|---|---|---|
"""
EXAMPLE = """
## An example space

```yaml
{example}```

`low` and `high` (with `log` or `step`) make a range, `choices` a list. What depends on another setting is sampled only
where it applies: with `method: {{choices: [lora, full]}}`, `r` is drawn for LoRA alone. A combination that cannot work
is refused when the file is read, with the reason; one that the device at hand cannot do, before anything is trained.
"""


def values(annotation: Any) -> str:
    """What a setting may be, in words."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"list of {values(get_args(annotation)[0])}"
    parts = [part for part in get_args(annotation) if part is not NoneType]
    if parts:
        return " or ".join(values(part) for part in parts)
    return {int: "whole number", float: "number", bool: "true, false", str: "name"}[annotation]


def table() -> str:
    """The whole page."""
    rows = []
    for name, field in TrialConfig.model_fields.items():
        default = "required" if field.is_required() else "" if field.default is None else f"`{field.default}`"
        applies = f"by `{CONDITIONS[name][0]}`" if name in CONDITIONS else ""
        rows.append(f"| `{name}` | {values(field.annotation)} | {default} | {applies} | {field.description} |")
    example = (ROOT / "search_spaces" / "lora_small.yaml").read_text(encoding="utf-8")
    return INTRODUCTION + "\n".join(rows) + "\n" + EXAMPLE.format(example=example)


if __name__ == "__main__":
    TARGET.write_text(table(), encoding="utf-8")
