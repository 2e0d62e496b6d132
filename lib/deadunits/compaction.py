"""A smaller network: units removed, their constants propagated into the next biases.

A unit that always gives the same is not needed for it: with W the weights from the unit to the next linear
map, g its nonlinearity and h the constant pre-activation, the next bias takes W g(h) (thesis: Eq. 1.6),
summed over the kernel window or over the flattened positions. `propagate` moves the constants, `compact`
takes out the units as well, `idle` finds units that removal of weights has left without any.

With zero padding before the next convolution a constant channel is no constant bias: windows at the border
see zeros in its place. There the outputs differ by W g(h) summed over the padded part of the window, so not
where the constant is 0; everywhere else they are equal. Other padding modes are exact.

Networks are chains: `nn.Sequential`, nested or not, of layers whose structure is known here.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deadunits import graph
from deadunits.channels import LINEAR, out_dim

Constants = Mapping[str, Tensor] | None  #: name of a layer -> what stands for each of its units


class _Link(NamedTuple):
    """A linear map, the layers of each channel alone behind it, and the next linear map."""

    name: str
    layer: graph.Linear
    between: list[tuple[str, nn.Module]]
    next_name: str
    next: graph.Linear

    @property
    def units(self) -> int:
        return len(self.layer.weight)

    def along(self, mask: Tensor, width: int) -> Tensor:
        """A mask of the units for a tensor with 1 or H W positions of each: (units,) -> (width,)."""
        return mask.to(self.layer.weight.device).repeat_interleave(width // self.units)

    def outgoing(self) -> Tensor:
        """Weights of the next linear map: (outputs, units, positions or kernel window)."""
        return self.next.weight.reshape(len(self.next.weight), self.units, -1)


@torch.no_grad()
def compact(
    net: nn.Sequential, keep: Mapping[str, Tensor], *, h: Constants = None, a: Constants = None
) -> nn.Sequential:
    """The network without the units that `keep` prunes, their constants in the next biases (Eq. 1.6).

    A new network, with the same names of layers and without hooks; `net` is left as it is. Layers are taken
    from the input on, as if compacted one after the other. A next layer without bias gets one if a constant
    is not 0. Dropout passes a constant on as it is. For zero padding see the top of this module.

    Args:
        net: a chain of layers, in eval mode if a constant goes through batch norm.
        keep: name of a layer -> (units,) bool, True keeps, as in `torch.nn.utils.prune`. Layers that are not
            named keep all.
        h: name of a layer -> (units,), the pre-activation that stands for each unit; that of units which stay
            is not looked at. The layers between carry it on to the next linear map. Default: the unit's own
            bias, with what it took from units removed before: what it gives when no weight leads to it.
        a: name of a layer -> (units,) or, behind a Flatten, (units, positions): what enters the next linear
            map in the unit's place, instead of `h`.

    Raises:
        ValueError: a layer that is not there or whose structure is not known, a mask of another length or
            dtype, a layer without units, the outputs, both `h` and `a` for a layer, weights used twice, batch
            norm in training mode.
    """
    small = propagate(net, keep, h=h, a=a)
    cut(small, {place: mask.nonzero().flatten() for place, mask in _places(small, keep).items()})
    return small


@torch.no_grad()
def propagate(
    net: nn.Sequential, keep: Mapping[str, Tensor], *, h: Constants = None, a: Constants = None
) -> nn.Sequential:
    """The network as large as it was, with nothing going out from the units that `keep` prunes.

    Their outgoing weights are zero and the next biases have taken the constants. Its outputs are those of
    `compact`, whose arguments and errors it has.
    """
    links = _links(net)
    _check(links, keep, h or {}, a or {})
    twin = copy_without_hooks(net)
    for link in _links(twin):
        if link.name not in keep or keep[link.name].all():
            continue
        weight = link.next.weight
        gone = ~keep[link.name].to(weight.device)
        constant = _constant(link, gone, h or {}, a or {})  # (units removed, 1 or positions)
        delta = (link.outgoing()[:, gone] * constant).sum((1, 2))  # (outputs,)
        weight[:, link.along(gone, weight.shape[1])] = 0
        set_bias(link.next, delta if link.next.bias is None else link.next.bias + delta)
    return twin


@torch.no_grad()
def remove(
    net: nn.Sequential, keep: Mapping[str, Tensor], *, h: Constants = None, a: Constants = None
) -> dict[str, Tensor]:
    """Take units out of a network that is still to be trained: `propagate` in place, and masks to hold.

    The constants go into the next biases; what leads to the units and away from them becomes zero. The masks
    keep it so under any optimizer: `pruning.hold(net, masks, optimizer)`. Later, `compact(net, keep)` takes
    the units out and gives the same outputs: what is left of them is zero.

    Returns: name of a parameter -> bool tensor of its shape, True keeps, for `pruning.hold`.

    Raises:
        ValueError: as for `compact`; a constant for a next layer that has no bias: an optimizer would not
            know of a new one.
    """
    twin = propagate(net, keep, h=h, a=a)
    new = dict(twin.named_parameters())
    known = dict(net.named_parameters())
    if new.keys() != known.keys():
        raise ValueError(f"{', '.join(new.keys() - known.keys())} would be new: give that layer a bias first")
    for name, parameter in known.items():
        parameter.copy_(new[name])
    masks: dict[str, Tensor] = {}
    for (name, dim), mask in _places(net, keep, norms=False).items():
        if name in known:
            masks.setdefault(name, torch.ones_like(known[name], dtype=torch.bool))
            masks[name].movedim(dim, 0)[~mask] = False
            known[name].masked_fill_(~masks[name], 0)
    return masks


@torch.no_grad()
def idle(net: nn.Sequential, fnz: float = 0.0) -> dict[str, Tensor]:
    """Which units still have weights: a mask (units,) for every layer but the last, True keeps.

    A unit goes if the non-zero share of its fan-in weights, or that of its fan-out weights in the next linear
    map (all positions of it), is at most `fnz` (thesis: 2.2, Fig. 2.11). With 0 these are the units without
    any, and `compact` changes no output; biases are not counted. One pass over the weights as they are. One
    unit of a layer stays: the one with the most non-zero weights in and out, of equal ones the first.

    Raises:
        ValueError: a share outside 0 to 1, a layer whose structure is not known.
    """
    if not 0 <= fnz <= 1:
        raise ValueError(f"fnz is a share between 0 and 1, got {fnz}")
    masks = {}
    for link in _links(net):
        fan_in = (link.layer.weight != 0).flatten(1).cpu()  # (units, fan-in)
        fan_out = (link.outgoing() != 0).movedim(1, 0).flatten(1).cpu()  # (units, fan-out)
        # float64 division rounds k/n as it rounds the decimal that it is written as
        mask = (fan_in.double().mean(1) > fnz) & (fan_out.double().mean(1) > fnz)
        if not mask.any():
            mask[int((fan_in.sum(1) + fan_out.sum(1)).argsort(descending=True, stable=True)[0])] = True
        masks[link.name] = mask.to(link.layer.weight.device)
    return masks


def parameter_count(net: nn.Module) -> int:
    """How many parameters a network has."""
    return sum(parameter.numel() for parameter in net.parameters())


def copy_without_hooks(net: nn.Module) -> nn.Module:
    """A copy without hooks, which would act on units that are no longer there, and without gradients."""
    hooks = [v for module in net.modules() for k, v in vars(module).items() if k.endswith("_hooks")]
    # deepcopy takes what stands in the memo for a copy: an empty dict in place of each dict of hooks
    return copy.deepcopy(net, {id(v): type(v)() for v in hooks if isinstance(v, dict)})


@torch.no_grad()
def load(net: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """A smaller network from the architecture before pruning and the `state_dict` of the smaller one.

    ```python
    torch.save(small.state_dict(), "small.pt")
    small = load(net, torch.load("small.pt", weights_only=True))
    ```

    For what `compact` and `structured.prune` make, and all that has some channels less. `net` may have any
    weights and is left as it is; modes and what is trained come from it, values, dtypes and devices from the
    state.

    Raises:
        ValueError: a tensor of other dimensions than in `net` or larger; names that do not fit.
    """
    small = copy_without_hooks(net)
    for prefix, module in small.named_modules():
        bias = join(prefix, "bias")
        if isinstance(module, LINEAR) and module.bias is None and bias in state:  # it took the constants
            size = module.weight.shape[out_dim(module)]
            module.bias = nn.Parameter(module.weight.new_zeros(size), module.weight.requires_grad)
        for name, tensor in tensors(module):
            new = state.get(join(prefix, name), tensor)
            if new.dim() != tensor.dim() or any(a > b for a, b in zip(new.shape, tensor.shape, strict=True)):
                shapes = f"{tuple(new.shape)} must be a part of the network's, {tuple(tensor.shape)}"
                raise ValueError(f"{join(prefix, name)} of shape {shapes}")
            replace(module, name, tensor.new_empty(new.shape))
        fit(module)
    try:
        small.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
    except RuntimeError as error:
        raise ValueError(f"the state does not fit the network: {error}") from error
    return small


def join(prefix: str, name: str) -> str:
    """Name of a tensor of a module."""
    return f"{prefix}.{name}" if prefix else name


def tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers of a module alone."""
    both = (*module._parameters.items(), *module._buffers.items())
    return [(name, tensor) for name, tensor in both if tensor is not None]


def replace(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a new tensor in the place of another, so that none is held that shares memory with the old one."""
    old = getattr(module, name)
    value = nn.Parameter(tensor, old.requires_grad) if isinstance(old, nn.Parameter) else tensor
    setattr(module, name, value)


def pick(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """Rows or columns of a tensor, in its memory layout."""
    chosen = tensor.index_select(dim, index.to(tensor.device))
    # strides are compared: with one channel a weight counts as contiguous in both layouts
    if tensor.dim() == 4 and tensor.stride() == _last(tensor).stride():
        chosen = _last(chosen).copy_(chosen)
    return chosen


def _last(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.channels_last)


def set_bias(layer: nn.Module, bias: Tensor) -> None:
    """Give a layer a bias: it gets one if it has none, and what it is to take is not 0."""
    if layer.bias is not None:
        layer.bias.copy_(bias)
    elif bias.any():
        layer.bias = nn.Parameter(bias, layer.weight.requires_grad)


def cut(net: nn.Module, kept: Mapping[tuple[str, int], Tensor]) -> None:
    """Make tensors smaller, in place: (name, dimension) -> indices that stay."""
    for prefix, module in net.named_modules():
        for name, tensor in tensors(module):
            new = tensor
            for dim in range(tensor.dim()):
                if (place := (join(prefix, name), dim)) in kept:
                    new = pick(new, dim, kept[place])
            if new is not tensor:
                replace(module, name, new)
        fit(module)


def fit(module: nn.Module) -> None:
    """Make the sizes that a layer keeps beside its tensors those of its tensors."""
    sizes = {name: len(tensor) for name, tensor in tensors(module) if tensor.dim()}
    size = sizes.get("weight", sizes.get("running_mean"))
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, LINEAR):
        out, inputs = (module.weight.shape[dim] for dim in (out_dim(module), 1 - out_dim(module)))
        if module.groups > 1:
            module.groups = module.groups * out // module.out_channels
        module.out_channels, module.in_channels = out, inputs * module.groups
    elif isinstance(module, nn.GroupNorm) and size:
        module.num_groups, module.num_channels = module.num_groups * size // module.num_channels, size
    elif hasattr(module, "num_features") and size:
        module.num_features = size
    elif isinstance(module, nn.PReLU):
        module.num_parameters = size


def _links(net: nn.Module) -> list[_Link]:
    """The linear maps but the last, each with what is behind it, or ValueError: not known, and which."""
    if (known := graph.chain(net)) is None:
        raise ValueError(f"{type(net).__name__} is not a chain: an nn.Sequential is needed")
    chain = list(known.items())
    at = [i for i, (_, module) in enumerate(chain) if isinstance(module, graph.LINEAR)]
    if not at:
        raise ValueError("no Conv2d or Linear in the chain")
    for name, module in chain[at[0] : at[-1] + 1]:
        kind, parameters = f"{name!r} ({type(module).__name__})", module._parameters.keys()
        plain = type(module) in graph.LINEAR and {"weight", "bias"} <= parameters
        if isinstance(module, graph.LINEAR) and not (plain and getattr(module, "groups", 1) == 1):
            way_out = "make pruning or parametrizations permanent first"
            raise ValueError(f"{kind} is no plain Conv2d or Linear with one group of channels: {way_out}")
        if graph.is_shared(net, name):
            raise ValueError(f"{kind} stands twice in the chain or shares its weights: give it its own")
    links = [_Link(*chain[i], chain[i + 1 : j], *chain[j]) for i, j in itertools.pairwise(at)]
    for link in links:
        _check_between(link)
    return links


def _check_between(link: _Link) -> None:
    """Raise ValueError if a layer behind does not act on each channel alone, as far as is known here."""
    image, flat = isinstance(link.layer, nn.Conv2d), False
    for name, module in [*link.between, (link.next_name, link.next)]:
        kind, following = type(module), nn.Conv2d if image else nn.Linear
        known = kind in (*graph.ELEMENTWISE, *graph.NOTHING, *graph.BATCH_NORM, following)
        known |= kind in graph.POOLS and image and not getattr(module, "return_indices", False)
        if kind is nn.Flatten:
            known = (module.start_dim, module.end_dim) == (1, -1)
            flat, image = flat or image, False
        if not known:
            raise ValueError(
                f"the structure of {name!r}, {module}, behind {link.name!r} is not known: nonlinearities, "
                "2d pooling, batch norm, Dropout, Identity are, and Flatten() between a Conv2d and a Linear"
            )
        width = module.weight.shape[1] if kind is following else getattr(module, "num_features", link.units)
        if width % link.units if flat else width != link.units:
            raise ValueError(f"{name!r} takes {width} inputs, {link.name!r} has {link.units} units")


def _check(
    links: list[_Link], keep: Mapping[str, Tensor], h: Mapping[str, Tensor], a: Mapping[str, Tensor]
) -> None:
    """Raise ValueError for masks and constants that do not fit the network."""
    known = {link.name: link for link in links}
    for name in (*keep, *h, *a):
        if name not in known:
            right = f"only of {', '.join(known) or 'none'}: not of the last, whose units are the outputs"
            raise ValueError(f"no units of {name!r} can be removed, {right}")
    for name, mask in keep.items():
        fits = isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == (known[name].units,)
        if not fits or not mask.any():
            right = f"a bool tensor of shape ({known[name].units},) that keeps at least one unit"
            raise ValueError(f"the mask of {name!r} must be {right}, got {mask}")
    for name in h.keys() & a.keys():
        raise ValueError(f"both h and a are given for {name!r}: one of them is enough")
    for name, constant in (*h.items(), *a.items()):
        units = known[name].units
        shapes = [(units,), *([(units, known[name].next.weight.shape[1] // units)] if name in a else [])]
        if tuple(constant.shape) not in shapes:
            right = " or ".join(map(str, shapes))
            raise ValueError(f"constants of {name!r} have shape {tuple(constant.shape)}, not {right}")


def _constant(link: _Link, gone: Tensor, h: Mapping[str, Tensor], a: Mapping[str, Tensor]) -> Tensor:
    """What enters the next linear map in place of the removed units: (units removed, 1 or positions)."""
    weight = link.next.weight
    if link.name in a:
        constant = a[link.name].to(weight).reshape(link.units, -1)  # (units, 1 or positions)
    else:
        constant = weight.new_zeros(link.units) if link.layer.bias is None else link.layer.bias
        constant = h.get(link.name, constant).to(weight)[:, None]  # (units, 1)
        for name, module in link.between:
            constant = _through(f"{name!r}, {module},", module, constant, gone)
    if not constant[gone].isfinite().all():
        raise ValueError(f"the constant of a removed unit of {link.name!r} is not finite")
    return constant[gone]


def _through(name: str, module: nn.Module, constant: Tensor, gone: Tensor) -> Tensor:
    """What a layer makes of a constant channel: (units, 1 or positions) -> (units, 1 or positions)."""
    if type(module) in graph.ELEMENTWISE:
        return module.forward(constant.clone())  # cloned for those in place; no hooks run
    if type(module) in graph.BATCH_NORM:
        if module.training or module.running_mean is None:
            why = "is in training mode or without running statistics"
            raise ValueError(f"{name} {why}: call net.eval() first, or give `a`, what is constant behind it")
        rows = constant.expand(-1, module.num_features // len(constant)).reshape(1, -1)  # (1, features)
        return graph.normed(module, rows).view(len(constant), -1)
    if type(module) is nn.AvgPool2d and constant[gone].any():
        padded = module.padding not in (0, (0, 0)) and module.count_include_pad
        if padded or module.divisor_override:
            raise ValueError(f"{name} averages zeros in or has another divisor: give `a`, what it gives")
    return constant


def _places(net: nn.Module, keep: Mapping[str, Tensor], norms: bool = True) -> dict[tuple[str, int], Tensor]:
    """Where units stand in tensors: (name, dimension) -> mask of its indices, True keeps."""
    places = {}
    for link in _links(net):
        if link.name in keep:
            mask = keep[link.name]
            for name, _ in tensors(link.layer):
                places[join(link.name, name), 0] = link.along(mask, link.units)
            places[join(link.next_name, "weight"), 1] = link.along(mask, link.next.weight.shape[1])
            for at, module in link.between:
                for name, tensor in tensors(module) if norms else ():
                    if tensor.dim():
                        places[join(at, name), 0] = link.along(mask, len(tensor))
    return places
