"""deploy/compose.yaml: against Compose's specification, and against what lies around it."""

import re
from collections.abc import Iterator

import yaml

import schemas
import settings
from settings import ROOT

DEPLOY = ROOT / "deploy"
# Made by up.sh, and by nobody kept.
MADE = re.compile(r"\./secrets/([a-z-]+)")


def read() -> dict:
    """The file."""
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def mistakes(content: dict) -> Iterator[str]:
    """What is wrong with it."""
    yield from schemas.compose(content)
    made = set(re.findall(r"^make_secret ([a-z-]+)", (DEPLOY / "up.sh").read_text(), re.MULTILINE))
    for name, secret in content["secrets"].items():
        found = MADE.fullmatch(secret["file"])
        if not found or found[1] not in made:
            yield f"the secret {name} is made by nobody"
    for name, service in content["services"].items():
        yield from (f"{name}: {text}" for text in _service(name, service, content))


def _service(name: str, service: dict, content: dict) -> Iterator[str]:
    image = service.get("image", "")
    if not re.search(r":v?\d[\w.-]*$", re.sub(r"\$\{\w+:-(.*?)\}", r"\1", image)):
        yield f"{image or 'its image'} has no pinned version"
    named = {part if isinstance(part, str) else part["source"] for part in service.get("secrets", [])}
    yield from (f"there is no secret {secret}" for secret in named - content["secrets"].keys())
    yield from (f"there is no network {network}" for network in set(service.get("networks", [])) - content["networks"].keys())
    yield from (f"it waits for {other}, which is not there" for other in set(service.get("depends_on", {})) - content["services"].keys())
    for volume in service.get("volumes", []):
        source = volume.split(":")[0] if isinstance(volume, str) else volume["source"]
        if source.startswith("."):
            if not (DEPLOY / source).exists():
                yield f"{source} is not there"
        elif not source.startswith("$") and source not in content["volumes"]:
            yield f"there is no volume {source}"
    for port in service.get("ports", []):
        if name != "lensgate" or not str(port).endswith(":8080"):
            if not re.match(r"127\.0\.0\.1:", str(port)):
                yield f"the port {port} is open to other machines"
    for key, value in (service.get("environment") or {}).items():
        if name == "lensgate" and (wrong := settings.wrong_variable(key)) is not None:
            yield wrong
        if key.endswith(("_FILE", "__FILE")) and str(value).startswith("/run/secrets/"):
            if value.removeprefix("/run/secrets/") not in named:
                yield f"{key} names a secret that it does not get"
        elif re.search(r"PASSWORD|TOKEN|API_KEY|SECRET", key):
            yield f"{key} is written out"
    if service.get("privileged") or "no-new-privileges:true" not in service.get("security_opt", []):
        yield "it may gain rights"


def collector() -> Iterator[str]:
    """The collector's settings: what its pipelines name must be there. Its own check takes its program."""
    content = yaml.safe_load((DEPLOY / "compose/otel-collector.yaml").read_text())
    services = read()["services"]
    for pipeline, parts in content["service"]["pipelines"].items():
        for kind, names in parts.items():
            yield from (f"otel-collector.yaml: {pipeline} names {name} among {kind}" for name in names if name not in content[kind])
    for name, exporter in content["exporters"].items():
        host = str((exporter or {}).get("endpoint", "")).split(":")[0]
        if host and host not in services:
            yield f"otel-collector.yaml: {name} sends to {host}, which is not there"
    sources = yaml.safe_load((DEPLOY / "compose/grafana-traces.yaml").read_text())["datasources"]
    for source in sources:
        host = source["url"].split("//")[1].split(":")[0]
        if host not in services:
            yield f"grafana-traces.yaml asks {host}, which is not there"
    yaml.safe_load((DEPLOY / "compose/tempo.yaml").read_text())
