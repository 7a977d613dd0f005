"""Write docs/reference/settings.md: every setting of a trial, from the types themselves.

python -m tools.configuration_table
"""

from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from harness.catalog import ROOT
from harness.spec.trial import CONDITIONS, TrialConfig

TARGET = ROOT / "docs" / "reference" / "settings.md"
INTRODUCTION = """# Settings of a trial

You can fix or sample each setting in a search space, and fix it in a recipe of `baselines/`. The names are those of
Transformers, PEFT and Accelerate. `python -m tools.configuration_table` writes this page from `harness/spec/trial.py`,
and a test keeps it up to date.

A setting marked *(LoRA only)* applies with `method: lora`; other marks work the same way.

| setting | values | default | meaning |
|---|---|---|---|
"""
EXAMPLE = """
## An example search space

This is `search_spaces/lora_small.yaml`:

```yaml
{example}```

`low` and `high` (with `log` or `step`) define a range, `choices` a list. A setting that depends on another is sampled
only where it applies: with `method: {{choices: [lora, full]}}`, `r` is sampled for LoRA alone. The harness refuses a
combination that cannot work when it reads the file, and gives the reason. It refuses a combination that your device
cannot run before it trains anything.
"""


def values(annotation: Any) -> str:
    """What a setting may be, in words."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"list of {values(get_args(annotation)[0]).replace('whole number', 'whole numbers')}"
    parts = [part for part in get_args(annotation) if part is not NoneType]
    if parts:
        return " or ".join(values(part) for part in parts)
    return {int: "whole number", float: "number", bool: "true, false", str: "name"}[annotation]


def default(field: FieldInfo) -> str:
    """The default as YAML writes it."""
    if field.is_required():
        return "required"
    value = field.default
    return "" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def condition(name: str) -> str:
    """What another setting must be for this one to apply, in words."""
    if name not in CONDITIONS:
        return ""
    other = CONDITIONS[name][0]
    return {"method": " *(LoRA only)*", "optim": " *(AdamW only)*"}.get(other, f" *(with `{other}`)*")


def table() -> str:
    """The whole page."""
    rows = []
    for name, field in TrialConfig.model_fields.items():
        meaning = (field.description or "") + condition(name)
        rows.append(f"| `{name}` | {values(field.annotation)} | {default(field)} | {meaning} |")
    example = (ROOT / "search_spaces" / "lora_small.yaml").read_text(encoding="utf-8")
    return INTRODUCTION + "\n".join(rows) + "\n" + EXAMPLE.format(example=example)


if __name__ == "__main__":
    TARGET.write_text(table(), encoding="utf-8")
