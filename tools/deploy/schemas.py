"""Objects against the schemas of whoever takes them: Kubernetes' own (kubernetes-validate ships them), the Prometheus operator's
(cloudcoil's models), KServe's (its SDK's models), Compose's (check-jsonschema ships it)."""

import ast
import functools
import json
import re
from collections.abc import Iterator

import jsonschema

from settings import ROOT

PACKAGES = ROOT / ".tools/deploy"
# The oldest release that is still out there, and the newest.
RELEASES = ("1.31.0", "1.37.0")
OPERATOR = "monitoring.coreos.com/v1"
KSERVE = re.compile(r"serving\.kserve\.io/(v1\w+)")


def mistakes(thing: dict) -> Iterator[str]:
    """What an object's schemas have against it."""
    version, kind = str(thing.get("apiVersion", "")), str(thing.get("kind", ""))
    if version == OPERATOR:
        yield from _operator(kind, thing)
    elif own := KSERVE.fullmatch(version):
        yield from _kserve(f"{own[1].capitalize()}{kind}", thing, kind)
    else:
        for release in RELEASES:
            yield from (f"{text} (Kubernetes {release})" for text in _kubernetes(release, version, kind, thing))


def _errors(validator: jsonschema.Draft202012Validator, thing: object) -> Iterator[str]:
    for error in validator.iter_errors(thing):
        place = ".".join(str(part) for part in error.absolute_path) or "the object"
        yield f"{place}: {error.message[:300]}"


@functools.cache
def _definitions(release: str) -> dict:
    """All types of a release, so that a key that none knows is a mistake."""
    folder = PACKAGES / "kubernetes_validate/kubernetes-json-schema" / f"v{release}-local-strict"
    return json.loads((folder / "_definitions.json").read_text())["$defs"]


@functools.cache
def _validator(release: str, name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": _definitions(release)})


@functools.cache
def _names(release: str) -> dict[tuple[str, str], str]:
    """The type's name by apiVersion and kind."""
    found = {}
    for name, definition in _definitions(release).items():
        for entry in definition.get("x-kubernetes-group-version-kind", []):
            group = f"{entry['group']}/" if entry["group"] else ""
            found[group + entry["version"], entry["kind"]] = name
    return found


def _kubernetes(release: str, version: str, kind: str, thing: dict) -> Iterator[str]:
    name = _names(release).get((version, kind))
    if name is None:
        yield f"there is no {kind} in {version}"
    else:
        yield from _errors(_validator(release, name), thing)


def _operator(kind: str, thing: dict) -> Iterator[str]:
    import pydantic
    from cloudcoil.models.prometheus_operator import v1

    model = getattr(v1, kind, None)
    if model is None:
        yield f"there is no {kind} in {OPERATOR}"
        return
    try:
        read = model.model_validate(thing)
    except pydantic.ValidationError as error:
        yield str(error)
        return
    # What it has not read comes back as a difference.
    written = read.model_dump(mode="json", by_alias=True, exclude_unset=True)
    yield from (f"{place} is no key of {kind}" for place in _lost(thing, written, ""))


def _lost(given: object, read: object, place: str) -> Iterator[str]:
    if isinstance(given, dict) and isinstance(read, dict):
        for key, value in given.items():
            if key not in read:
                yield f"{place}.{key}".lstrip(".")
            else:
                yield from _lost(value, read[key], f"{place}.{key}")
    elif isinstance(given, list) and isinstance(read, list):
        for number, (mine, its) in enumerate(zip(given, read, strict=False)):
            yield from _lost(mine, its, f"{place}.{number}")


def _table(source: ast.Module, name: str) -> dict[str, str]:
    """A class attribute of a generated model, read without running it: KServe's SDK needs much that has no place here."""
    for node in ast.walk(source):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            return ast.literal_eval(node.value)
    raise KeyError(name)


@functools.cache
def _kserve_types(model: str) -> dict[str, str] | None:
    """Keys as they are written in YAML, each with its type."""
    file = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", model).lower()
    path = PACKAGES / f"kserve/models/{file}.py"
    if not path.exists():
        return None
    source = ast.parse(path.read_text())
    names, types = _table(source, "attribute_map"), _table(source, "openapi_types")
    return {names[key]: types[key] for key in types}


PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float)}


def _kserve(wanted: str, value: object, place: str) -> Iterator[str]:
    if wanted == "object" or wanted in PLAIN:
        if not isinstance(value, PLAIN.get(wanted, object)):
            yield f"{place}: {value!r} is no {wanted}"
    elif inner := re.fullmatch(r"list\[(.+)\]", wanted):
        if isinstance(value, list):
            for number, item in enumerate(value):
                yield from _kserve(inner[1], item, f"{place}.{number}")
        else:
            yield f"{place} is no list"
    elif inner := re.fullmatch(r"dict\(str, (.+)\)", wanted):
        if isinstance(value, dict):
            for key, item in value.items():
                yield from _kserve(inner[1], item, f"{place}.{key}")
        else:
            yield f"{place} is no mapping"
    elif (types := _kserve_types(wanted)) is not None:
        if not isinstance(value, dict):
            yield f"{place} is no mapping"
            return
        for key, item in value.items():
            if key in types:
                yield from _kserve(types[key], item, f"{place}.{key}")
            else:
                yield f"{place}.{key} is no key of {wanted}"
    else:
        yield from _borrowed(wanted, value, place)


def _borrowed(wanted: str, value: object, place: str) -> Iterator[str]:
    """A type of Kubernetes' own within one of KServe's: `V1Container`."""
    release = RELEASES[-1]
    ending = "." + wanted.replace("V1", "v1.", 1)
    name = next((name for name in sorted(_definitions(release)) if name.endswith(ending)), None)
    if name is None:
        yield f"{place}: nothing is known of {wanted}"
    else:
        yield from (f"{place}.{text}" for text in _errors(_validator(release, name), value))


def compose(content: dict) -> Iterator[str]:
    """A Compose file against its specification."""
    path = PACKAGES / "check_jsonschema/builtin_schemas/vendor/compose-spec.json"
    yield from _errors(jsonschema.Draft202012Validator(json.loads(path.read_text())), content)
