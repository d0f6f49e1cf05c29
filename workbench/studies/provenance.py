"""What a run was made with, as a page shows it: short facts, folded groups, and a table with a row an intervention."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Facts = list[tuple[str, str]]


@dataclass(frozen=True)
class Provenance:
    """Everything once: what the pair's facts say is left out of the specification of the run."""

    facts: Facts
    """Single values, in the open."""
    groups: dict[str, Facts]
    """Nested values by their outermost name, folded."""
    columns: list[str]
    """Settings in which the interventions differ."""
    interventions: dict[str, list[str]]
    """Per intervention, its values of these; empty without interventions."""
    shared: Facts
    """Settings that all interventions have alike."""


def provenance(pair: Mapping[str, Any], spec: Mapping[str, Any]) -> Provenance:
    """``pair``: facts about pair and trace. ``spec``: what was asked for; its ``settings.interventions`` are tabulated."""
    settings = dict(spec.get("settings", {})) if isinstance(spec.get("settings"), Mapping) else {}
    conditions = {n: c for n, c in settings.pop("interventions", {}).items() if isinstance(c, Mapping)}
    rest = _new({**spec, "settings": settings}, pair)
    if isinstance(rest.get("pair"), Mapping):
        rest |= {"spec: pair": _new(rest.pop("pair"), pair)}
    if "controls" in rest.get("settings", {}):
        controls = {name: _new(control, pair) for name, control in settings["controls"].items()}
        rest["settings"] = {**rest["settings"], "controls": controls}
    values = {**pair, **{name: value for name, value in rest.items() if value not in ({}, None)}}
    names = list(dict.fromkeys(key for condition in conditions.values() for key in condition))
    differ = [key for key in names if len({str(c.get(key, "–")) for c in conditions.values()}) > 1]
    return Provenance(
        facts=[(name, _text(value)) for name, value in values.items() if not isinstance(value, Mapping)],
        groups={name: list(_flatten(value)) for name, value in values.items() if isinstance(value, Mapping)},
        columns=differ,
        interventions={n: [_text(c.get(key, "–")) for key in differ] for n, c in conditions.items()},
        shared=[(key, _text(next(iter(conditions.values()))[key])) for key in names if key not in differ],
    )


def _new(values: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` without what ``known`` says in the same words, at any depth."""
    rest: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and isinstance(known.get(name), Mapping):
            value = _new(value, known[name])
            if value:
                rest[name] = value
        elif name not in known or _text(known[name]) != _text(value):
            rest[name] = value
    return rest


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as (dotted name, text) pairs."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _text(value)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "–" if value is None else str(value)
