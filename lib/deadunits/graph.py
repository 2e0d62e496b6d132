"""The structure of a network: its layers with units, and what lies behind each.

The one place that knows which layers act on each channel alone. Chains (`nn.Sequential`, nested or not) are
known by their modules; of any other network `trace` writes down the operations (`torch.fx`), where it can.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

Inputs = Tensor | tuple | dict  #: of a network: `net(x)`, `net(*x)` or `net(**x)`
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
_CHECKS = (torch._assert, fx._symbolic_trace._assert_is_none)  # of arguments, in a traced forward pass
_IN_PLACE = ("iadd", "isub", "imul", "itruediv", "ipow")


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


def plain_behind(net: nn.Module, layer: str) -> list[nn.Module] | None:
    """The same of a linear or convolutional layer of no other kind, whose weight is used once."""
    modules, module = behind(net, layer), net.get_submodule(layer)
    groups = getattr(module, "groups", 1) > 1 or isinstance(getattr(module, "padding", 0), str)
    if modules is None or type(module) not in LINEAR or groups or is_shared(net, layer):
        return None
    return list(modules.values())


def unit_axis(module: nn.Module) -> int:
    """The dimension of the units in what a module gives."""
    return -1 if isinstance(module, (nn.Linear, nn.LayerNorm)) else 1


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
    """Whether a layer is used twice, or another one has its tensors: a change acts in both places."""
    module, every = net.get_submodule(layer), list(net.modules())
    held = [tensor for other in every for tensor in (other._parameters | other._buffers).values()]
    own = [tensor for tensor in (module._parameters | module._buffers).values() if tensor is not None]
    twice = sum(other is module for other in (chain(net) or {}).values()) > 1
    return bool(own) and (twice or sum(one is tensor for one in held for tensor in own) > len(own))


def normed(norm: nn.Module, x: Tensor, index: Tensor | slice = slice(None)) -> Tensor:
    """What batch norm in eval mode makes of some of its channels, (N, channels, ...)."""
    of = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    return F.batch_norm(x, *(None if tensor is None else tensor[index] for tensor in of), eps=norm.eps)


def padded(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Images with the padding of a convolution."""
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return F.pad(x, conv._reversed_padding_repeated_twice, mode=mode)


def _is_chain(net: nn.Module) -> bool:
    return type(net).forward is nn.Sequential.forward


def _entered(net: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, module in net._modules.items():  # not `named_children`: it leaves out what stands there twice
        if _is_chain(module):
            yield from _entered(module, f"{prefix}{name}.")
        else:
            yield prefix + name, module


class Untraceable(ValueError):
    """What a network computes cannot be traced by `torch.fx`, or cannot be run in parts."""


class Trace:
    """A network's forward pass as a list of operations, in their order (`torch.fx`).

    Attributes:
        net: the network itself, not a copy.
        nodes: the operations; each has `all_input_nodes` and `users`.
        output: the last of them.
    """

    def __init__(self, net: nn.Module, nodes: list[fx.Node], constants: dict[str, object]):
        self.net, self.nodes, self.output, self._constants = net, nodes, nodes[-1], constants
        self.calls = [node for node in nodes if node.op == "call_module"]

    def node(self, layer: str) -> fx.Node | None:
        """The operation that runs a layer; None if it does not run, or more than once."""
        module = self.net.get_submodule(layer)
        calls = [node for node in self.calls if self.module(node) is module]
        return calls[0] if len(calls) == 1 else None

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that an operation calls, if it is one."""
        return self.net.get_submodule(node.target) if node.op == "call_module" else None

    def plain(self, node: fx.Node) -> nn.Module | None:
        """The same, if it does what its type says: no hooks of the user, no parametrization, no subclass."""
        module = self.module(node)
        return module if module is not None and is_plain(module) else None

    def run(self, x: Inputs) -> dict[fx.Node, object]:
        """What each operation gives, for some images; nothing of it is changed in place afterwards."""
        values: dict[fx.Node, object] = {}
        inputs = [node.target for node in self.nodes if node.op == "placeholder"]
        given = x if isinstance(x, dict) else dict(zip(inputs, _arguments(x), strict=False))
        for node in self.nodes:
            if node.op == "placeholder":
                default = node.args[0] if node.args else None
                values[node] = given.get(node.target, default)
            else:
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
                if self.in_place(node):
                    args = (args[0].clone(), *args[1:])
                values[node] = self.call(node, args, kwargs)
        return values

    def call(self, node: fx.Node, args: tuple, kwargs: dict) -> object:
        """What an operation gives for these arguments."""
        if node.op == "call_module":
            return self.module(node)(*args, **kwargs)
        if node.op == "call_function":
            return node.target(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], node.target)(*args[1:], **kwargs)
        if node.op == "output":
            return args[0]
        if node.target in self._constants:
            return self._constants[node.target]
        return functools.reduce(getattr, node.target.split("."), self.net)

    def in_place(self, node: fx.Node) -> bool:
        """Whether an operation changes its first argument."""
        if node.op == "call_module":
            return bool(getattr(self.module(node), "inplace", False))
        name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
        if node.op not in ("call_method", "call_function"):
            return False
        functional = getattr(node.target, "__module__", "") == "torch.nn.functional"
        by_name = name in _IN_PLACE or (name.endswith("_") and not name.endswith("__"))
        return by_name or node.kwargs.get("inplace") is True or (functional and True in node.args[1:])


def trace(net: nn.Module, x: Inputs) -> Trace:
    """Write down what a network computes for inputs like these; the network is as before afterwards.

    Raises:
        Untraceable: its forward pass depends on values, or `torch.fx` cannot follow it; hooks on the network
            itself; something is changed in place that is used again.
    """
    if not is_plain(net):
        raise Untraceable("the network itself has hooks or a forward of its instance")
    states = [(module, dict(vars(module))) for module in net.modules()]
    try:
        with torch.random.fork_rng():
            nodes = list(_Tracer().trace(net, _defaults(net, x) or None).nodes)
    except Exception as error:  # whatever the forward pass does with what is no tensor
        raise Untraceable(f"torch.fx cannot trace it: {type(error).__name__}: {error}") from error
    finally:
        constants = {name: value for name, value in vars(net).items() if name not in states[0][1]}
        for module, state in states:
            vars(module).clear()
            vars(module).update(state)
    nodes = [node for node in nodes if not (node.op == "call_function" and node.target in _CHECKS)]
    traced = Trace(net, nodes, constants)
    place = {node: i for i, node in enumerate(nodes)}
    for node in nodes:
        source = node.args[0] if node.args else None
        users = source.users if traced.in_place(node) and isinstance(source, fx.Node) else ()
        if any(place[user] > place[node] for user in users):
            raise Untraceable(f"{source} is changed in place and used again")
    return traced


def is_plain(module: nn.Module) -> bool:
    """Whether a module does what its type says: no hooks of the user, no forward of its own instance."""
    return not _has_hooks(module) and "forward" not in vars(module)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        # called as a whole: one with hooks, so that they see tensors, and what a user makes of a linear map
        whole = isinstance(module, LINEAR) and not module._modules
        return whole or super().is_leaf_module(module, name) or _has_hooks(module)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _arguments(x: Inputs) -> tuple:
    return tuple(x) if isinstance(x, (tuple, list)) else (x,)


def _defaults(net: nn.Module, x: Inputs) -> dict[str, object]:
    """Arguments of `forward` that are not given, with their defaults."""
    signature = inspect.signature(net.forward)
    names = list(signature.parameters)
    given = set(x) if isinstance(x, dict) else set(names[: len(_arguments(x))])
    return {
        name: parameter.default
        for name, parameter in signature.parameters.items()
        if name not in given and parameter.default is not inspect.Parameter.empty
    }
