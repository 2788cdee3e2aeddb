"""What no schema says of the objects of one overlay or chart: that their names meet, that the gateway knows the settings it is given,
that nothing has more rights than it needs, and that nobody but operators and Prometheus comes to the admin plane."""

import functools
import json
import re
from collections.abc import Iterator

import yaml

import settings
from settings import ROOT

# Seconds that the gateway's own end may take.
DRAIN = 40
ADMIN = {"admin", 8081}


def mistakes(objects: list[dict]) -> Iterator[str]:
    """What does not fit together."""
    by_kind: dict[str, list[dict]] = {}
    for thing in objects:
        by_kind.setdefault(thing.get("kind", ""), []).append(thing)
    pods = [thing for kind in ("StatefulSet", "Deployment") for thing in by_kind.get(kind, [])]
    yield from _doubles(objects)
    for thing in pods:
        template = thing["spec"]["template"]
        labels = template["metadata"]["labels"]
        if not _selects(thing["spec"]["selector"]["matchLabels"], labels):
            yield "the pods do not have the labels that their set looks for"
        yield from _pod(template["spec"], by_kind, thing)
        yield from _selectors(by_kind, labels, template["spec"])
    for runtime in by_kind.get("ClusterServingRuntime", []):
        yield from _pod(runtime["spec"], by_kind, runtime)
    yield from _scaling(by_kind)
    for thing in by_kind.get("ConfigMap", []):
        for name, text in thing["data"].items():
            if name.endswith(".toml"):
                yield from settings.wrong_file(text)
    for thing in by_kind.get("Service", []):
        admin = any(ADMIN & {port.get("targetPort"), port.get("port"), port.get("name")} for port in thing["spec"]["ports"])
        if admin and thing["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"the Service {thing['metadata']['name']} shows the admin plane to the world"


def _doubles(objects: list[dict]) -> Iterator[str]:
    seen = set()
    for thing in objects:
        key = (thing.get("kind"), thing["metadata"].get("namespace"), thing["metadata"]["name"])
        if key in seen:
            yield f"{key[0]} {key[2]} is there twice"
        seen.add(key)


def _selects(wanted: dict, labels: dict) -> bool:
    return bool(wanted) and all(labels.get(key) == value for key, value in wanted.items())


def _selectors(by_kind: dict[str, list[dict]], labels: dict, spec: dict) -> Iterator[str]:
    """Whatever looks for the pods by their labels, and names their ports."""
    ports = {port["name"] for container in spec["containers"] for port in container["ports"]}
    for thing in by_kind.get("Service", []):
        name = f"the Service {thing['metadata']['name']}"
        if not _selects(thing["spec"]["selector"], labels):
            yield f"{name} finds no pod"
        yield from (f"{name}: no port is called {port['targetPort']}" for port in thing["spec"]["ports"] if port["targetPort"] not in ports)
    for thing in by_kind.get("PodDisruptionBudget", []):
        if not _selects(thing["spec"]["selector"]["matchLabels"], labels):
            yield "the PodDisruptionBudget finds no pod"
    for thing in by_kind.get("NetworkPolicy", []):
        if not _selects(thing["spec"]["podSelector"].get("matchLabels", {}), labels):
            yield "the NetworkPolicy finds no pod"
        for rule in thing["spec"]["ingress"]:
            named = {port["port"] for port in rule.get("ports", [])}
            if not named:
                yield "the NetworkPolicy lets in on every port"
            if ADMIN & named and not rule.get("from"):
                yield "the NetworkPolicy lets everybody to the admin plane"
            yield from (f"the NetworkPolicy names the port {port}" for port in named if isinstance(port, str) and port not in ports)
    for thing in by_kind.get("ServiceMonitor", []):
        wanted = thing["spec"]["selector"]["matchLabels"]
        found = [service for service in by_kind.get("Service", []) if _selects(wanted, service["metadata"]["labels"])]
        named = {port["name"] for service in found for port in service["spec"]["ports"]}
        if len(found) != 1 or any(endpoint["port"] not in named for endpoint in thing["spec"]["endpoints"]):
            yield "the ServiceMonitor finds no Service with its port, or several"
        elif found[0]["metadata"]["labels"].get(thing["spec"].get("jobLabel")) != "lensgate":
            yield "the ServiceMonitor's job is not called lensgate, as the rules want it"
    for thing in by_kind.get("Ingress", []):
        for rule in thing["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                if not any(_is_open(service, backend) for service in by_kind.get("Service", [])):
                    yield "the Ingress leads to no Service of the data plane"


def _is_open(service: dict, backend: dict) -> bool:
    ports = {port["name"] for port in service["spec"]["ports"]}
    return service["metadata"]["name"] == backend["name"] and backend["port"].get("name") in ports and not ADMIN & ports


def _pod(spec: dict, by_kind: dict[str, list[dict]], owner: dict) -> Iterator[str]:
    kserve = owner["kind"] == "ClusterServingRuntime"
    claims = {claim["metadata"]["name"] for claim in owner["spec"].get("volumeClaimTemplates", [])}
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    for volume in volumes.values():
        yield from _volume(volume, by_kind)
    if not kserve:
        if spec.get("terminationGracePeriodSeconds", 30) < DRAIN + 5:
            yield f"a pod has less than {DRAIN + 5} s to end"
        if owner["spec"].get("serviceName") and owner["spec"]["serviceName"] not in _called(by_kind, "Service"):
            yield f"there is no Service {owner['spec']['serviceName']}"
        if spec.get("serviceAccountName") not in _called(by_kind, "ServiceAccount"):
            yield f"there is no ServiceAccount {spec.get('serviceAccountName')}"
        if spec.get("automountServiceAccountToken") is not False or spec.get("enableServiceLinks") is not False:
            yield "a pod gets a token of Kubernetes', or variables of its services"
        if "data" not in claims:
            yield "data/ is on no volume of the pod's own: the spool would be lost"
    for container in spec["containers"]:
        yield from _container(container, spec)
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        yield from (f"the mount {name} has no volume" for name in mounts if name not in claims | volumes.keys())
        yield from (f"the volume {name} is mounted nowhere" for name in claims | volumes.keys() if name not in mounts)
        yield from _variables(container, mounts)


def _called(by_kind: dict[str, list[dict]], kind: str) -> set[str]:
    return {thing["metadata"]["name"] for thing in by_kind.get(kind, [])}


def _volume(volume: dict, by_kind: dict[str, list[dict]]) -> Iterator[str]:
    if "hostPath" in volume:
        yield f"the volume {volume['name']} is the machine's"
    if (config := volume.get("configMap")) and config["name"] not in _called(by_kind, "ConfigMap"):
        yield f"there is no ConfigMap {config['name']}"
    # A claim of the chart's may be the operator's own; in an overlay it must be there.
    claim = volume.get("persistentVolumeClaim")
    if claim and by_kind.get("PersistentVolumeClaim") and claim["claimName"] not in _called(by_kind, "PersistentVolumeClaim"):
        yield f"there is no PersistentVolumeClaim {claim['claimName']}"


def _container(container: dict, spec: dict) -> Iterator[str]:
    own, pod = container.get("securityContext", {}), spec.get("securityContext", {})
    held = pod | own
    wrong = {
        "runs as root": held.get("runAsNonRoot") is not True or not held.get("runAsUser"),
        "has no seccomp profile": held.get("seccompProfile", {}).get("type") != "RuntimeDefault",
        "may write to its root": own.get("readOnlyRootFilesystem") is not True,
        "may gain rights": own.get("allowPrivilegeEscalation") is not False or own.get("privileged", False),
        "keeps capabilities": own.get("capabilities") != {"drop": ["ALL"]},
        "has no pinned image": not re.fullmatch(r"\S+:\d[\w.-]*", container.get("image", "")),
        "has no bounds": not all(container.get("resources", {}).get(kind, {}).get("memory") for kind in ("requests", "limits")),
    }
    yield from (f"the container {container['name']} {what}" for what, so in wrong.items() if so)
    ports = {port.get("name") for port in container["ports"]} | {port["containerPort"] for port in container["ports"]}
    for kind, path in {"startupProbe": "/health/live", "livenessProbe": "/health/live", "readinessProbe": "/health/ready"}.items():
        probe = container.get(kind)
        if probe is None:
            if kind == "startupProbe" and container["name"] == "kserve-container":
                continue
            yield f"there is no {kind}"
            continue
        if probe["httpGet"]["path"] != path or path not in _paths():
            yield f"the {kind} asks {probe['httpGet']['path']}"
        if probe["httpGet"]["port"] not in ports - ADMIN:
            yield f"the {kind} asks at the port {probe['httpGet']['port']}"


@functools.cache
def _paths() -> frozenset[str]:
    return frozenset(json.loads((ROOT / "docs/openapi-data.json").read_text())["paths"])


def _variables(container: dict, mounts: dict[str, str]) -> Iterator[str]:
    names = [variable["name"] for variable in container.get("env", [])]
    yield from (f"{name} is set twice" for name in set(names) if names.count(name) > 1)
    for variable in container.get("env", []):
        if (wrong := settings.wrong_variable(variable["name"])) is not None:
            yield wrong
        value = str(variable.get("value", ""))
        if variable["name"].endswith("_FILE"):
            folder, _, key = value.rpartition("/")
            if folder not in mounts.values() or key not in _secrets():
                yield f"{variable['name']}: no Secret has {value}"
        elif re.search(r"SECRET|TOKEN|PASSWORD|API_KEY|ACCESS_KEY", variable["name"]) and value:
            yield f"{variable['name']} is written out"


@functools.cache
def _secrets() -> frozenset[str]:
    """The keys of the Secret that make-secret.sh makes."""
    text = (ROOT / "deploy/kubernetes/make-secret.sh").read_text()
    return frozenset(re.findall(r"^  ([a-z-]+): \$\(", text, re.MULTILINE))


def _scaling(by_kind: dict[str, list[dict]]) -> Iterator[str]:
    for thing in by_kind.get("HorizontalPodAutoscaler", []):
        spec = thing["spec"]
        target = spec["scaleTargetRef"]
        found = [item for item in by_kind.get(target["kind"], []) if item["metadata"]["name"] == target["name"]]
        if not found:
            yield f"there is no {target['kind']} {target['name']} to scale"
        elif "replicas" in found[0]["spec"]:
            yield "a fixed number of replicas stands against the HorizontalPodAutoscaler's"
        if spec["minReplicas"] > spec["maxReplicas"]:
            yield "the HorizontalPodAutoscaler's bounds are the wrong way round"
        for metric in spec["metrics"]:
            if metric["type"] == "Pods" and metric["pods"]["metric"]["name"] not in _adapted():
                yield f"nothing makes the metric {metric['pods']['metric']['name']}"


@functools.cache
def _adapted() -> frozenset[str]:
    """The names that prometheus-adapter gives."""
    values = yaml.safe_load((ROOT / "deploy/kubernetes/prometheus-adapter-values.yaml").read_text())
    return frozenset(rule["name"]["as"] for rule in values["rules"]["custom"])


def adapter() -> Iterator[str]:
    """What prometheus-adapter is told to ask that the gateway does not have."""
    values = yaml.safe_load((ROOT / "deploy/kubernetes/prometheus-adapter-values.yaml").read_text())
    documented = (ROOT / "docs/metrics.md").read_text()
    for rule in values["rules"]["custom"]:
        for name in set(re.findall(r"\blensgate_\w+", rule["seriesQuery"] + rule["metricsQuery"])):
            if f"`{re.sub(r'_(sum|count|bucket)$', '', name)}`" not in documented:
                yield f"docs/metrics.md has no {name}"
