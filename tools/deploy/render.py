"""The objects that kustomize's overlays and Helm's chart become, by kubectl and helm themselves."""

import dataclasses
import pathlib
import subprocess

import yaml

from settings import ROOT

DEPLOY = ROOT / "deploy"
OVERLAYS = DEPLOY / "kubernetes/overlays"
CHART = DEPLOY / "helm/lensgate"
PROGRAMS = ROOT / ".tools/deploy-programs"

# Values that between them reach each branch of each template.
CHART_CASES = {
    "defaults": {},
    "everything": {
        "autoscaling.enabled": "true",
        "ingress.enabled": "true",
        "ingress.host": "lensgate.example.com",
        "ingress.className": "nginx",
        "ingress.tlsSecret": "lensgate-tls",
        "serviceMonitor.enabled": "true",
        "serviceMonitor.labels.release": "prometheus",
        "prometheusRule.enabled": "true",
        "data.storageClass": "fast",
        "models.volume.storageClass": "shared",
        "service.annotations.a": "b",
        "serviceAccount.annotations.a": "b",
        "podAnnotations.a": "b",
        "nodeSelector.a": "b",
        "env.LENSGATE__SERVER__REQUIRED_MODELS": "digits",
        "imagePullSecrets[0].name": "registry",
        "tolerations[0].operator": "Exists",
        "networkPolicy.extraEgress[0].ports[0].port": "9000",
    },
    "gpu": {
        "gpu.enabled": "true",
        "models.source": "bucket",
        "models.url": "s3://bucket/models",
        "envFrom[0].secretRef.name": "lensgate-bucket",
        "autoscaling.enabled": "true",
        "autoscaling.queueWait": "",
    },
    "small": {
        "replicas": "1",
        "models.volume.existingClaim": "models",
        "podDisruptionBudget.enabled": "false",
        "networkPolicy.enabled": "false",
    },
}
# What the chart must refuse, and the word that must stand in what it says.
CHART_REFUSALS = {
    "secret.name": {"secret.name": ""},
    "additional properties": {"imag.tag": "1"},
    "models": {"models.source": "bucket"},
    "image": {"image.tag": "latest"},
    "ingress.host": {"ingress.enabled": "true"},
}


@dataclasses.dataclass
class Rendered:
    """What one overlay, chart or file comes to."""

    name: str
    objects: list[dict]


class Failure(Exception):
    """What a program said when it refused."""


def _run(*command: str | pathlib.Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise Failure(f"{done.stdout if 'lint' in command else ''}{done.stderr}".strip())
    return done.stdout


def _objects(text: str) -> list[dict]:
    return [item for item in yaml.safe_load_all(text) if item]


def there() -> bool:
    """Whether kubectl and helm are there."""
    return (PROGRAMS / "helm").exists()


def overlays() -> list[Rendered]:
    """Each overlay, by kustomize."""
    return [
        Rendered(f"overlays/{folder.name}", _objects(_run(PROGRAMS / "kubectl", "kustomize", folder)))
        for folder in sorted(OVERLAYS.iterdir())
    ]


def _chart(values: dict[str, str]) -> str:
    values = {"secret.name": "lensgate"} | values
    # As words, where a number or a boolean is not meant.
    pairs = [part for key, value in values.items() for part in (_flag(key), f"{key}={value}")]
    return _run(PROGRAMS / "helm", "template", "lensgate", CHART, "--namespace", "lensgate", "--kube-version", "1.31", *pairs)


def _flag(key: str) -> str:
    plain = ("enabled", "replicas", "port")
    return "--set" if key.endswith(plain) else "--set-string"


def charts() -> list[Rendered]:
    """The chart with each set of values."""
    _run(PROGRAMS / "helm", "lint", "--strict", CHART, "--set", "secret.name=lensgate")
    return [Rendered(f"chart ({case})", _objects(_chart(values))) for case, values in CHART_CASES.items()]


def refusals() -> list[str]:
    """What the chart should have refused, and has not, or not in these words."""
    found = []
    for word, values in CHART_REFUSALS.items():
        try:
            _chart(values)
            found.append(f"the chart takes {values}")
        except Failure as failure:
            if word not in str(failure):
                found.append(f"the chart refuses {values} without naming {word}: {failure}")
    return found


def files() -> list[Rendered]:
    """What is written out as it is."""
    return [
        Rendered(f"kserve/{path.name}", _objects(path.read_text())) for path in sorted((DEPLOY / "kubernetes/kserve").glob("*.yaml"))
    ]
