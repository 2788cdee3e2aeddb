#!/usr/bin/env python3
"""Holds the dashboards against Grafana's schema: an unknown field, a value of another type or of no enumeration is a mistake.

The types are those of grafana-foundation-sdk (requirements.txt), which Grafana Labs generates from Grafana's schema. Its own
decoder takes anything, so this walks its classes by their annotations; panels' options and custom fields by the panel's type.

    PYTHONPATH=.tools/dashboards tools/dashboards/schema.py [FILE...]

@grafana/schema of npm, Grafana's own types for TypeScript, was tried once (11.0.0, `tsc --strict`) and takes these files: a file
as a constant of the type `Dashboard`, whose enumerations must first be made strings, as they take no literals. It knows no
`expr` of an annotation, leaves options open unless somebody names a panel's types, and takes Node, which nothing else here
needs.
"""

import enum
import json
import sys
import types
import typing
from pathlib import Path

from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog import runtime
from grafana_foundation_sdk.models import common, dashboard, prometheus
from grafana_foundation_sdk.models import bargauge, heatmap, stat, statetimeline, table, timeseries

ROOT = Path(__file__).resolve().parents[2]

# The panels that are used here: the module with the types of their options and custom fields.
PANELS: dict[str, types.ModuleType] = {
    "bargauge": bargauge,
    "heatmap": heatmap,
    "stat": stat,
    "state-timeline": statetimeline,
    "table": table,
    "timeseries": timeseries,
}

# What Grafana's Prometheus data source reads, and the schema leaves open.
OPEN = {dashboard.AnnotationQuery: {"titleFormat", "textFormat"}}

# Fields that may be null in a file though they have a type: the first step of thresholds has no value.
NULLABLE = {(dashboard.Threshold, "value")}

# What the schema calls an object of any shape, and what is in there: by class and field.
NAMED = {
    (common.LineStyle, "dash"): list[float],
    (dashboard.VariableModel, "query"): str | dict[str, str],
    (dashboard.VariableModel, "current"): dashboard.VariableOption,
}

Mistakes = list[str]


def fields_of(cls: type) -> dict[str, tuple[str, object]]:
    """The fields of a class by their names in JSON, each with its attribute's name and type."""
    hints = typing.get_type_hints(cls)
    blank = cls()
    marks = {attribute: f"\0{attribute}" for attribute in hints}
    for attribute, mark in marks.items():
        setattr(blank, attribute, mark)
    # Its own encoder says which attribute is which field.
    encoded = {mark: name for name, mark in blank.to_json().items()}
    return {encoded[marks[attribute]]: (attribute, hint) for attribute, hint in hints.items()}


def check(value: object, hint: object, where: str, mistakes: Mistakes) -> None:
    """Notes in `mistakes` what of a JSON value is not of the type."""
    origin = typing.get_origin(hint)
    if hint is object or hint is typing.Any:
        return
    if origin in (typing.Union, types.UnionType):
        check_union(value, typing.get_args(hint), where, mistakes)
    elif origin is typing.Literal:
        expect(value in typing.get_args(hint), f"{value!r} is none of {typing.get_args(hint)}", where, mistakes)
    elif origin is list:
        if expect(isinstance(value, list), "is no list", where, mistakes):
            for index, item in enumerate(value):
                check(item, typing.get_args(hint)[0], f"{where}[{index}]", mistakes)
    elif origin is dict:
        if expect(isinstance(value, dict), "is no object", where, mistakes):
            for key, item in value.items():
                check(item, typing.get_args(hint)[1], f"{where}.{key}", mistakes)
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        names = [member.value for member in hint]
        expect(value in names, f"{value!r} is none of {names}", where, mistakes)
    elif hint in (str, bool, int, float):
        check_scalar(value, hint, where, mistakes)
    elif isinstance(hint, type):
        check_object(value, hint, where, mistakes)
    else:
        mistakes.append(f"{where}: the type {hint} is not understood here")


def check_scalar(value: object, hint: type, where: str, mistakes: Mistakes) -> None:
    """A whole number is a float, too; true is no number."""
    wanted = (int, float) if hint is float else hint
    fits = isinstance(value, wanted) and (hint is bool or not isinstance(value, bool))
    expect(fits, f"{value!r} is no {hint.__name__}", where, mistakes)


def check_union(value: object, hints: tuple[object, ...], where: str, mistakes: Mistakes) -> None:
    """One of them must fit; the mistakes that are told are those against the one that fits best."""
    if value is None and type(None) in hints:
        mistakes.append(f"{where}: null says nothing: leave the field out")
        return
    tried: list[Mistakes] = []
    for hint in hints:
        if hint is not type(None):
            tried.append([])
            check(value, hint, where, tried[-1])
    mistakes.extend(min(tried, key=len))


def check_object(value: object, cls: type, where: str, mistakes: Mistakes) -> None:
    """It has the fields of its class, and no others."""
    if not expect(isinstance(value, dict), f"is no object ({cls.__name__})", where, mistakes):
        return
    if cls is dashboard.Panel and value.get("type") == "row":
        cls = dashboard.RowPanel
    if cls is dashboard.Panel:
        check_panel(value, where, mistakes)
    fields = fields_of(cls)
    for name, item in value.items():
        if name in OPEN.get(cls, ()) or (item is None and (cls, name) in NULLABLE):
            continue
        if name not in fields:
            mistakes.append(f"{where}.{name}: {cls.__name__} has no such field")
            continue
        attribute, hint = fields[name]
        # Queries and a row's panels have types by what they are.
        if attribute == "targets" and cls is dashboard.Panel:
            hint = list[prometheus.Dataquery]
        check(item, NAMED.get((cls, name), hint), f"{where}.{name}", mistakes)
    # A value map's type is fixed by its class.
    if "type_val" in typing.get_type_hints(cls) and cls.__module__ == dashboard.__name__ and cls.__name__.endswith("Map"):
        expect(value.get("type") == cls().type_val, f"is no {cls.__name__}", f"{where}.type", mistakes)


def check_panel(panel: dict[str, object], where: str, mistakes: Mistakes) -> None:
    """What the schema leaves open in a panel, by its type."""
    module = PANELS.get(str(panel.get("type")))
    if module is None or runtime.panelcfg_config(str(panel.get("type"))) is None:
        mistakes.append(f"{where}.type: {panel.get('type')!r} is no panel that is known here")
        return
    check(panel.get("options", {}), module.Options, f"{where}.options", mistakes)
    config = panel.get("fieldConfig", {})
    custom = config.get("defaults", {}).get("custom", {})
    fields = getattr(module, "FieldConfig", None)
    if fields is None:
        expect(not custom, "this kind of panel has none", f"{where}.fieldConfig.defaults.custom", mistakes)
        return
    check(custom, fields, f"{where}.fieldConfig.defaults.custom", mistakes)
    for number, override in enumerate(config.get("overrides", [])):
        for changed in override.get("properties", []):
            check_override(changed, fields, f"{where}.fieldConfig.overrides[{number}]", mistakes)


def check_override(changed: dict[str, object], custom: type, where: str, mistakes: Mistakes) -> None:
    """An override names a field of the defaults, `custom.` before those of the panel's kind."""
    name = str(changed.get("id"))
    cls, field = (custom, name.removeprefix("custom.")) if name.startswith("custom.") else (dashboard.FieldConfig, name)
    known = fields_of(cls)
    if expect(field in known, f"there is no field {name}", where, mistakes):
        check(changed.get("value"), known[field][1], f"{where}.{name}", mistakes)


def expect(holds: bool, otherwise: str, where: str, mistakes: Mistakes) -> bool:
    """Notes a mistake unless it holds."""
    if not holds:
        mistakes.append(f"{where}: {otherwise}")
    return holds


def main() -> int:
    """Checks the files that are named, or all."""
    plugins.register_default_plugins()
    files = [Path(name) for name in sys.argv[1:]] or sorted((ROOT / "dashboards").glob("*.json"))
    mistakes: Mistakes = []
    for file in files:
        check(json.loads(file.read_text()), dashboard.Dashboard, file.name, mistakes)
    for mistake in mistakes:
        print(mistake, file=sys.stderr)
    print(f"schema: {len(files)} dashboards, {len(mistakes)} mistakes")
    return 1 if mistakes else 0


if __name__ == "__main__":
    sys.exit(main())
