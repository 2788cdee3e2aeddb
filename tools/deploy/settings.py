"""What the gateway's settings are called: out of config/lensgate.toml, which a test of the gateway keeps complete."""

import functools
import pathlib
import re
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]

PREFIX = "LENSGATE__"
# Variables of others that the gateway obeys.
OTHERS = re.compile(r"ORT_DYLIB_PATH|SSL_CERT_FILE|LD_LIBRARY_PATH|(AWS|OTEL|NVIDIA|CUDA)_[A-Z0-9_]+")


@functools.cache
def keys() -> frozenset[str]:
    """Every key, `section.key`, those that stand behind a # included."""
    found, section = set(), ""
    for line in (ROOT / "config/lensgate.toml").read_text().splitlines():
        if heading := re.fullmatch(r"\[([a-z_]+)\]", line):
            section = heading[1] + "."
        elif key := re.match(r"(?:# )?([a-z0-9_]+) = ", line):
            found.add(section + key[1])
    return frozenset(found)


def wrong_variable(name: str) -> str | None:
    """Why a variable means nothing to the gateway."""
    if not name.startswith(PREFIX):
        return None if OTHERS.fullmatch(name) else f"{name} is no variable that the gateway obeys"
    key = name.removeprefix(PREFIX).lower().replace("__", ".")
    if key in keys() or key.removesuffix("_file") in keys():
        return None
    return f"{name} is no setting of config/lensgate.toml"


def wrong_file(text: str) -> list[str]:
    """What of a settings' file the gateway would refuse for its name."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return [f"the settings are no TOML: {error}"]
    named = {
        f"{section}.{key}" if isinstance(value, dict) else section
        for section, value in content.items()
        for key in (value if isinstance(value, dict) else [None])
    }
    return [f"{key} is no setting of config/lensgate.toml" for key in sorted(named - keys())]
