"""The structure of a network: its layers with units, and what lies behind each.

The one place that knows which layers act on each channel alone. Structure is known of chains:
`nn.Sequential`, nested or not. Of any other network only the layers with units are known, not what they feed.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

Linear = nn.Conv2d | nn.Linear  #: a linear map: each row of its weight is a unit

LINEAR = (nn.Conv2d, nn.Linear)
BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d)
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)
NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Flatten)  # to a constant, in eval mode
ELEMENTWISE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish),
    *(nn.Tanhshrink, nn.Softshrink, nn.Hardshrink, nn.Threshold),
)


def linear_layers(net: nn.Module) -> dict[str, Linear]:
    """All `nn.Conv2d` and `nn.Linear` by name, in the order in which they were registered."""
    return {name: module for name, module in net.named_modules() if isinstance(module, LINEAR)}


def linear_layer(net: nn.Module, layer: str) -> Linear:
    """One of them by its name.

    Raises:
        ValueError: there is none of that name; lists those there are.
    """
    known = linear_layers(net)
    if layer not in known:
        raise ValueError(f"no linear or convolutional layer {layer!r}; there are: {', '.join(known)}")
    return known[layer]


def chain(net: nn.Module) -> dict[str, nn.Module] | None:
    """Names and modules of a chain in the order of its forward pass, nested ones entered; None: no chain."""
    return dict(_entered(net, "")) if _is_chain(net) else None


def behind(net: nn.Module, layer: str) -> dict[str, nn.Module] | None:
    """What is behind a layer of a chain, in order; None if the network is no chain or the layer not in it."""
    modules = chain(net)
    if modules is None or layer not in modules:
        return None
    names = list(modules)
    return {name: modules[name] for name in names[names.index(layer) + 1 :]}


def next_linear(net: nn.Module, layer: str) -> str | None:
    """Name of the linear map that takes a layer's units, if there is one.

    Outside of chains that is the next one registered, if its inputs can be those units.
    """
    known, chained = linear_layers(net), behind(net, layer)
    names = list(known)[list(known).index(layer) + 1 :] if chained is None else list(chained)
    following = next((name for name in names if isinstance(net.get_submodule(name), LINEAR)), None)
    if following is None or net.get_submodule(following).weight.shape[1] % len(known[layer].weight):
        return None
    return following


def activation_of(net: nn.Module, layer: str) -> str | None:
    """Name of the module that gives a layer's activations: the first nonlinearity behind it, if known."""
    if layer not in linear_layers(net):
        return layer
    for name, module in (behind(net, layer) or {}).items():
        if isinstance(module, LINEAR):
            break
        if type(module) in ELEMENTWISE:
            return name
    return None


def is_shared(net: nn.Module, layer: str) -> bool:
    """Whether a layer is used twice, or another one has its weight: a change acts in both places."""
    module = net.get_submodule(layer)
    owners = sum(weight is module.weight for other in net.modules() for weight in other._parameters.values())
    return owners > 1 or sum(other is module for other in (chain(net) or {}).values()) > 1


def _is_chain(net: nn.Module) -> bool:
    return type(net).forward is nn.Sequential.forward


def _entered(net: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, module in net._modules.items():  # not `named_children`: it leaves out what stands there twice
        if _is_chain(module):
            yield from _entered(module, f"{prefix}{name}.")
        else:
            yield prefix + name, module
