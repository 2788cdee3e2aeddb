"""What hadolint does not say of the Dockerfiles: that the image which comes out has no shell, no root, and a health check."""

import re
from collections.abc import Iterator

from settings import ROOT, wrong_variable


def mistakes() -> Iterator[str]:
    """What is wrong with any of them."""
    for name in ("Dockerfile", "Dockerfile.cuda"):
        text = (ROOT / "deploy" / name).read_text()
        yield from (f"deploy/{name}: {wrong}" for wrong in _file(text))
        ignore = (ROOT / ".dockerignore").read_text().splitlines()
        for sources in re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", text, re.MULTILINE):
            for source in sources.split():
                if not any(f"!{source}".startswith(line) for line in ignore if line.startswith("!")):
                    yield f"deploy/{name}: .dockerignore leaves out {source}"


def _file(text: str) -> Iterator[str]:
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    last = re.split(r"^FROM ", text, flags=re.MULTILINE)[-1]
    for argument in re.findall(r"^ARG (\w+_IMAGE)=(\S+)", text, re.MULTILINE):
        if not re.search(r":\d[\w.-]*$", argument[1]):
            yield f"{argument[0]} is not pinned"
    if re.search(r"^RUN |^SHELL ", last, re.MULTILINE):
        yield "the image that comes out needs a shell"
    if not re.search(r"^USER (?!0)\d+:(?!0)\d+$", last, re.MULTILINE):
        yield "it does not run as a user by number"
    for instruction in ("ENTRYPOINT", "CMD", r"HEALTHCHECK .*CMD"):
        if not re.search(rf"^{instruction} \[", last, re.MULTILINE):
            yield f"{instruction} is not there, or needs a shell"
    for name in re.findall(r"(?:^ENV| ) *([A-Z][A-Z0-9_]+)=", "".join(re.findall(r"^ENV .*$", last, re.MULTILINE))):
        if (wrong := wrong_variable(name)) is not None:
            yield wrong
