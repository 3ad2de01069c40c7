"""Domain dataclasses to plain JSON values and back, led by their type hints.

What is written here is read by later versions, so decoding is forgiving in one direction only:
keys it does not know are ignored, keys that are missing take the field's default, and anything
else that does not fit raises `StoreError` naming the place. Values JSON has no form for are
written as objects with one key: `{"$float": "inf"}`.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from planner.core.errors import StoreError

T = TypeVar("T")
_Decoder = Callable[[Any, str], Any]
_FLOAT_KEY = "$float"


def datetime_text(at: datetime) -> str:
    """RFC 3339 in UTC with a `Z`, to the microsecond.

    Raises:
        StoreError: The time carries no zone.
    """
    if at.tzinfo is None:
        raise StoreError(f"a time without a zone cannot be stored: {at}")
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def parse_datetime(text: str) -> datetime:
    """The aware UTC time behind `datetime_text`. Raises ValueError."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"no time zone: {text}")
    return at.astimezone(UTC)


def to_json(obj: Any) -> Any:
    """`obj` as dicts, lists, strings, numbers, booleans and None.

    Raises:
        StoreError: A value of a type that has no stored form.
    """
    if isinstance(obj, Enum):
        return obj.value
    if obj is None or isinstance(obj, str | bool | int):
        return obj
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else {_FLOAT_KEY: str(obj)}
    if isinstance(obj, datetime):
        return datetime_text(obj)
    if is_dataclass(obj) and not isinstance(obj, type):
        return {f.name: to_json(getattr(obj, f.name)) for f in fields(obj)}
    if isinstance(obj, Mapping):
        return {str(key): to_json(value) for key, value in obj.items()}
    if isinstance(obj, tuple | list):
        return [to_json(value) for value in obj]
    raise StoreError(f"{type(obj).__name__} has no stored form: {obj!r}")


def from_json(cls: type[T], data: Any) -> T:
    """The dataclass that `to_json` made `data` of.

    Raises:
        StoreError: `data` does not fit; the text names the place, such as `Plan.option.price`.
    """
    decode = _decoder(cast(Any, cls))
    return cast(T, decode(data, cls.__name__))


class _Mismatch(StoreError):
    """Stored data does not fit its type. Separate, so that a union can try its next member."""


def _mismatch(where: str, wanted: str, data: Any) -> _Mismatch:
    seen = repr(data)
    seen = seen if len(seen) <= 60 else seen[:57] + "..."
    return _Mismatch(
        f"stored data is damaged: {where} should be {wanted}, not {seen}",
        hint="the file was changed or cut off; planner doctor shows what can be rebuilt",
    )


@cache
def _decoder(hint: Any) -> _Decoder:
    """A function from (JSON value, place) to a value of type `hint`; made once per type."""
    origin = get_origin(hint)
    if hint in (Any, object):
        return lambda data, _where: _plain(data)
    if hint is None or hint is type(None):
        return _decode_none
    if origin in (Union, types.UnionType):
        return _union_decoder(get_args(hint))
    if origin is Literal:
        return _literal_decoder(get_args(hint))
    if origin is tuple:
        return _tuple_decoder(get_args(hint))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping_decoder(get_args(hint)[1])
    if isinstance(hint, type):
        return _class_decoder(hint)
    raise StoreError(f"no stored form for type {hint}")


def _class_decoder(hint: type) -> _Decoder:
    if is_dataclass(hint):
        return _dataclass_decoder(hint)
    if issubclass(hint, Enum):
        return _enum_decoder(hint)
    known: dict[type, _Decoder] = {
        str: _decode_str,
        bool: _decode_bool,
        int: _decode_int,
        float: _decode_float,
        datetime: _decode_datetime,
    }
    if hint in known:
        return known[hint]
    raise StoreError(f"no stored form for type {hint.__name__}")


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        if _is_float(data):
            return float(data[_FLOAT_KEY])
        return {key: _plain(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_plain(value) for value in data]
    return data


def _is_float(data: Any) -> bool:
    return isinstance(data, dict) and set(data) == {_FLOAT_KEY} and data[_FLOAT_KEY] in _NON_FINITE


_NON_FINITE = ("inf", "-inf", "nan")


def _decode_none(data: Any, where: str) -> None:
    if data is not None:
        raise _mismatch(where, "null", data)


def _decode_str(data: Any, where: str) -> str:
    if not isinstance(data, str):
        raise _mismatch(where, "a string", data)
    return data


def _decode_bool(data: Any, where: str) -> bool:
    if not isinstance(data, bool):
        raise _mismatch(where, "true or false", data)
    return data


def _decode_int(data: Any, where: str) -> int:
    if isinstance(data, bool) or not isinstance(data, int):
        raise _mismatch(where, "a whole number", data)
    return data


def _decode_float(data: Any, where: str) -> float:
    if _is_float(data):
        return float(data[_FLOAT_KEY])
    if isinstance(data, bool) or not isinstance(data, int | float):
        raise _mismatch(where, "a number", data)
    return float(data)


def _decode_datetime(data: Any, where: str) -> datetime:
    try:
        return parse_datetime(data)
    except (TypeError, ValueError) as error:
        raise _mismatch(where, "a time with its zone", data) from error


def _enum_decoder(hint: type[Enum]) -> _Decoder:
    def decode(data: Any, where: str) -> Enum:
        try:
            return hint(data)
        except ValueError as error:
            raise _mismatch(where, f"one of {[m.value for m in hint]}", data) from error

    return decode


def _literal_decoder(allowed: tuple[Any, ...]) -> _Decoder:
    def decode(data: Any, where: str) -> Any:
        for value in allowed:
            if type(value) is type(data) and value == data:
                return value
        raise _mismatch(where, f"one of {list(allowed)}", data)

    return decode


def _tuple_decoder(members: tuple[Any, ...]) -> _Decoder:
    if len(members) == 2 and members[1] is Ellipsis:
        item = _decoder(members[0])

        def decode_all(data: Any, where: str) -> tuple[Any, ...]:
            if not isinstance(data, list | tuple):
                raise _mismatch(where, "a list", data)
            return tuple(item(value, f"{where}[{i}]") for i, value in enumerate(data))

        return decode_all
    items = tuple(_decoder(member) for member in members)

    def decode(data: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(data, list | tuple) or len(data) != len(items):
            raise _mismatch(where, f"a list of {len(items)}", data)
        pairs = zip(items, data, strict=True)
        return tuple(each(value, f"{where}[{i}]") for i, (each, value) in enumerate(pairs))

    return decode


def _mapping_decoder(value_hint: Any) -> _Decoder:
    item = _decoder(value_hint)

    def decode(data: Any, where: str) -> dict[str, Any]:
        if not isinstance(data, Mapping):
            raise _mismatch(where, "an object", data)
        return {str(key): item(value, f"{where}.{key}") for key, value in data.items()}

    return decode


_EXACT: dict[type, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (float,),
    str: (str,),
    type(None): (type(None),),
}


def _union_decoder(members: tuple[Any, ...]) -> _Decoder:
    """The member of exactly the JSON value's type first, then the first member that fits."""
    decoders = tuple((member, _decoder(member)) for member in members)

    def decode(data: Any, where: str) -> Any:
        exact = [d for member, d in decoders if type(data) in _EXACT.get(member, ())]
        rest = [d for _, d in decoders if d not in exact]
        problem: _Mismatch | None = None
        for each in (*exact, *rest):
            try:
                return each(data, where)
            except _Mismatch as error:
                # An optional part that is damaged inside is worth more than "should be null".
                deeper = problem is None or len(error.text) > len(problem.text)
                problem = error if deeper else problem
        raise problem or _mismatch(where, "one of several types", data)

    return decode


def _dataclass_decoder(cls: type) -> _Decoder:
    hints = get_type_hints(cls)
    known: list[tuple[str, _Decoder, bool]] = []
    for field in fields(cls):
        optional = field.default is not MISSING or field.default_factory is not MISSING
        known.append((field.name, _decoder(hints[field.name]), optional))

    def decode(data: Any, where: str) -> Any:
        if not isinstance(data, Mapping):
            raise _mismatch(where, "an object", data)
        values: dict[str, Any] = {}
        for name, each, optional in known:
            if name in data:
                values[name] = each(data[name], f"{where}.{name}")
            elif not optional:
                raise _mismatch(where, f"an object with {name!r}", sorted(data))
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise _mismatch(where, f"a valid {cls.__name__} ({error})", data) from error

    return decode
