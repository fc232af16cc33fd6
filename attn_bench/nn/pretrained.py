"""Models of timm with pretrained weights, and one-line errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn


def create_timm(
    model: str, *, pretrained: bool = False, weights: str | Path | None = None, **options: Any
) -> nn.Module:
    """Return ``timm.create_model(model, **options)``, with pretrained weights if requested.

    If the number of classes differs, the classifier is new; all other parameters have to be in ``weights``. timm does
    not check that, and would take parameters of the same name from a file of another model.

    Args:
        model: a name in timm.
        pretrained: use timm's weights, downloaded from the hub.
        weights: use those of a local ``.safetensors`` or ``.pth`` file instead; nothing is unpickled.
        **options: of the model.

    Raises:
        ValueError: the weights are not available, or not those of this model.
    """
    if weights is None and not pretrained:
        return timm.create_model(model, **options)
    if weights is None:
        try:
            return timm.create_model(model, pretrained=True, **options)
        except (OSError, RuntimeError) as error:
            reason = f"timm's weights of {model} are not available ({_one_line(error)})"
            raise ValueError(f"{reason}; without a network, set weights=FILE") from None
    if not Path(weights).is_file():
        raise ValueError(f"{weights}: no such file")
    # From another random state, as a file of untrained weights may come from the same seed.
    torch.rand(1)
    generator = torch.get_rng_state()
    random = timm.create_model(model, **options)
    torch.set_rng_state(generator)
    try:
        loaded = timm.create_model(model, pretrained=True, pretrained_cfg_overlay={"file": str(weights)}, **options)
    except Exception as error:
        # A broken file can cause anything from struct.error to KeyError.
        raise ValueError(f"{weights} cannot be loaded as weights of {model} ({_one_line(error)})") from None
    if missing := _left_random(random, loaded):
        raise ValueError(f"{weights} lacks {len(missing)} of the weights of {model}, e.g. {missing[0]}")
    return loaded


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def _left_random(random: Any, loaded: Any) -> list[str]:
    """Return the names of the parameters, except the classifier's, that kept their initial random values."""
    classifiers = loaded.get_classifier()
    new = {
        id(parameter)
        for classifier in (classifiers if isinstance(classifiers, tuple) else (classifiers,))
        for parameter in classifier.parameters()
    }
    return [
        name
        for (name, own), drawn in zip(loaded.named_parameters(), random.parameters(), strict=True)
        # Constants, such as a bias of zeros, may be unchanged by training.
        if id(own) not in new and torch.equal(own, drawn) and own.min() < own.max()
    ]
