"""The network that a setting names: the thesis's, or one of the reader's own."""

from __future__ import annotations

import importlib
import inspect

import torch
from torch import nn

from deadunits import Invalid, models
from deadunits.models import Shape


def build(
    network: str, shape: Shape, classes: int, activation: str = "relu", seed: int = 0, **options: object
) -> nn.Module:
    """A network by its name: `small_cnn`, or a function of the reader's own, `package.module:function`.

    The function is called as `function(shape, classes)` and, if it takes them, with `activation=` and
    `batch_norm=`. PyTorch's global random state is seeded for it, and is as before afterwards. `options`:
    `batch_norm`, and for `small_cnn` `widths`.

    Raises:
        Invalid: no such module or function; an activation or batch norm for a function that takes none; no
            module returned.
    """
    if network == "small_cnn":
        return models.small_cnn(shape, classes, activation=activation, seed=seed, **options)
    path, _, name = network.partition(":")
    try:
        function = getattr(importlib.import_module(path), name)
    except (ImportError, AttributeError) as error:
        raise Invalid(f"network = {network!r}: {error}") from error
    taken = inspect.signature(function).parameters
    if "activation" not in taken and activation != "own":
        raise Invalid(f"{network} takes no activation: set activations to ['own']")
    batch_norm = options.get("batch_norm", False)
    if "batch_norm" not in taken and batch_norm:
        raise Invalid(f"{network} takes no batch_norm: set it to False")
    chosen = {"activation": activation, "batch_norm": batch_norm}
    chosen = {name: value for name, value in chosen.items() if name in taken}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = function(shape, classes, **chosen)
    if not isinstance(net, nn.Module):
        raise Invalid(f"{network} must return an nn.Module, got {type(net).__name__}")
    return net
