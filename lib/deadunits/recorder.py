"""What becomes of units while a network is trained: penalties, norms and gradients of all, values of some."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deadunits import graph
from deadunits.batches import evaluating, removing
from deadunits.data import Batch
from deadunits.mean_replacement import MeanReplacement, mean_replacement_penalty


class Recorder:
    """Records all units of some layers, between the steps of a training; it changes nothing of that.

    ```python
    recorder = Recorder(net, ["conv1", "fc1"])
    for step in training.sgd(net, images.train, ...):
        recorder.follow()
        if step.number % 375 == 0:
            loss, units = recorder.measure(images.probe)
            units["conv1"]["mrp"]  # (8,)
    ```

    Raises:
        ValueError: no such linear or convolutional layer, or none behind it that takes its units.
    """

    def __init__(self, net: nn.Module, layers: Sequence[str]):
        self.net, self.layers = net, list(layers)
        self._modules = {layer: graph.linear_layer(net, layer) for layer in layers}
        self._next: dict[str, nn.Module] = {}
        for layer in layers:
            following = graph.next_linear(net, layer)
            if following is None:
                raise ValueError(f"behind {layer!r} there is no layer that takes its units")
            self._next[layer] = net.get_submodule(following)
        self._reset()

    def _reset(self) -> None:
        self._steps = 0
        self._gradients = {
            name: torch.zeros(len(one.weight), device=one.weight.device)
            for name, one in self._modules.items()
        }

    @torch.no_grad()
    def follow(self) -> None:
        """Look at the gradients of the step that was just taken.

        Raises:
            RuntimeError: there are none any more.
        """
        self._steps += 1
        for name, module in self._modules.items():
            if module.weight.grad is None:
                raise RuntimeError(f"{name} has no gradient: follow() belongs between step() and zero_grad()")
            self._gradients[name] += module.weight.grad.abs().flatten(1).sum(1)

    @torch.no_grad()
    def measure(self, batch: Batch) -> tuple[float, dict[str, dict[str, Tensor]]]:
        """Mean loss in nats, and each layer's units as columns of a table, (units,) each.

        `mrp` and `mrs` in nats; `gradient`, the mean over images of the norm of ∂ℓ/∂h_i; `norm_in` and
        `norm_out`, the L1 norms of incoming and outgoing weights; `weight_gradient`, the L1 norm of a
        minibatch's gradient by the incoming weights, its mean over the steps since the last measurement.
        The network's mode is as it was.
        """
        with evaluating(self.net):
            exact = mean_replacement_penalty(self.net, batch, self.layers)
            with MeanReplacement(self.net, self.layers) as seen:
                seen.observe(batch)
        found = {
            layer: {"mrp": exact[layer], "mrs": units.mrs, "gradient": units.gradient} | self._norms(layer)
            for layer, units in seen.seen().items()
        }
        self._reset()
        return seen.loss, found

    def _norms(self, layer: str) -> dict[str, Tensor]:
        weight, behind = self._modules[layer].weight, self._next[layer].weight
        out = behind.unflatten(1, (len(weight), -1))  # (units behind, units, positions, ...)
        return {
            "norm_in": weight.abs().flatten(1).sum(1),
            "norm_out": out.abs().movedim(1, 0).flatten(1).sum(1),
            "weight_gradient": self._gradients[layer] / max(1, self._steps),
        }

    @torch.no_grad()
    def values(self, batch: Batch, layer: str) -> tuple[Tensor, Tensor]:
        """Outputs h of a layer and what the next linear map gets of it: (units, values) each."""
        seen: dict[str, Tensor] = {}
        units = len(self._modules[layer].weight)

        def keep(module: nn.Module, inputs: tuple[Tensor, ...], h: Tensor) -> None:
            seen["h"] = h.movedim(1, 0).flatten(1).clone()  # before it may be changed in place

        def entering(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen["a"] = inputs[0].unflatten(1, (units, -1)).movedim(1, 0).flatten(1)

        handles = [self._modules[layer].register_forward_hook(keep)]
        handles.append(self._next[layer].register_forward_pre_hook(entering))
        with evaluating(self.net), removing(handles):
            self.net(batch.x)
        return seen["h"], seen["a"]
