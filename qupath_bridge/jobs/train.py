"""A training: annotations that a client sent become a head, as those of `train --project` do."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from model import HeadClass, ModelError, read_card
from model.card import CARD_FILE, HeadCard
from model.home import models_home
from qupath_bridge.crops import CropPlan
from qupath_bridge.errors import RegionError
from qupath_bridge.jobs.folder import JobFolder
from qupath_bridge.jobs.order import Order
from qupath_bridge.jobs.telling import Teller
from qupath_bridge.training_labels import LabelSettings, drawn_labels

if TYPE_CHECKING:
    from model.head_base import HeadRequest

STAGES = {"features": "features"}
"""Stages of a training that have a name of their own; all else is "training"."""


def train(order: Order, device: str, folder: JobFolder, teller: Teller) -> dict[str, Any]:
    """Train a head, put it into its model, and return a job's result.

    A job that was stopped goes on where it stood; one whose head is in its model already is done.

    Raises:
        RegionError: there is no annotation to learn from.
        ModelError, SlideError: the head cannot be trained.
        CancelledJob: the job is to stop.
    """
    from model.head_base import base_card
    from model.new_head import train_new_head

    job_id = folder.path.name
    head = _trained_already(order, job_id)
    if head is None:
        teller.stage("reading the image")
        request = _head_request(order, device, job_id)
        card = base_card(request)
        radius = order.request.training.point_radius_um or LabelSettings.point_radius_um
        settings = LabelSettings(point_radius_um=radius, crops=CropPlan(cell_m=card.tile_m))
        samples = zip(order.request.samples, order.paths, strict=True)
        drawn = [(sample.image.at(path), sample.annotations()) for sample, path in samples]
        labels = drawn_labels(drawn, settings, card.mpp, teller.warn)
        if labels is None:
            raise RegionError(
                "there is no annotation to learn from; draw some in QuPath and give each a class"
            )
        teller.stage("loading the model")
        head = train_new_head(request, labels, print, partial(_tell, teller)).card
    folder.begin_result()
    return _result(order, head)


def _head_request(order: Order, device: str, job_id: str) -> HeadRequest:
    from model.head_base import HeadRequest
    from model.lessons import HeadTraining

    chosen = order.request.training
    return HeadRequest(
        model=order.name,
        head=order.heads[0],
        base=None if order.folder is None else str(order.folder),
        training=HeadTraining(steps=chosen.steps or HeadTraining.steps),
        finetune=chosen.finetune,
        device=device,
        asked_by=job_id,
    )


def _trained_already(order: Order, job_id: str) -> HeadCard | None:
    """Return the card of the head that this very job put into its model before it was stopped."""
    folder = models_home() / order.name
    if not (folder / CARD_FILE).is_file():
        return None
    try:
        head = read_card(folder).heads.get(order.heads[0])
    except ModelError:
        return None
    return head if head is not None and head.training.get("asked by") == job_id else None


def _tell(teller: Teller, stage: str, done: int, total: int) -> None:
    teller.stage(STAGES.get(stage, "training"), total, done)


def _result(order: Order, head: HeadCard) -> dict[str, Any]:
    dice = next(iter(head.scores.values()), None)
    known = isinstance(dice, float) and math.isfinite(dice)
    return {
        "model": order.name,
        "head": order.heads[0],
        "classes": [_class(kind) for kind in head.classes],
        "meanDice": dice if known else None,
        "trainImages": len(head.training["train"]),
        "heldOutImages": len(head.training["held out"]),
    }


def _class(kind: HeadClass) -> dict[str, Any]:
    return {"name": kind.name, "color": list(kind.color)}
