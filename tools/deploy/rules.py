"""The rules of dashboards/rules as the Prometheus operator and the chart take them: copies, since neither reads a file elsewhere."""

import pathlib
import re

from settings import ROOT

SOURCES = sorted((ROOT / "dashboards/rules").glob("*.yml"))
HEAD = "# Written from dashboards/rules by tools/deploy/check.sh --write: change them there.\n"
OBJECT = """apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: lensgate
spec:
"""


def _groups() -> str:
    """The groups of all files below one key."""
    parts = []
    for path in SOURCES:
        _, found, groups = path.read_text().partition("groups:\n")
        if not found:
            raise ValueError(f"{path} has no groups")
        parts.append(groups.strip("\n"))
    return "groups:\n" + "\n\n".join(parts) + "\n"


def copies() -> dict[pathlib.Path, str]:
    """Each copy with what should stand in it."""
    groups = _groups()
    indented = re.sub(r"^(?=.)", "  ", groups, flags=re.MULTILINE)
    return {
        ROOT / "deploy/kubernetes/components/monitoring/prometheusrule.yaml": HEAD + OBJECT + indented,
        ROOT / "deploy/helm/lensgate/rules.yaml": HEAD + groups,
    }


def mistakes() -> list[str]:
    """Copies that are old."""
    return [
        f"{path.relative_to(ROOT)} is not what dashboards/rules says: tools/deploy/check.sh --write"
        for path, text in copies().items()
        if not path.exists() or path.read_text() != text
    ]


def write() -> None:
    """Writes the copies."""
    for path, text in copies().items():
        path.write_text(text)
