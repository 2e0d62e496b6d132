"""Several networks of one architecture, trained side by side: one forward and backward pass for all.

The kernels of a small network leave a GPU idle. `Stack` puts the parameters of several into common tensors
with one more dimension (`torch.func`), and leaves each network what it is: a module of its own, with its own
optimizer, which may be attacked, recorded or pruned between two steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deadunits.data import Batch
from deadunits.training import Step


class Stack:
    """Networks whose parameters and buffers are slices of common tensors, (networks, ...) each.

    ```python
    nets = [models.small_cnn((3, 32, 32), seed=0).to("cuda") for _ in range(8)]
    stack = Stack(nets)
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.01) for net in nets]
    with Attack(nets[1], optimizers[1], "conv1", [0], schedule, multiplier=100):
        for steps in stack.sgd(images, optimizers, epochs=10, batch_size=32, seeds=[0] * 8):
            ...  # steps[1].loss; nets[1] is trained and attacked, nets[0] is its twin
    ```

    Args:
        nets: of one architecture, on one device. They stay usable, and follow the stack's values.

    Raises:
        ValueError: no networks, or networks of different architectures, types or devices.
    """

    def __init__(self, nets: Sequence[nn.Module]):
        if not nets:
            raise ValueError("a stack is to have one network at least")
        shapes = [
            {name: (one.shape, one.dtype, one.device) for name, one in net.state_dict().items()}
            for net in nets
        ]
        if any(one != shapes[0] for one in shapes):
            raise ValueError("the networks of a stack are to have the same layers, types and device")
        self.nets = list(nets)
        self._skeleton = copy.deepcopy(nets[0]).to("meta")  # the forward pass, without values
        self._values = {name: _joined(nets, name) for name, _ in nets[0].named_parameters()}
        self._buffers = {name: _joined(nets, name) for name, _ in nets[0].named_buffers()}
        for name, values in self._values.items():
            values.requires_grad_()
            values.grad = torch.zeros_like(values)
            for net, gradient in zip(nets, values.grad, strict=True):
                net.get_parameter(name).grad = gradient  # a slice: what one writes, the other has

    def backward(
        self, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    ) -> Tensor:
        """The loss of each network in training mode, (networks,); its gradients are in the networks' `grad`.

        Args:
            x: a minibatch for all, (N, ...), or one for each, (networks, N, ...).
            y: its labels, (N,) or (networks, N).
        """
        each = 0 if y.dim() == 2 else None

        def run(values: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return loss(torch.func.functional_call(self._skeleton, (values, buffers), (x,)), y)

        self._skeleton.train()
        with torch.enable_grad():
            losses = torch.vmap(run, (0, 0, each, each), randomness="different")(
                self._values, self._buffers, x, y
            )
            found = torch.autograd.grad(losses.sum(), list(self._values.values()))
        for values, gradient in zip(self._values.values(), found, strict=True):
            values.grad.copy_(gradient)
        return losses.detach()

    def sgd(
        self,
        images: Batch,
        optimizers: Sequence[torch.optim.Optimizer],
        *,
        epochs: int,
        batch_size: int,
        seeds: Sequence[int],
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    ) -> Iterator[list[Step]]:
        """Train all networks as `training.sgd` trains each; yields a `Step` for each, after each update.

        Args:
            images: all training images, (N, ...), and labels, (N,), on the networks' device.
            optimizers: one for each network; gradients are never set to None, so leave `zero_grad` alone.
            seeds: of the order of the images, one for each network; networks of one seed share minibatches.

        Raises:
            ValueError: not as many optimizers or seeds as networks.
        """
        if not len(optimizers) == len(seeds) == len(self.nets):
            raise ValueError(f"{len(self.nets)} networks need as many optimizers and seeds")
        orders = {seed: torch.Generator().manual_seed(seed) for seed in seeds}
        number = 0
        for epoch in range(epochs):
            seen = 0
            drawn = {seed: torch.randperm(len(images.y), generator=one) for seed, one in orders.items()}
            for start in range(0, len(images.y), batch_size):
                parts = [drawn[seed][start : start + batch_size] for seed in seeds]
                chosen = parts[0] if len(orders) == 1 else torch.stack(parts)  # (N,) or (networks, N)
                chosen = chosen.to(images.y.device)
                losses = self.backward(images.x[chosen], images.y[chosen], loss)
                for net, optimizer in zip(self.nets, optimizers, strict=True):
                    net.train()
                    optimizer.step()
                number, seen = number + 1, seen + len(parts[0])
                yield [Step(number, epoch + seen / len(images.y), value) for value in losses.tolist()]


def _joined(nets: Sequence[nn.Module], name: str) -> Tensor:
    """A parameter or buffer of all networks, (networks, ...); each network's is a slice of it from now on."""
    own = [dict(net.named_parameters()) | dict(net.named_buffers()) for net in nets]
    joined = torch.stack([one[name].detach() for one in own])
    for one, part in zip(own, joined, strict=True):
        one[name].data = part
    return joined
