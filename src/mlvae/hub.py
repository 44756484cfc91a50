"""Models that others use: a folder with weights, a description to read, and a model card.

model.safetensors   weights, and the description that the model is made from
config.json         the same description, with schema version, fingerprint and preprocessing, for people and tools
README.md           the model card
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlvae import atomic, checkpoint
from mlvae.errors import CheckpointError, MissingExtraError
from mlvae.model import MLVAE
from mlvae.untrusted import plain_json, reading

CONFIG_FILE = "config.json"
CARD_FILE = "README.md"

NOT_SAID = "Not said."


@dataclass(frozen=True)
class Card:
    """What only people know of a model; what is left empty says so on the card.

    Args:
        name: its title.
        data: what it was trained on: origin, size, licence, how people agreed.
        groups: what a group was, how many there were, what kept them apart.
        metrics: by name, numbers of `mlvae.evaluate` and how they were measured.
        intended_use: what it is for.
        limits: what it is not for, and where it was not tested.
        people: observations are of people, such as faces or voices: the card gets a privacy note.
        license: of the weights, as the Hub spells it, such as "apache-2.0".
    """

    name: str = "Multi-Level VAE"
    data: str = ""
    groups: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    intended_use: str = ""
    limits: str = ""
    people: bool = False
    license: str = ""


def save_pretrained(model: MLVAE, folder: str | Path, card: Card | None = None) -> Path:
    """Writes weights, description and model card into a folder.

    Args:
        model: on any device.
        folder: made where it is not there; what it holds of these files is replaced.
        card: what its readers should know; None leaves most of it unsaid.

    Returns:
        The folder.

    Example:
        >>> import tempfile
        >>> from mlvae import Level
        >>> model = MLVAE((4,), [Level("content", 2, by="person"), Level("style", 2)], likelihood="normal")
        >>> folder = save_pretrained(model, tempfile.mkdtemp(), Card("Faces", people=True))
        >>> sorted(file.name for file in folder.iterdir())
        ['README.md', 'config.json', 'model.safetensors']
    """
    from mlvae import __version__

    folder = Path(folder)
    about = {
        "library": "mlvae",
        "version": __version__,
        "schema": checkpoint.SCHEMA,
        "fingerprint": checkpoint.fingerprint(model),
        "model": checkpoint.describe(model),
    }
    checkpoint.save(model, folder)
    atomic.write(folder / CONFIG_FILE, json.dumps(about, indent=2).encode())
    atomic.write(folder / CARD_FILE, card_text(model, card or Card()).encode())
    return folder


def from_pretrained(name: str | Path, *, revision: str | None = None, **modules: Any) -> MLVAE:
    """The model of a folder, or of a repository on the Hugging Face Hub.

    Args:
        name: a folder that `save_pretrained` wrote; where there is none, a repository as "owner/name".
        revision: of the repository: a branch, a tag or a commit.
        modules: parts of the user's own, as for `mlvae.load`.

    Raises:
        CheckpointError: nothing is there, or weights and description are not of one model.
        MissingExtraError: a repository is named, and huggingface_hub is not installed.
    """
    folder = Path(name)
    if not folder.is_dir():
        owner, slash, rest = str(name).partition("/")
        if not (slash and owner and rest and "/" not in rest) or owner in (".", ".."):
            raise CheckpointError(
                f"Expected a folder that save_pretrained wrote, or a repository as 'owner/name'; got {str(name)!r}."
            )
        files = [checkpoint.MODEL_FILE, CONFIG_FILE]
        folder = Path(_hub().snapshot_download(str(name), revision=revision, allow_patterns=files))
    elif revision is not None:
        raise CheckpointError(f"Expected `revision` with a repository only; {name} is a folder. Leave it out.")
    model = checkpoint.load(folder, **modules)
    advice = "It is missing or damaged. Fetch the folder again, or read the weights alone with mlvae.load."
    with reading("description", folder / CONFIG_FILE, CheckpointError, advice):
        said = plain_json((folder / CONFIG_FILE).read_bytes())["fingerprint"]
    if said != checkpoint.fingerprint(model):
        raise CheckpointError(
            f"Expected the weights in {folder} to be those that {CONFIG_FILE} describes ({said}); got"
            f" {checkpoint.fingerprint(model)}. One of the two was replaced or changed: fetch both again."
        )
    return model


def push_to_hub(model: MLVAE, name: str, card: Card | None = None, *, private: bool = True) -> str:
    """Writes the folder and uploads it to the Hugging Face Hub, as the user who is logged in there.

    Args:
        model: on any device.
        name: the repository, "owner/name"; made where it is not there.
        card: what its readers should know.
        private: a repository that is made is seen by its owner only.

    Returns:
        The address of the commit.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
    """
    import tempfile

    hub = _hub()
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder, card)
        hub.create_repo(name, private=private, exist_ok=True)
        return str(hub.upload_folder(repo_id=name, folder_path=folder, commit_message="Model by mlvae").commit_url)


def card_text(model: MLVAE, card: Card) -> str:
    """The model card in Markdown, with the Hub's front matter."""
    import yaml

    matter = {"library_name": "mlvae", "tags": ["mlvae", "variational-autoencoder", "disentanglement"]}
    matter |= {"license": card.license} if card.license else {}
    levels = [f"| {level.name} | {level.dim} | {_by(level.by)} | {level.readout} |" for level in model.levels]
    metrics = [f"| {name} | {value:.4g} |" for name, value in card.metrics.items()]
    shape = " x ".join(map(str, model.shape))
    parts = [
        f"---\n{yaml.safe_dump(matter, sort_keys=False)}---",
        f"# {card.name}",
        f"A Multi-Level VAE for observations of {shape}, with the likelihood {type(model.likelihood).__name__} and"
        f" {sum(p.numel() for p in model.parameters()):,} parameters.",
        "\n".join(["| level | dimensions | shared by | readout |", "|---|---|---|---|", *levels]),
        '```python\nfrom mlvae.hub import from_pretrained\n\nmodel = from_pretrained("folder or owner/name")\n```',
        f"## Data\n\n{card.data or NOT_SAID}",
        f"## Groups\n\n{card.groups or NOT_SAID}",
        f"## Preprocessing\n\n{_preprocessing(model)}",
        "## Metrics\n\n" + ("\n".join(["| metric | value |", "|---|---|", *metrics]) if metrics else NOT_SAID),
        f"## Intended use\n\n{card.intended_use or NOT_SAID}",
        "## Limits\n\n" + (f"{card.limits}\n\n" if card.limits else "") + LIMITS,
        *([PRIVACY] if card.people else []),
        f"Fingerprint: `{checkpoint.fingerprint(model)}`. Evidence made by another model does not add to this one's.",
    ]
    return "\n\n".join(parts) + "\n"


LIMITS = """Votes are taken as independent: near-duplicates make content too sure of itself. Content is all that a
group's members have in common, whether meant or not. Posterior means of style still hold traces of the group: this
hides nobody."""

PRIVACY = """## People

Content is a code of who someone is: a biometric template where observations are faces or voices. It identifies people
who were in no training data, from one observation. Make codes and galleries only of people who agreed to it for this
purpose, keep them as you would keep fingerprints, and delete them when asked. Taking a person's evidence out of a
gallery takes nothing out of the weights: the network does not forget whom it was trained on. Error rates differ
between groups of people; measure them on the people that it will meet."""


def _by(by: str | tuple[str, ...] | None) -> str:
    return "each observation its own" if by is None else by if isinstance(by, str) else ", ".join(by)


def _preprocessing(model: MLVAE) -> str:
    schema = model.schema
    bytes_are = "taken as it is" if model.likelihood.whole else "divided by 255"
    lines = [f"- {f.name}: {f.kind}" + (f" ({', '.join(f.categories[:8])})" if f.categories else "")
             for f in schema.features]  # fmt: skip
    lines += [f"- {feature.name}, a covariate: {feature.kind}" for feature in schema.covariates]
    if schema.image_size:
        lines.append(f"- pictures of {schema.image_size[0]} x {schema.image_size[1]}, {schema.image_mode}")
    return "\n".join(lines or [f"uint8 is {bytes_are}; every other type is taken as it is."])


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingExtraError(
            "Expected huggingface_hub for a repository on the Hub; it is not installed. pip install 'mlvae[hub]', or"
            " name a folder."
        ) from error
    return huggingface_hub
