"""Provide the base of all specification types, and load YAML files into them."""

import re
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import UserError, nearest


class _Loader(yaml.SafeLoader):
    """Load safe YAML; `1e-5` is a number (YAML 1.1 reads it as text), and a duplicate key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        duplicates = {key for key in keys if keys.count(key) > 1}
        if duplicates:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {duplicates.pop()!r} is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


class Spec(BaseModel):
    """A frozen value; an unknown or malformed field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, value: Any, source: str) -> Self:
        """Validate a value.

        Args:
            value: The value, usually a dictionary.
            source: Where it comes from, for error messages.

        Raises:
            UserError: The value is invalid; the message has a line for each error.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise UserError(describe_errors(error, source, cls)) from None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read one YAML file."""
        return cls.parse(read_yaml(path), str(path))


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file.

    Raises:
        UserError: The file is missing or malformed; the message names the line.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a subclass of SafeLoader
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None


def describe_errors(error: ValidationError, source: str, model: type[BaseModel]) -> str:
    """Return one line per error: the field, what was given, and what was expected.

    Args:
        error: The error of pydantic.
        source: Where the value comes from.
        model: The type that was validated.
    """
    lines = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"]) or "(whole file)"
        if item["type"] == "extra_forbidden":
            hint = nearest(str(item["loc"][-1]), _valid_fields(model, item["loc"]))
            lines.append(f"{source}: unknown field {field!r}; {hint}")
        elif item["type"] == "missing":
            lines.append(f"{source}: {field} is missing")
        else:
            message = item["msg"].removeprefix("Value error, ")
            given = "" if isinstance(item["input"], dict) else f", but {item['input']!r} was given"
            lines.append(f"{source}: {field}: {message}{given}")
    return "\n       ".join(lines)


def _valid_fields(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the valid fields of the (nested) type that contains the last part of `location`."""
    types = [model]
    for part in location[:-1]:
        tagged = [m for m in types if "kind" in m.model_fields and part in get_args(m.model_fields["kind"].annotation)]
        fields = [m.model_fields[str(part)] for m in types if str(part) in m.model_fields]
        types = tagged or [m for field in fields for m in _models(field.annotation)] or types
    return sorted({name for m in types for name in m.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the pydantic types in an annotation such as tuple[A | B, ...]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]
