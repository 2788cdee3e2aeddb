"""What can be said of dashboards and rules without a server: that they fit together, and fit docs/metrics.md."""

import re
from collections import Counter
from collections.abc import Iterator

import promql
import sources
from layout import written
from sources import Dashboard, Query, Rule

# Metrics that no panel needs to show. None so far.
NOT_SHOWN: frozenset[str] = frozenset()

SEVERITIES = {"critical", "warning", "info"}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def mistakes() -> Iterator[str]:
    """All that is wrong, each in a line."""
    boards, rules = sources.dashboards(), sources.rules()
    known = known_series(rules)
    yield from across(boards)
    for board in boards:
        yield from of_variables(board)
        yield from of_panels(board)
        yield from of_places(board)
        queries = board.queries() + board.annotation_queries() + [query for query, _ in board.variable_queries()]
        for query in queries:
            yield from of_expression(f"{query.dashboard}: {query.panel} {query.ref}".strip(), query.expr, known)
    for rule in rules:
        yield from of_expression(f"{rule.file}: {rule.name}", rule.expr, known)
        yield from of_recording(rule) if rule.kind == "record" else of_alert(rule)
    yield from of_tests(rules)
    yield from of_use([query for board in boards for query in board.queries()], rules)


def known_series(rules: list[Rule]) -> dict[str, frozenset[str] | None]:
    """Series by name, with the labels that they may have; `None` where docs/metrics.md leaves them open."""
    known: dict[str, frozenset[str] | None] = dict(sources.OWN)
    for metric in sources.metrics():
        for name, labels in metric.series().items():
            known[name] = None if metric.is_open else labels
    for rule in rules:
        if rule.kind == "record":
            known[rule.name] = frozenset().union(*rule.grouped_by())
    return known


def across(boards: list[Dashboard]) -> Iterator[str]:
    """What holds of all dashboards together."""
    for key in ("uid", "title"):
        for value, times in Counter(board.content.get(key) for board in boards).items():
            if times > 1 or not value:
                yield f"{times} dashboards have the {key} {value!r}"
    for board in boards:
        content = board.content
        if content.get("uid") != f"lensgate-{board.file}":
            yield f"{board.file}: its uid is not lensgate-{board.file}"
        if "lensgate" not in content.get("tags", []):
            yield f"{board.file}: it has no tag lensgate"
        if not any(link.get("type") == "dashboards" and link.get("tags") == ["lensgate"] for link in content.get("links", [])):
            yield f"{board.file}: it has no link to the others"
        for key in ("description", "refresh", "time", "schemaVersion"):
            if not content.get(key):
                yield f"{board.file}: it has no {key}"
        if board.text != written(content):
            yield f"{board.file}: it is not written as tools/dashboards/check.py --format writes it"


def of_variables(board: Dashboard) -> Iterator[str]:
    """Every variable that is used is there, and the other way round."""
    defined = {variable.get("name") for variable in board.variables}
    used = {name for name in re.findall(r"\$\{?(\w+)", board.text) if not name.isdigit()}
    for name in sorted(used - defined - sources.BUILT_IN_VARIABLES):
        yield f"{board.file}: the variable ${name} is not defined"
    for name in sorted(defined - used):
        yield f"{board.file}: the variable ${name} is not used"
    for variable in board.variables:
        if variable.get("type") == "query" and variable.get("datasource") != DATASOURCE:
            yield f"{board.file}: ${variable['name']} does not ask ${{datasource}}"


def of_panels(board: Dashboard) -> Iterator[str]:
    """What every panel has."""
    for number, times in Counter(panel.get("id") for panel in board.panels).items():
        if times > 1:
            yield f"{board.file}: {times} panels have the id {number}"
    for panel in board.panels:
        name = f"{board.file}: {panel.get('title')}"
        if panel.get("type") == "row":
            continue
        if not panel.get("title") or not panel.get("description"):
            yield f"{name}: it has no title or no description"
        if not panel.get("fieldConfig", {}).get("defaults", {}).get("unit") and panel.get("type") not in ("state-timeline", "heatmap"):
            yield f"{name}: it has no unit"
        if panel.get("datasource") != DATASOURCE:
            yield f"{name}: it does not ask ${{datasource}}"
        targets = panel.get("targets", [])
        if not targets:
            yield f"{name}: it asks nothing"
        if len({target.get("refId") for target in targets}) < len(targets):
            yield f"{name}: two queries have one refId"
        for target in targets:
            if not target.get("expr") or target.get("datasource") != DATASOURCE or not target.get("legendFormat"):
                yield f"{name} {target.get('refId')}: no expr, no legend, or another datasource than ${{datasource}}"


def of_places(board: Dashboard) -> Iterator[str]:
    """Panels lie within the grid, and on no other."""
    taken: dict[tuple[int, int], str] = {}
    for panel in board.content.get("panels", []):
        place, title = panel["gridPos"], str(panel.get("title"))
        if place["x"] < 0 or place["x"] + place["w"] > 24 or place["w"] < 1 or place["h"] < 1:
            yield f"{board.file}: {title} is not within the grid"
        cells = [(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])]
        for other in sorted({taken[cell] for cell in cells if cell in taken}):
            yield f"{board.file}: {title} lies on {other}"
        taken.update(dict.fromkeys(cells, title))


def of_expression(where: str, expr: str, known: dict[str, frozenset[str] | None]) -> Iterator[str]:
    """Metrics and labels are those of docs/metrics.md, or of a recording rule."""
    try:
        read = promql.read(sources.expanded(expr))
    except promql.Unreadable as error:
        yield f"{where}: {error}"
        return
    for selector in read.selectors:
        if selector.metric not in known:
            yield f"{where}: there is no metric {selector.metric}"
            continue
        labels = known[selector.metric]
        for matcher in selector.matchers:
            if labels is not None and matcher.label not in labels:
                yield f"{where}: {selector.metric} has no label {matcher.label}"
    for grouping in read.groupings:
        there = [known.get(selector.metric) for selector in grouping.selectors]
        for label in grouping.labels:
            if not any(labels is None or label in labels for labels in there):
                yield f"{where}: {grouping.word} ({label}): no metric there has it"


def of_recording(rule: Rule) -> Iterator[str]:
    """A recorded name begins with the labels that are left."""
    if not re.fullmatch(r"[a-z_]+:[a-z_]+:[a-z0-9_]+", rule.name):
        yield f"{rule.file}: {rule.name} is not level:metric:operations"
    for labels in set(rule.grouped_by()):
        rest = rule.name.split(":")[0]
        for label in sorted(labels, key=len, reverse=True):
            rest = re.sub(rf"(^|_){label}(?=_|$)", "", rest)
        if rest:
            yield f"{rule.file}: {rule.name} leaves {', '.join(sorted(labels))}"


def of_alert(rule: Rule) -> Iterator[str]:
    """An alert says how bad it is, what is wrong, and where the runbook says what to do."""
    if rule.labels.get("severity") not in SEVERITIES:
        yield f"{rule.file}: {rule.name} has no severity of {', '.join(sorted(SEVERITIES))}"
    for name in ("summary", "description", "runbook"):
        if not rule.annotations.get(name):
            yield f"{rule.file}: {rule.name} has no {name}"
    anchor = re.search(r": docs/runbook\.md#([\w-]+)$", rule.annotations.get("runbook", ""))
    if not anchor or anchor[1] != rule.name.lower():
        yield f"{rule.file}: {rule.name}: its runbook does not end with docs/runbook.md#{rule.name.lower()}"
    elif anchor[1] not in sources.runbook_anchors():
        yield f"docs/runbook.md: there is no heading {rule.name}"


def of_tests(rules: list[Rule]) -> Iterator[str]:
    """Each alert has a test in which it fires, and one in which it does not; each recorded series one of its values."""
    fires, rests = sources.tested_alerts()
    recorded = sources.tested_records()
    for rule in rules:
        if rule.kind == "alert" and rule.name not in fires & rests:
            yield f"dashboards/rules/tests: {rule.name} needs a case in which it fires, and one in which it does not"
        if rule.kind == "record" and rule.name not in recorded:
            yield f"dashboards/rules/tests: nothing says what {rule.name} is"


def of_use(queries: list[Query], rules: list[Rule]) -> Iterator[str]:
    """Each metric is on a panel, each recorded series on a panel or in an alert."""

    def named(expressions: list[str]) -> set[str]:
        return {selector.metric for expr in expressions for selector in promql.read(sources.expanded(expr)).selectors}

    shown = named([query.expr for query in queries])
    for metric in sources.metrics():
        if not shown & metric.series().keys() and metric.name not in NOT_SHOWN:
            yield f"docs/metrics.md: no panel shows {metric.name}"
    asked = shown | named([rule.expr for rule in rules if rule.kind == "alert"])
    for rule in rules:
        if rule.kind == "record" and rule.name not in asked:
            yield f"{rule.file}: nobody asks for {rule.name}"
