"""The form of what a file holds: plain values checked, field by field, before anybody uses them."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

#: What a value is to be: a type; several types in a tuple; `[form]` a list of such values; `[form, form]` a list of
#: exactly so many; `{str: form}` an object of
#: such values; `{"name": form, ...}` an object with these fields and perhaps others, a name with "?" at its end being
#: of a field that may be absent. A bool is no number, int is any whole number, float any finite number.
Form: TypeAlias = Any

_WORDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "keys and values",
    list: "a list",
    type(None): "null",
}


def conform(value: Any, form: Form, place: str = "") -> None:
    """Return where a value has a form; raise ValueError that names the first place where it has another."""
    if isinstance(form, list):
        _expect(isinstance(value, list), "a list", place)
        _expect(len(form) in (1, len(value)), f"a list of {len(form)}", place)
        for index, item in enumerate(value):
            conform(item, form[index if len(form) > 1 else 0], f"{place}[{index}]")
    elif isinstance(form, dict):
        _expect(isinstance(value, dict), "an object", place)
        if str in form:
            for name, item in value.items():
                conform(item, form[str], f"{place}.{name}")
            return
        for key, inner in form.items():
            name = key.removesuffix("?")
            _expect(name in value or key != name, "a value", f"{place}.{name}")
            if name in value:
                conform(value[name], inner, f"{place}.{name}")
    else:
        kinds = form if isinstance(form, tuple) else (form,)
        _expect(any(_is(value, kind) for kind in kinds), " or ".join(_WORDS[kind] for kind in kinds), place)


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or kind is not float:
        return type(value) is kind
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def _expect(right: bool, what: str, place: str) -> None:
    if not right:
        raise ValueError(f"{place.removeprefix('.') or 'it'}: expected {what}")
