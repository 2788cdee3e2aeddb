"""What is in the files: the metrics of docs/metrics.md, the rules, their tests, the runbook, the dashboards."""

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import promql

ROOT = Path(__file__).resolve().parents[2]

# Labels that Prometheus gives to whatever it scrapes.
SCRAPED = frozenset({"job", "instance"})

# Series that Prometheus makes itself.
OWN = {"up": SCRAPED, "ALERTS": SCRAPED | {"alertname", "alertstate", "severity"}}

# __all is the value of a variable, not one.
BUILT_IN_VARIABLES = {"__rate_interval", "__range", "__interval", "__all"}


@dataclass(frozen=True)
class Metric:
    """A row of docs/metrics.md. `is_open`: its labels are not all listed there."""

    name: str
    kind: str
    labels: frozenset[str]
    is_open: bool

    def series(self) -> dict[str, frozenset[str]]:
        """The series' names that a query can ask for, with their labels."""
        labels = self.labels | SCRAPED
        if self.kind != "histogram":
            return {self.name: labels}
        return {f"{self.name}_bucket": labels | {"le"}, f"{self.name}_sum": labels, f"{self.name}_count": labels}


@dataclass
class Rule:
    """A recording rule or an alert."""

    kind: str
    name: str
    file: str
    expr: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)

    def grouped_by(self) -> list[frozenset[str]]:
        """The labels that each `by (…)` of its expression leaves, but for histograms' own."""
        groupings = promql.read(self.expr).groupings
        return [frozenset(one.labels) - {"le"} for one in groupings if one.word == "by"]


@dataclass(frozen=True)
class Query:
    """One query of a panel, a variable or an annotation, as it stands in a file."""

    dashboard: str
    panel: str
    ref: str
    expr: str


@dataclass(frozen=True)
class Dashboard:
    """One dashboard's file."""

    file: str
    text: str
    content: dict

    @cached_property
    def panels(self) -> list[dict]:
        """Rows and panels, those within collapsed rows too."""
        top = self.content.get("panels", [])
        return [panel for outer in top for panel in (outer, *outer.get("panels", []))]

    @cached_property
    def variables(self) -> list[dict]:
        """Its template variables."""
        return self.content.get("templating", {}).get("list", [])

    def queries(self) -> list[Query]:
        """Of all panels."""
        return [
            Query(self.file, panel.get("title", ""), target.get("refId", ""), target.get("expr", ""))
            for panel in self.panels
            for target in panel.get("targets", [])
        ]

    def annotation_queries(self) -> list[Query]:
        """What marks events over all panels: returns nothing where nothing happened."""
        found = self.content.get("annotations", {}).get("list", [])
        return [Query(self.file, f"annotation {one.get('name')}", "", one["expr"]) for one in found if one.get("expr")]

    def variable_queries(self) -> list[tuple[Query, str]]:
        """Of its variables: the selector, and the label whose values are wanted."""
        found = []
        for variable in self.variables:
            if variable.get("type") == "query":
                asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
                if not asked:
                    raise ValueError(f"{self.file}: ${variable['name']} is no label_values(selector, label)")
                found.append((Query(self.file, f"${variable['name']}", "", asked[1]), asked[2]))
        return found


def expanded(expr: str) -> str:
    """A query as Grafana would send it, over five minutes of everything."""
    for name, value in (("__rate_interval", "30s"), ("__range", "5m"), ("__interval", "15s")):
        expr = expr.replace(f"${name}", value)
    return re.sub(r"\$\{?\w+\}?", ".*", expr)


def dashboards() -> list[Dashboard]:
    """All of them, by name."""
    files = sorted((ROOT / "dashboards").glob("*.json"))
    return [Dashboard(file.stem, text := file.read_text(), json.loads(text)) for file in files]


def metrics() -> list[Metric]:
    """The catalogue."""
    found = []
    for line in (ROOT / "docs/metrics.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 4:
            labels = frozenset(re.findall(r"`(\w+)`", cells[2]))
            names = re.findall(r"`(\w+)`", cells[0])
            found += [Metric(name, cells[1], labels, "…" in cells[2]) for name in names]
    return found


def rules() -> list[Rule]:
    """All rules. Reads the lines as they are written there; YAML at large is promtool's to read."""
    found: list[Rule] = []
    for file in sorted((ROOT / "dashboards/rules").glob("*.yml")):
        section = ""
        for line in file.read_text().splitlines():
            if begun := re.fullmatch(r" {6}- (record|alert): (\S+)", line):
                found.append(Rule(begun[1], begun[2], file.name))
                section = ""
            elif keyed := re.fullmatch(r" {8}(\w+): *(.*)", line):
                section = keyed[1]
                if section == "expr" and keyed[2] != "|":
                    found[-1].expr = keyed[2]
            elif section == "expr" and line.startswith(" " * 10):
                found[-1].expr += line[10:] + "\n"
            elif section in ("labels", "annotations") and (pair := re.fullmatch(r" {10}(\w+): \"?(.*?)\"?", line)):
                getattr(found[-1], section)[pair[1]] = pair[2]
    return found


def tested_alerts() -> tuple[set[str], set[str]]:
    """The alerts that dashboards/rules/tests makes fire, and those that it says must not fire."""
    fires, rests = set(), set()
    for file in sorted((ROOT / "dashboards/rules/tests").glob("*.yml")):
        for name, empty in re.findall(r"alertname: (\w+)\n +exp_alerts:( \[\])?", file.read_text()):
            (rests if empty else fires).add(name)
    return fires, rests


def tested_records() -> set[str]:
    """The recorded series whose values are looked at there."""
    files = (ROOT / "dashboards/rules/tests").glob("*.yml")
    return {name for file in files for name in re.findall(r"expr: (?:round\()?([\w:]+)", file.read_text())}


def runbook_anchors() -> set[str]:
    """The anchors of the runbook's headings."""
    file = ROOT / "docs/runbook.md"
    headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE) if file.exists() else []
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
