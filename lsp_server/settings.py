"""What a person can set, frozen. `package.json` of the extension holds the same names and defaults (test_contract)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CompletionSettings:
    """`starcite.completion.*`."""

    automatic: bool = True
    max_tokens: int = field(default=64, metadata={"range": (1, 512)})
    time_limit_ms: int = field(default=5000, metadata={"range": (100, 60_000)})
    disabled_languages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AttributionSettings:
    """`starcite.attribution.*`; no named index means every index in Starcite's own folder of indexes.

    `renamed` has suggestions checked for possible renamed copies too; `on_match` decides about licences of which the
    repository's `starcite.toml` says nothing.
    """

    indexes: tuple[str, ...] = ()
    min_run: int = field(default=80, metadata={"range": (50, 1_000_000)})
    renamed: bool = False
    on_match: Literal["annotate", "block"] = field(default="annotate", metadata={"choices": ("annotate", "block")})


@dataclass(frozen=True, slots=True)
class Settings:
    """`starcite.*`; an empty model means the one that `starcite models use` chose."""

    enable: bool = True
    model: str = ""
    completion: CompletionSettings = CompletionSettings()
    attribution: AttributionSettings = AttributionSettings()


def parse(options: object) -> tuple[Settings, tuple[str, ...]]:
    """Return the settings of an editor's options, and one sentence for each that could not be used.

    `options` is what `initializationOptions` or `workspace/didChangeConfiguration` carry, with or without the section's
    name `starcite` round it. A bad value costs only itself: its default stands. Names that are not ours are passed
    over, because an editor's own keys lie in the same section.
    """
    if isinstance(options, Mapping) and isinstance(options.get("starcite"), Mapping):
        options = options["starcite"]
    if not isinstance(options, Mapping):
        return Settings(), () if options is None else ("The settings are not an object; the defaults are in use.",)
    return _filled(Settings(), options, "starcite")


def camel_case(name: str) -> str:
    """Return a setting's name as editors write it: `max_tokens` is `maxTokens`."""
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


def _filled(defaults: T, options: Mapping[str, Any], section: str) -> tuple[T, tuple[str, ...]]:
    values: dict[str, Any] = {}
    problems: tuple[str, ...] = ()
    for item in fields(defaults):  # type: ignore[arg-type]
        key = camel_case(item.name)
        if options.get(key) is None:
            continue
        default, given, name = getattr(defaults, item.name), options[key], f"{section}.{key}"
        if is_dataclass(default) and isinstance(given, Mapping):
            values[item.name], inner = _filled(default, given, name)
            problems += inner
            continue
        value = _value(default, given, item.metadata)
        if value is None:
            problems += (f"{name} cannot be {given!r}; {_wanted(default, item.metadata)}.",)
        else:
            values[item.name] = value
    return replace(defaults, **values), problems  # type: ignore[type-var]


def _value(default: object, given: object, limits: Mapping[str, Any]) -> object | None:
    """Return the given value in the default's type, None where it is not of that type or not one of those allowed."""
    if isinstance(default, tuple):
        right = isinstance(given, (list, tuple)) and all(isinstance(one, str) for one in given)
        return tuple(given) if right else None  # type: ignore[arg-type]
    if type(given) is not type(default):
        return None
    low, high = limits.get("range", (given, given))
    if not low <= given <= high or given not in limits.get("choices", (given,)):
        return None
    return given


def _wanted(default: object, limits: Mapping[str, Any]) -> str:
    if "range" in limits:
        return "write a whole number from {} to {}".format(*limits["range"])
    if "choices" in limits:
        return f"write {' or '.join(limits['choices'])}"
    if isinstance(default, bool):
        return "write true or false"
    return "write a list of strings" if isinstance(default, tuple) else "write a string"
