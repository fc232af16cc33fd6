"""Models of timm with pretrained weights, or an error of one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn


def create_timm(
    model: str, *, pretrained: bool = False, weights: str | Path | None = None, **options: Any
) -> nn.Module:
    """Return ``timm.create_model(model, **options)``, with pretrained weights if they are asked for.

    Where the number of classes is another one the classifier is new; everything else has to be in ``weights``, which
    timm itself does not ask for then: from a file of another model it would take what has the same name, if anything.

    Args:
        model: a name of timm's.
        pretrained: take timm's weights, downloaded from the hub.
        weights: take those of a local ``.safetensors`` or ``.pth`` file instead; nothing is unpickled.
        **options: of the model.

    Raises:
        ValueError: the weights cannot be had, or are not those of this model.
    """
    if weights is None and not pretrained:
        return timm.create_model(model, **options)
    if weights is None:
        try:
            return timm.create_model(model, pretrained=True, **options)
        except (OSError, RuntimeError) as error:
            reason = f"timm's weights of {model} cannot be had ({_one_line(error)})"
            raise ValueError(f"{reason}; without a network, set weights=FILE") from None
    if not Path(weights).is_file():
        raise ValueError(f"{weights}: no such file")
    # Elsewhere than after seeding, where a file of untrained weights may have begun.
    torch.rand(1)
    generator = torch.get_rng_state()
    random = timm.create_model(model, **options)
    torch.set_rng_state(generator)
    try:
        loaded = timm.create_model(model, pretrained=True, pretrained_cfg_overlay={"file": str(weights)}, **options)
    except Exception as error:
        # Anything from struct.error to KeyError, where a file is broken.
        raise ValueError(f"{weights} cannot be loaded as weights of {model} ({_one_line(error)})") from None
    if missing := _left_random(random, loaded):
        raise ValueError(f"{weights} lacks {len(missing)} of the weights of {model}, e.g. {missing[0]}")
    return loaded


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def _left_random(random: Any, loaded: Any) -> list[str]:
    """Return the names of the parameters that are in both as they were drawn, but for the classifier's."""
    classifiers = loaded.get_classifier()
    new = {
        id(parameter)
        for classifier in (classifiers if isinstance(classifiers, tuple) else (classifiers,))
        for parameter in classifier.parameters()
    }
    return [
        name
        for (name, own), drawn in zip(loaded.named_parameters(), random.parameters(), strict=True)
        # Constants, such as the zeros of a bias, may be the same after training.
        if id(own) not in new and torch.equal(own, drawn) and own.min() < own.max()
    ]
