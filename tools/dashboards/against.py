"""Every query of dashboards and rules on a real Prometheus: each must return a number within its time."""

import json
import math
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass

import promql
import sources

# Labels that tell events and states apart: a series of theirs may not be there while all is well.
EVENTS = {"outcome", "state", "reason", "result", "limit", "decision", "http_response_status_code"}

# Loopback is asked without a proxy, whatever the environment says.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Probe:
    """One query that must return something. `instead` is asked where it returns nothing."""

    kind: str
    dashboard: str
    panel: str
    ref: str
    expr: str
    label: str = ""
    instead: str = ""

    def listed(self) -> dict[str, str]:
        """As `--queries` prints it."""
        named = {"kind": self.kind, "dashboard": self.dashboard, "panel": self.panel, "ref": self.ref, "expr": self.expr}
        return named | ({"label": self.label} if self.label else {}) | ({"instead": self.instead} if self.instead else {})


class Refused(Exception):
    """What Prometheus says is wrong with a query."""


def probes(optional: frozenset[str] = frozenset()) -> list[Probe]:
    """All queries: of panels, of variables, of recording rules, what those record; and what panels and alerts select.

    A panel's `or vector(0)` returns something even where its metric is not there, and an alert returns nothing while all is
    well: so each selector must have series by itself, but for those of the metrics in `optional`.
    """
    found, selected = [], {}
    for board in sources.dashboards():
        for query in board.queries():
            expr = sources.expanded(query.expr)
            found.append(Probe("panel", query.dashboard, query.panel, query.ref, expr))
            selected |= {selector: (query.dashboard, query.panel) for selector in promql.read(expr).selectors}
        for query, label in board.variable_queries():
            found.append(Probe("variable", query.dashboard, query.panel, "", sources.expanded(query.expr), label))
    for rule in sources.rules():
        if rule.kind == "record":
            found.append(Probe("rule", rule.file, rule.name, "expr", rule.expr))
            found.append(Probe("rule", rule.file, rule.name, "series", rule.name))
        else:
            selected |= {selector: (rule.file, rule.name) for selector in promql.read(rule.expr).selectors}
    for selector, (file, name) in selected.items():
        # Of alerts that fire there need be none.
        if selector.metric != "ALERTS" and re.sub("_(bucket|sum|count)$", "", selector.metric) not in optional:
            found.append(_of_selector(selector, file, name))
    return found


def _of_selector(selector: promql.Selector, file: str, name: str) -> Probe:
    lasting = tuple(matcher for matcher in selector.matchers if matcher.label not in EVENTS)
    instead = promql.Selector(selector.metric, lasting)
    other = f"count({instead})" if instead != selector else ""
    return Probe("selector", file, name, str(selector), f"count({selector})", instead=other)


def run(url: str, wait: float, optional: frozenset[str]) -> int:
    """Asks all until they have answered or the time is over; prints what they said. 0 where none was left."""
    begun = time.monotonic()
    answers: dict[Probe, str] = {}
    pending, wrong = list(dict.fromkeys(probes(optional))), {}
    while pending:
        wrong = {}
        for probe in pending:
            try:
                if answer := ask(url, probe):
                    answers[probe] = answer
                else:
                    wrong[probe] = "returned nothing, or no number"
            except Refused as error:
                wrong[probe] = str(error)
        pending = list(wrong)
        if time.monotonic() - begun >= wait:
            break
        if pending:
            time.sleep(1)
    unwell = rules_unwell(url, wait - (time.monotonic() - begun))
    for probe in answers:
        print(f"{probe.dashboard} | {' '.join(filter(None, (probe.panel, probe.ref)))} | {answers[probe]}")
    for probe, reason in wrong.items():
        print(f"WRONG {probe.dashboard} | {probe.panel} {probe.ref} | {reason}: {' '.join(probe.expr.split())}")
    for line in unwell:
        print(f"WRONG {line}")
    print(f"{len(answers)} queries returned data, {len(wrong)} did not; {len(unwell)} rules are not well")
    return 1 if wrong or unwell else 0


def ask(url: str, probe: Probe) -> str:
    """What a query returned, in short; empty where it was nothing.

    Raises `Refused`.
    """
    if probe.kind == "variable":
        values = call(url, f"label/{probe.label}/values", {"match[]": probe.expr})
        return ", ".join(value or '""' for value in values[:6]) + (", …" if len(values) > 6 else "")
    answer = shown(call(url, "query", {"query": probe.expr}))
    if not answer and probe.instead and (answer := shown(call(url, "query", {"query": probe.instead}))):
        answer += f" (of {probe.instead})"
    return answer


def shown(data: dict) -> str:
    """The first number of an answer and how many there are; empty where there is none."""
    samples = [data["result"]] if data["resultType"] == "scalar" else [series["value"] for series in data["result"]]
    numbers = [float(value) for _, value in samples if not math.isnan(float(value))]
    if not numbers:
        return ""
    return f"{numbers[0]:.6g}" + (f" and {len(samples) - 1} more" if len(samples) > 1 else "")


def rules_unwell(url: str, wait: float) -> list[str]:
    """Rules of the files that the server does not have, or cannot evaluate."""
    wanted = {rule.name for rule in sources.rules()}
    deadline = time.monotonic() + max(wait, 5)
    while True:
        groups = call(url, "rules", {})["groups"]
        health = {rule["name"]: f"{rule['health']} {rule.get('lastError', '')}" for group in groups for rule in group["rules"]}
        unwell = [f"{name} | {health.get(name, 'is not loaded')}" for name in sorted(wanted) if not re.match("ok ", health.get(name, ""))]
        if not unwell or time.monotonic() >= deadline:
            return unwell
        time.sleep(1)


def call(url: str, path: str, query: dict[str, str]):
    """One call of Prometheus's API.

    Raises `Refused` where it says that the query is wrong, or does not answer.
    """
    asked = f"{url.rstrip('/')}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    try:
        with OPENER.open(asked, timeout=30) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        raise Refused(error.read().decode(errors="replace")[:300]) from error
    except OSError as error:
        raise Refused(f"no answer from {url}: {error}") from error
