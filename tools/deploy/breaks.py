"""The check's own check: objects that are right are broken one way each, and each break must be told."""

import copy
from collections.abc import Callable, Iterator

import composed
import schemas
import wiring

Break = Callable[[dict[str, dict]], object]


def _container(things: dict[str, dict]) -> dict:
    return things["StatefulSet"]["spec"]["template"]["spec"]["containers"][0]


def _env(name: str, value: str) -> Break:
    return lambda things: _container(things)["env"].append({"name": name, "value": value})


BREAKS: dict[str, Break] = {
    "a key that is no key": lambda t: t["StatefulSet"]["spec"].update(replica=2),
    "a number where a word belongs": lambda t: _container(t).update(image=1),
    "a port that is none": lambda t: t["Service"]["spec"]["ports"][0].update(port="http"),
    "a kind that is none": lambda t: t["PodDisruptionBudget"].update(apiVersion="policy/v1beta1"),
    "a selector that finds nothing": lambda t: t["Service"]["spec"]["selector"].update({"app.kubernetes.io/name": "lensgat"}),
    "a budget for others": lambda t: t["PodDisruptionBudget"]["spec"]["selector"].update(matchLabels={"a": "b"}),
    "a port by another name": lambda t: t["Service"]["spec"]["ports"][0].update(targetPort="htp"),
    "an open admin plane": lambda t: t["Service lensgate-admin"]["spec"].update(type="LoadBalancer"),
    "an admin plane for everybody": lambda t: t["NetworkPolicy"]["spec"]["ingress"][1].pop("from"),
    "a setting that is none": _env("LENSGATE__SERVER__LISTN", "x"),
    "a section that is none": _env("LENSGATE__SERVR__LISTEN", "x"),
    "a secret that is written out": _env("LENSGATE__BOOTSTRAP__ADMIN_TOKEN", "sixteen characters"),
    "a secret's file that is not there": _env("LENSGATE__TELEMETRY__OTLP_HEADERS_FILE", "/run/secrets/lensgate/headers"),
    "a wrong settings' file": lambda t: t["ConfigMap"]["data"].update({"lensgate.toml": "[server]\nlistn = 1\n"}),
    "a broken settings' file": lambda t: t["ConfigMap"]["data"].update({"lensgate.toml": "[server\n"}),
    "root": lambda t: t["StatefulSet"]["spec"]["template"]["spec"]["securityContext"].update(runAsUser=0),
    "a root that can be written": lambda t: _container(t)["securityContext"].pop("readOnlyRootFilesystem"),
    "capabilities": lambda t: _container(t)["securityContext"].update(capabilities={"add": ["NET_ADMIN"]}),
    "no seccomp": lambda t: t["StatefulSet"]["spec"]["template"]["spec"]["securityContext"].pop("seccompProfile"),
    "an image that moves": lambda t: _container(t).update(image="lensgate:latest"),
    "no limits": lambda t: _container(t)["resources"].pop("limits"),
    "no readiness": lambda t: _container(t).pop("readinessProbe"),
    "a probe for the wrong path": lambda t: _container(t)["livenessProbe"]["httpGet"].update(path="/healthz"),
    "a hurried end": lambda t: t["StatefulSet"]["spec"]["template"]["spec"].update(terminationGracePeriodSeconds=30),
    "a spool that is lost": lambda t: t["StatefulSet"]["spec"].pop("volumeClaimTemplates"),
    "a volume that is nowhere": lambda t: t["StatefulSet"]["spec"]["template"]["spec"]["volumes"].pop(0),
    "nobody to scale": lambda t: t["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"].update(kind="Deployment"),
    "a fixed number beside": lambda t: t["StatefulSet"]["spec"].update(replicas=2),
    "a metric of nobody's": lambda t: t["HorizontalPodAutoscaler"]["spec"]["metrics"][1]["pods"]["metric"].update(name="queue"),
    "a monitor without a port": lambda t: t["ServiceMonitor"]["spec"]["endpoints"][0].update(port="metrics"),
    "a key the operator has not": lambda t: t["ServiceMonitor"]["spec"]["endpoints"][0].update(intervall="15s"),
    "a rule without a query": lambda t: t["PrometheusRule"]["spec"]["groups"][0]["rules"][0].pop("expr"),
}

SERVED: dict[str, Break] = {
    "a key that KServe has not": lambda t: t["ClusterServingRuntime"]["spec"].update(supportedFormats=[]),
    "a word where a number belongs": lambda t: t["ClusterServingRuntime"]["spec"].update(multiModel="no"),
    "a key that a container has not": lambda t: t["ClusterServingRuntime"]["spec"]["containers"][0].update(imag="x"),
}

COMPOSED: dict[str, Callable[[dict], object]] = {
    "a key that Compose has not": lambda c: c["services"]["lensgate"].update(imag="x"),
    "an image that moves": lambda c: c["services"]["postgres"].update(image="postgres:latest"),
    "a password that is written out": lambda c: c["services"]["postgres"]["environment"].update(POSTGRES_PASSWORD="postgres"),
    "a secret of nobody's": lambda c: c["secrets"].update(other={"file": "./secrets/other"}),
    "a database for everybody": lambda c: c["services"]["postgres"].update(ports=["5432:5432"]),
    "a file that is not there": lambda c: c["services"]["prometheus"]["volumes"].append("./prom.yml:/etc/prom.yml:ro"),
    "a setting that is none": lambda c: c["services"]["lensgate"]["environment"].update(LENSGATE__STORE__URI="x"),
}


def untold(objects: list[dict], served: list[dict], content: dict) -> Iterator[str]:
    """Breaks that nobody has noticed."""
    for group, breaks in ((objects, BREAKS), (served, SERVED)):
        for name, broken in breaks.items():
            things = copy.deepcopy(group)
            first: dict[str, dict] = {}
            for thing in things:
                first.setdefault(thing["kind"], thing)
                first[f"{thing['kind']} {thing['metadata']['name']}"] = thing
            before = copy.deepcopy(things)
            broken(first)
            # Only what was touched can be wrong by its schema: the others have been looked at.
            touched = [thing for thing, old in zip(things, before, strict=True) if thing != old]
            if not touched:
                yield f"the break '{name}' breaks nothing"
            elif not any(True for thing in touched for _ in schemas.mistakes(thing)) and not _miswired(things):
                yield f"the check does not notice {name}"
    for name, broken_file in COMPOSED.items():
        copied = copy.deepcopy(content)
        broken_file(copied)
        if not any(True for _ in composed.mistakes(copied)):
            yield f"the check does not notice {name} in compose.yaml"


def _miswired(things: list[dict]) -> bool:
    return any(True for _ in wiring.mistakes(things))


COUNT = len(BREAKS) + len(SERVED) + len(COMPOSED)
