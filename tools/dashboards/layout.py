"""How the dashboards' JSON is written: one layout, so that a change shows as what it is."""

import json

# What fits in so many characters, with its indentation, stands on one line.
LINE = 120


def written(value: object) -> str:
    """The text of a dashboard's file; keys keep their order."""
    return _written(value, 0) + "\n"


def _written(value: object, depth: int) -> str:
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, (dict, list)) or not value:
        return flat
    if depth > 0 and len(flat) + 2 * depth <= LINE and not _is_deep(value):
        return flat
    inner = "  " * (depth + 1)
    if isinstance(value, dict):
        parts = [f"{json.dumps(key, ensure_ascii=False)}: {_written(item, depth + 1)}" for key, item in value.items()]
        opening, closing = "{", "}"
    else:
        parts = [_written(item, depth + 1) for item in value]
        opening, closing = "[", "]"
    body = ",\n".join(inner + part for part in parts)
    return f"{opening}\n{body}\n{'  ' * depth}{closing}"


def _is_deep(value: object) -> bool:
    """Whether it holds containers that hold containers: those are easier to read over several lines."""
    items = value.values() if isinstance(value, dict) else value
    containers = [item for item in items if isinstance(item, (dict, list))]
    inner = [part for item in containers for part in (item.values() if isinstance(item, dict) else item)]
    return any(isinstance(part, (dict, list)) for part in inner)
