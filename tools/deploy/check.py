#!/usr/bin/env python3
"""Holds deploy/ against schemas, against the gateway's settings, and against itself. tools/deploy/check.sh brings what it needs.

    tools/deploy/check.py            prints mistakes; fails where there are any
    tools/deploy/check.py --write    first writes the copies of dashboards/rules
"""

import argparse
import sys
from collections.abc import Iterator

import yaml

import breaks
import composed
import images
import render
import rules
import schemas
import settings
import wiring


def _looked_at(all_rendered: list[render.Rendered]) -> Iterator[str]:
    for rendered in all_rendered:
        for thing in rendered.objects:
            who = f"{rendered.name}: {thing.get('kind')} {thing.get('metadata', {}).get('name')}"
            yield from (f"{who}: {text}" for text in schemas.mistakes(thing))
        yield from (f"{rendered.name}: {text}" for text in wiring.mistakes(rendered.objects))


def main() -> int:
    """Does what is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        rules.write()
    found = rules.mistakes()
    served = render.files()
    rendered = list(served)
    if render.there():
        try:
            overlays = render.overlays()
            rendered += overlays + render.charts()
            found += render.refusals()
        except (render.Failure, yaml.YAMLError) as failure:
            print(f"deploy: {failure}", file=sys.stderr)
            return 1
    found += _looked_at(rendered)
    content = composed.read()
    found += (f"compose.yaml: {text}" for text in composed.mistakes(content))
    found += composed.collector()
    found += wiring.adapter()
    found += images.mistakes()
    found += (f"lensgate.toml of systemd: {text}" for text in settings.wrong_file((render.DEPLOY / "systemd/lensgate.toml").read_text()))
    if render.there() and not found:
        production = next(one for one in overlays if one.name == "overlays/production")
        found += breaks.untold(production.objects, served[0].objects, content)
    for mistake in found:
        print(f"deploy: {mistake}", file=sys.stderr)
    if not render.there():
        print("kustomize's overlays and Helm's chart: NOT RUN (kubectl and helm are fetched for Linux on x86_64 alone)")
    print(
        f"deploy: {sum(len(one.objects) for one in rendered)} objects in {len(rendered)} renderings against Kubernetes "
        f"{' and '.join(schemas.RELEASES)}, {len(content['services'])} services, {breaks.COUNT} breaks, {len(found)} mistakes"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
