"""Where the published weights are, as far as it is known; see each entry for what is not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from model.errors import ModelError
from model.fetch import Remote
from model.home import home

_ZOOM = "https://huggingface.co/StonyBrook-CVLab/ZoomLDM/resolve/main/brca"
_HIPT = "https://github.com/mahmoodlab/HIPT/raw/master/HIPT_4K/Checkpoints"
_DRIVE = "https://drive.google.com/drive/folders"


@dataclass(frozen=True)
class Published:
    """Weights that somebody published.

    files: what can be fetched, in order; none where no hub serves them. page: where a person
    finds them. note: what is known and what is not.
    """

    title: str
    licence: str
    page: str
    note: str
    files: tuple[Remote, ...] = ()


PUBLISHED = {
    "hipt-vit256": Published(
        title="HIPT's ViT-256, the encoder of the BRCA model (--encoder)",
        licence="Apache 2.0 with Commons Clause; its authors: for non-commercial academic"
        " purposes. Fetched from them, never passed on by this program",
        page="https://github.com/mahmoodlab/HIPT",
        note="size and sha256 are those of the repository's Git LFS pointer; whether GitHub"
        " serves it at the moment was not tried",
        files=(
            Remote(
                f"{_HIPT}/vit256_small_dino.pth",
                "6960cd5a8657dc8bb214671aa0c6dbd3f5b698e84386884955836487ddc89e24",
                704238867,
            ),
        ),
    ),
    "zoomldm-brca": Published(
        title="ZoomLDM, TCGA-BRCA (--ldm weights.ckpt --config config.yaml)",
        licence="MIT by the LICENSE of its repository; read the hub's page for the weights",
        page="https://huggingface.co/StonyBrook-CVLab/ZoomLDM",
        note="repository and file names are those its authors' notebooks load; the checksum is"
        " the one the hub states, and was not known beforehand",
        files=(Remote(f"{_ZOOM}/weights.ckpt"), Remote(f"{_ZOOM}/config.yaml")),
    ),
    "brca-20x": Published(
        title="Large-Image-Diffusion, TCGA-BRCA 20x, conditioned on HIPT (--ldm)",
        licence="none stated in its repository; ask the authors",
        page=f"{_DRIVE}/1kZ69wVEHV3k3Zr1hgS3kftz9cfNb9BxA",
        note="on Google Drive only, which serves people and not programs; checksum not known",
    ),
    "crc-20x": Published(
        title="Large-Image-Diffusion, TCGA-CRC 20x, conditioned on iBOT ViT-B (--ldm)",
        licence="none stated in its repository; ask the authors",
        page=f"{_DRIVE}/1r1Kgcgy34rP3O-X4AqhQ09Sf1OZdHvm2",
        note="on Google Drive only, which serves people and not programs; checksum not known. Its"
        " condition needs owkin's iBOT encoder of 768 numbers; with HIPT's it is used without",
    ),
}


def files_of(name: str, urls: tuple[str, ...]) -> tuple[Remote, ...]:
    """Return the files to fetch under a name: the given addresses, else the published ones.

    Raises:
        ModelError: the name is not known, or no hub serves those weights.
    """
    if urls:
        return tuple(Remote.parse(url) for url in urls)
    if name not in PUBLISHED:
        raise ModelError(
            f"nothing is known of {name!r}; known are {', '.join(PUBLISHED)}, or pass --url"
        )
    published = PUBLISHED[name]
    if not published.files:
        raise ModelError(
            f"no hub serves {name}; get it by hand from {published.page}, then"
            " qupath-pathsegdiff models import"
        )
    return published.files


def downloads_home() -> Path:
    """Return the folder where fetched files lie, a folder per name, beside the models."""
    return home() / "downloads"
