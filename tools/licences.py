"""Prints what is installed with its licence, for docs/dependencies.md: python tools/licences.py"""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path


def licence(package: metadata.Distribution) -> str:
    """As the package says it: the expression, the classifier, or the first words of the field."""
    about = package.metadata
    if said := about.get("License-Expression"):
        return str(said)
    found = [c.rsplit(" :: ", 1)[1] for c in about.get_all("Classifier") or [] if c.startswith("License :: OSI")]
    return ", ".join(found) or (about.get("License") or "not said").strip().splitlines()[0][:60]


def needed(name: str, seen: set[str]) -> set[str]:
    """A package's requirements without its extras, and theirs."""
    name = re.split(r"[ ;\[<>=!~(]", name)[0].lower().replace("_", "-")
    if name in seen:
        return seen
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return seen
    seen.add(name)
    for requirement in package.requires or []:
        if "extra ==" not in requirement:
            needed(requirement, seen)
    return seen


def main() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = {"core": project["dependencies"], **project["optional-dependencies"]}
    done: set[str] = set()
    for extra, requirements in extras.items():
        if extra in ("dev", "release", "all"):
            continue
        found: set[str] = set()
        for requirement in requirements:
            if not requirement.startswith("mlvae"):
                needed(requirement, found)
        for name in sorted(found - done):
            package = metadata.distribution(name)
            print(f"| {name} | {package.version} | {licence(package)} | {extra} |")
        done |= found


if __name__ == "__main__":
    main()
