"""Write docs/reference/schemas/*.json: JSON schemas of the YAML files, for editors, from the types themselves.

python -m tools.schemas

A file may say more briefly what a type says in full (`folder:` for one source, `16GB` for bytes, `all-linear` for six
projections); the schemas allow those forms too.
"""

import json
from typing import Any

from harness.catalog import ROOT
from harness.spec.augmentation import Augmentation
from harness.spec.limits import Limits
from harness.spec.recipe import Recipe
from harness.spec.space import SearchSpace
from harness.spec.task import Task
from harness.spec.trial import TrialConfig

FOLDER = ROOT / "docs" / "reference" / "schemas"
Schema = dict[str, Any]


def short_target_modules(properties: Schema) -> None:
    """Allow all-linear for the list of all six projections."""
    properties["target_modules"]["anyOf"].append({"const": "all-linear"})


def with_text(properties: Schema, names: list[str]) -> None:
    """Allow a text beside the value, such as 16GB."""
    for name in names:
        described = {key: properties[name].pop(key) for key in ("description", "default") if key in properties[name]}
        properties[name] = {"anyOf": [properties[name], {"type": "string"}], **described}


def space() -> Schema:
    """A file of search_spaces/."""
    schema = SearchSpace.model_json_schema()
    with_text(schema["$defs"]["Limits"]["properties"], list(Limits.model_fields))
    settings = TrialConfig.model_json_schema()["properties"]
    short_target_modules(settings)
    schema["properties"]["fixed"] |= {"properties": settings, "additionalProperties": False}
    schema["properties"]["sampled"]["propertyNames"] = {"enum": list(TrialConfig.model_fields)}
    return schema


def task() -> Schema:
    """A file of tasks/, or task.yaml in a folder; numbers and switches may be filled in from its options."""
    schema = Task.model_json_schema()
    required = [name for name in schema["required"] if name != "sources"]
    schema["required"] = required
    schema["properties"]["folder"] = {"type": "string", "description": "short for one source of kind folder"}
    schema["properties"]["options"] = {
        "type": "object",
        "description": "placeholders of this file and their defaults; null must be given on the command line",
    }
    schema["oneOf"] = [{"required": ["folder"]}, {"required": ["sources"]}]
    schema["properties"]["name"]["pattern"] = r"^[\w.{}-]+$"  # fleurs_{language}
    with_text(schema["$defs"]["CommonVoiceSource"]["properties"], ["merge_validation"])
    # A source without a kind is a folder; one that is written as an option's placeholder is told by its other fields.
    schema["properties"]["sources"]["items"].pop("discriminator")
    return schema


def recipe() -> Schema:
    """A file of baselines/."""
    schema = Recipe.model_json_schema()
    short_target_modules(schema["$defs"]["TrialConfig"]["properties"])
    return schema


def schemas() -> dict[str, str]:
    """The text of each file."""
    made = {"space": space(), "task": task(), "recipe": recipe(), "augmentation": Augmentation.model_json_schema()}
    version = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {f"{name}.json": json.dumps(version | schema, indent=1) + "\n" for name, schema in made.items()}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in schemas().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
