#!/usr/bin/env python3
"""Holds dashboards and rules against docs/metrics.md, and their queries against a Prometheus. Needs Python's library alone.

    tools/dashboards/check.py                     what can be said without a server
    tools/dashboards/check.py --format            writes the dashboards' files in their one layout (after an export from Grafana)
    tools/dashboards/check.py --queries           prints each query with its variables expanded, one JSON object a line
    tools/dashboards/check.py --against URL       runs each query on a Prometheus that asks a gateway under load: a query that
                                                  returns nothing, or no number, is a mistake, and so is a metric that is not
                                                  there (--minimum-wait: the seconds they have; --optional: a metric that need
                                                  not be there, as what makes it is not configured)
"""

import argparse
import json
import sys

import against
import sources
import static
from layout import written


def check() -> int:
    """The static checks."""
    found = list(static.mistakes())
    for mistake in found:
        print(mistake, file=sys.stderr)
    boards, rules = sources.dashboards(), sources.rules()
    panels = [panel for board in boards for panel in board.panels if panel.get("type") != "row"]
    queries = [query for board in boards for query in board.queries()]
    alerts = [rule for rule in rules if rule.kind == "alert"]
    print(
        f"dashboards: {len(boards)} with {len(panels)} panels and {len(queries)} queries, {len(alerts)} alerts and "
        f"{len(rules) - len(alerts)} recording rules over {len(sources.metrics())} metrics, {len(found)} mistakes"
    )
    return 1 if found else 0


def rewrite() -> int:
    """Writes the files in their layout."""
    for board in sources.dashboards():
        (sources.ROOT / "dashboards" / f"{board.file}.json").write_text(written(board.content))
    return 0


def list_queries() -> int:
    """Prints every query."""
    for probe in against.probes():
        print(json.dumps(probe.listed(), ensure_ascii=False))
    return 0


def main() -> int:
    """Does what is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", action="store_true")
    parser.add_argument("--queries", action="store_true")
    parser.add_argument("--against", metavar="URL")
    parser.add_argument("--minimum-wait", type=float, default=60, metavar="SECONDS")
    parser.add_argument("--optional", action="append", default=[], metavar="METRIC")
    asked = parser.parse_args()
    if asked.format:
        return rewrite()
    if asked.queries:
        return list_queries()
    if asked.against:
        return against.run(asked.against, asked.minimum_wait, frozenset(asked.optional))
    return check()


if __name__ == "__main__":
    sys.exit(main())
