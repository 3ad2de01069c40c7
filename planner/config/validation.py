"""From pydantic's findings to one error that names file, line, key and what to write instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from planner.config.tomlfile import KeyPath, TomlFile, nearest, show_key
from planner.core.errors import ConfigError, UnitError

_MOST_SHOWN = 6
_TYPE_NAMES = {
    "string_type": "a text in quotes",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}


class Table(BaseModel):
    """Base of every table of a file: unknown keys and wrong types are errors, nothing is bent."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


ModelT = TypeVar("ModelT", bound=Table)
ValueT = TypeVar("ValueT")


def validate(
    model: type[ModelT],
    data: Any,
    file: TomlFile,
    *,
    at: KeyPath = (),
    context: dict[str, Any] | None = None,
) -> ModelT:
    """What stands at `at` of the file, as a model.

    Raises:
        ConfigError: Names file, line, key, and the nearest valid key or value.
    """
    try:
        return model.model_validate(data, context=context)
    except ValidationError as exc:
        raise _config_error(model, exc, file, at) from exc


def unit(parse: Callable[[Any], ValueT]) -> Callable[[Any], ValueT]:
    """A parser of `planner.core.units` as a pydantic validator."""

    def checked(value: Any) -> ValueT:
        try:
            return parse(value)
        except UnitError as exc:
            hint = f"; {exc.hint}" if exc.hint else ""
            raise PydanticCustomError("unit", "{text}", {"text": exc.text + hint}) from exc

    return checked


def wrong(text: str) -> PydanticCustomError:
    """An error that a validator raises, with a text of ours."""
    return PydanticCustomError("value", "{text}", {"text": text})


def _config_error(
    model: type[Table], exc: ValidationError, file: TomlFile, at: KeyPath
) -> ConfigError:
    found = sorted(exc.errors(include_url=False), key=lambda e: file.line(at + _key(e)))
    lines = [_sentence(model, error, file, at) for error in found]
    if len(lines) > _MOST_SHOWN:
        lines = [*lines[:_MOST_SHOWN], f"and {len(lines) - _MOST_SHOWN} more"]
    unknown = next((e for e in found if e["type"] == "extra_forbidden"), None)
    code = "usage.config.unknown_key" if unknown else "usage.config.value"
    return ConfigError("\n".join(lines), hint=_hint(model, unknown, at), code=code)


def _sentence(model: type[Table], error: ErrorDetails, file: TomlFile, at: KeyPath) -> str:
    key = at + _key(error)
    place = f"{file.path}:{file.line(key)}: "
    if error["type"] == "extra_forbidden":
        valid = _valid_keys(model, _key(error)[:-1])
        near = nearest(str(key[-1]), valid)
        inside = f" in {show_key(key[:-1])}" if key[:-1] else ""
        kind = "table" if isinstance(error["input"], dict | list) and not key[:-1] else "key"
        meant = f'; did you mean "{near}"?' if near else ""
        return f'{place}unknown {kind} "{key[-1]}"{inside}{meant}'
    if error["type"] == "missing":
        return f"{place}{show_key(key)} is missing"
    return f"{place}{show_key(key)}: {_reason(error)}"


def _reason(error: ErrorDetails) -> str:
    kind, value = error["type"], error["input"]
    context = error.get("ctx", {})
    if kind in _TYPE_NAMES:
        return f"{_show(value)} is not {_TYPE_NAMES[kind]}"
    if kind == "literal_error":
        expected = str(context["expected"]).replace("'", '"')
        near = nearest(str(value), [part.strip('"') for part in _words(expected)])
        meant = f'; did you mean "{near}"?' if near else ""
        return f"{_show(value)} is none of {expected}{meant}"
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return f"{_show(value)} is out of range: {error['msg'].removeprefix('Input ')}"
    return error["msg"].removeprefix("Value error, ")


def _words(expected: str) -> Iterable[str]:
    return expected.replace(" or ", ", ").split(", ")


def _show(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= 40 else f'"{value[:39]}…"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "a list"
    return "a table" if isinstance(value, dict) else str(value)


def _key(error: ErrorDetails) -> KeyPath:
    """Path of the key, without what pydantic adds for the branches of a union."""
    branches = ("str", "int", "float", "bool")
    return tuple(
        part
        for part in error["loc"]
        if isinstance(part, int) or not (part in branches or part.startswith(("list[", "function")))
    )


def _valid_keys(model: type[Table], table: KeyPath) -> list[str]:
    """Keys that the table at this path of a model may hold."""
    for part in table:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        inner = _inner_model(field.annotation) if field else None
        if inner is None:
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _inner_model(annotation: Any) -> type[Table] | None:
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _inner_model(argument)) is not None:
            return found
    return None


def _hint(model: type[Table], unknown: ErrorDetails | None, at: KeyPath) -> str | None:
    if unknown is None:
        return None
    table = _key(unknown)[:-1]
    valid = ", ".join(sorted(_valid_keys(model, table)))
    where = show_key(at + table) or "the file"
    return f"{where} may hold: {valid}" if valid else None
