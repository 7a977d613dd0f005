"""The base of all types, and the reading of YAML files into them with errors a user can act on."""

import re
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import UserError, nearest


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads `1e-5` as a number (YAML 1.1 reads it as text) and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        doubled = {key for key in keys if keys.count(key) > 1}
        if doubled:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {doubled.pop()!r} is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


class Spec(BaseModel):
    """A frozen value that knows all its fields: an unknown or malformed one is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, value: Any, source: str) -> Self:
        """Validate `value`; `source` says in an error where it came from."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise UserError(describe(error, source, cls)) from None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read one YAML file."""
        return cls.parse(read_yaml(path), str(path))


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; a missing or malformed one is a UserError that names the line."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a subclass of SafeLoader
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None


def describe(error: ValidationError, source: str, model: type[BaseModel]) -> str:
    """One line a fault: where, what was given, what was expected."""
    lines = []
    for fault in error.errors():
        place = ".".join(str(part) for part in fault["loc"]) or "(whole file)"
        if fault["type"] == "extra_forbidden":
            lines.append(
                f"{source}: unknown field {place!r}; {nearest(str(fault['loc'][-1]), _fields(model, fault['loc']))}"
            )
        elif fault["type"] == "missing":
            lines.append(f"{source}: {place} is missing")
        else:
            said = fault["msg"].removeprefix("Value error, ")
            given = "" if isinstance(fault["input"], dict) else f", but {fault['input']!r} was given"
            lines.append(f"{source}: {place}: {said}{given}")
    return "\n       ".join(lines)


def _fields(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """The valid field names of the (nested) type in which the last part of `place` stands."""
    chosen = [model]
    for part in place[:-1]:
        tagged = [m for m in chosen if "kind" in m.model_fields and part in get_args(m.model_fields["kind"].annotation)]
        fields = [m.model_fields[str(part)] for m in chosen if str(part) in m.model_fields]
        chosen = tagged or [m for field in fields for m in _models(field.annotation)] or chosen
    return sorted({name for m in chosen for name in m.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The types of ours in an annotation such as tuple[A | B, ...]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]
