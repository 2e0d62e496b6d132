"""Widgets for a notebook with a kernel: moved, they compute anew, on the network of the reader's parameters.

In a published page, which has no kernel, they are left out. torch is imported when a control is moved.
"""

from __future__ import annotations

import copy
import functools
import html
import itertools
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets
import pandas as pd

from deadbook import datasets, figures, settings
from deadbook import widgets as static
from deadbook.analysis import trials
from deadunits import data

if TYPE_CHECKING:
    from torch import nn

PAGE = "DEADUNITS_PAGE"  # set in the environment where a page is made
HINT = "<p>Move a control: it is computed then, here, with the parameters of this notebook.</p>"
WEIGHTS = ("magnitude", "taylor1_abs", "taylor1", "taylor2_abs", "taylor2", "loss_change", "random")
UNITS = ("mrp", "mrs", "norm_l2", "norm_l1", "taylor", "mean_activation", "random")


class Live(ipywidgets.VBox):
    """Controls, and what is computed from their values whenever one is moved.

    The widget shows that it computes. Of the values set meanwhile only the last ones are computed next, so a
    slider that is dragged on never queues up old work. An error is shown in the place of the result.

    Args:
        controls: widgets with a `value`, by the names that `draw` knows them by.
        draw: gets the values by name; called in a thread of its own.
    """

    def __init__(self, controls: Mapping[str, ipywidgets.Widget], draw: Callable[..., ipywidgets.Widget]):
        self._controls, self._draw = dict(controls), draw
        self._message, self._result = ipywidgets.HTML(HINT), ipywidgets.VBox()
        self._lock, self._busy = threading.Lock(), False
        self._wanted: dict[str, Any] | None = None
        super().__init__([*self._controls.values(), self._message, self._result])
        for control in self._controls.values():
            control.observe(self._moved, "value")

    def _moved(self, change: object) -> None:
        with self._lock:
            self._wanted = {name: control.value for name, control in self._controls.items()}
            if self._busy:
                return
            self._busy = True
        self._message.value = '<p role="status">computing ...</p>'
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                wanted, self._wanted = self._wanted, None
                self._busy = wanted is not None
            if wanted is None:
                return
            try:
                result, message = [self._draw(**wanted)], ""
            except Exception as error:  # whatever it is, it belongs into the widget
                text = html.escape(f"{type(error).__name__}: {error}")
                result, message = [], f'<p role="alert">{text}</p>'
            if self._wanted is None:
                self._result.children, self._message.value = result, message


class Network:
    """The network of a chapter's parameters, trained with seed 0 as far as it is asked for.

    Going on costs the steps between; going back starts from the first step again.

    Args:
        chosen: parameters of a chapter by name; `activation` is one of its activations.
    """

    def __init__(self, chosen: Mapping[str, Any], data_root: str = "") -> None:
        self._chosen, self._data_root = chosen, data_root
        self._reached, self._steps = 0, iter(())

    @functools.cached_property
    def images(self) -> data.Images:
        """The chapter's data set, read when it is first needed."""
        return datasets.load(root=self._data_root, **datasets.chosen(self._chosen))

    def after(self, step: int) -> nn.Module:
        """A copy of the network after that many steps, in evaluation mode."""
        from deadbook import networks
        from deadunits import training

        chosen, images = self._chosen, self.images
        if not self._reached or step < self._reached:
            shape = (images.shape, images.classes)
            self._net = networks.build(chosen["network"], *shape, chosen["activation"], seed=0)
            options = {name: chosen[name] for name in ("epochs", "lr", "batch_size")}
            self._steps, self._reached = training.sgd(self._net, images.train, **options, seed=0), 0
        while self._reached < step:
            self._reached = next(self._steps).number
        return copy.deepcopy(self._net).eval()

    def slider(self) -> ipywidgets.IntSlider:
        """Through the steps of the training, from the last one."""
        last, every = settings.training_steps(self._chosen), self._chosen["measure_every"]
        return ipywidgets.IntSlider(last, 1, last, every, description="step", readout_format=",d")


def saliency_explorer(chosen: Mapping[str, Any], data_root: str = "") -> Live | None:
    """Any layer, scorer and step: filters coloured by the rank of their weights, beside the exact ones.

    Args:
        chosen: the parameters of chapter 2.1 by name, with one `activation`.
    """
    network = Network(chosen, data_root)

    def draw(layer: str, scorer: str, step: int) -> ipywidgets.Widget:
        from deadbook.experiments import common, saliency

        net = network.after(step)
        names = common.weights_of(net, [layer])
        saliency.check_affordable(net, names, network.images.probe)
        ((_, shape),) = common.shapes(net, names)
        saliencies = saliency.saliencies(net, network.images.probe, names)
        scores = {name: by_layer[names[0]].flatten().tolist() for name, by_layer in saliencies.items()}
        return _frame(static.filters(pd.DataFrame(scores), scorer, tuple(list(shape.values())[1:])))

    controls = {
        "layer": ipywidgets.Dropdown(options=chosen["layers"], description="layer"),
        "scorer": _choice(("taylor1", "taylor2", "hessian", "magnitude")),
        "step": network.slider(),
    }
    return _live(controls, draw)


def expansion_slider(chosen: Mapping[str, Any], data_root: str = "") -> Live | None:
    """Any step of the training, any size of a step away from there: the loss, exact and expanded.

    Args:
        chosen: the parameters of chapter 1 by name.
    """
    network, seen = Network(chosen, data_root), {}

    def draw(step: int, size: float) -> ipywidgets.Widget:
        from deadbook.experiments import background
        from deadunits import derivatives

        net = network.after(step).double()
        probe = data.Batch(network.images.train_probe.x.double(), network.images.train_probe.y)
        names = [name for name, _ in net.named_parameters()]
        weights = {name: weight.detach().clone() for name, weight in net.named_parameters()}
        directions = {"gradient": derivatives.gradient(net, probe, names), "removal": weights}
        sizes = sorted({*chosen["sizes"], size}) if step not in seen else [size]
        for direction, along in directions.items():
            downhill = {name: -tensor for name, tensor in along.items()}
            for row in background.expansion(net, probe, downhill, sizes):
                seen.setdefault(step, {})[direction, row["size"]] = row | {"direction": direction}
        return _frame(static.expanded(pd.DataFrame(list(seen[step].values())), chosen["lr"], size))

    low, high = (math.log10(chosen["sizes"][end]) for end in (0, -1))
    size = ipywidgets.FloatLogSlider(
        chosen["lr"], min=math.floor(low), max=math.ceil(high), step=0.05, description="size"
    )
    return _live({"step": network.slider(), "size": size}, draw)


def pruning_slider(chosen: Mapping[str, Any], data_root: str = "") -> Live | None:
    """Any step, score and fraction of weights: what is left of the first layer, accuracy and loss.

    Every move adds a point to the lines.

    Args:
        chosen: the parameters of chapter 2.2 by name.
    """
    return _pruning(chosen, data_root, "weights", WEIGHTS)


def unit_pruning_slider(chosen: Mapping[str, Any], data_root: str = "") -> Live | None:
    """Any step, score and fraction of units: parameters left, accuracy with their means and bare.

    Every move adds a point to the lines.

    Args:
        chosen: the parameters of chapter 4.2 by name.
    """
    return _pruning(chosen, data_root, "units", UNITS)


def _pruning(chosen: Mapping[str, Any], data_root: str, of: str, scorers: Sequence[str]) -> Live | None:
    network, seen = Network(chosen, data_root), {}

    def draw(step: int, scorer: str, fraction: float) -> ipywidgets.Widget:
        from deadbook.experiments import common, explorer
        from deadunits import pruning

        net, images = network.after(step), network.images
        scores = explorer.scored(net, images, chosen["layers"], of, scorer, 0)
        if of == "weights":
            rows = [explorer.without_weights(net, images, scores, fraction)]
        else:
            rows = explorer.without_units(net, images, pruning.unit_masks(scores, fraction))
        points = seen.setdefault(step, {})
        points[scorer, fraction] = [{"scorer": scorer, "fraction": fraction} | row for row in rows]
        table = pd.DataFrame(itertools.chain(*points.values()))
        if of == "units":
            return _frame(static.smaller(table, scorer, fraction))
        layer, weights = next(iter(scores.items()))
        ((_, shape),) = common.shapes(net, [layer])
        ranks = weights.flatten().argsort(stable=True).argsort().reshape(list(shape.values())[1:])
        return _frame(static.pruned(table, ranks.numpy(), scorer, fraction))

    fraction = ipywidgets.FloatSlider(0.5, min=0, max=1, step=0.01, description="fraction")
    return _live({"step": network.slider(), "scorer": _choice(scorers), "fraction": fraction}, draw)


def attack_theatre(chosen: Mapping[str, Any], results: str = "results", data_root: str = "") -> Live | None:
    """Attack any unit at any time, by any factor, and see its theatre.

    Trains the chapter's network and its twin, with seed 0; what was computed once is read from `results`.

    Args:
        chosen: the parameters of chapter 3.2, 3.3 or 3.4 by name.
    """

    def draw(layer: str, unit: int, start: int, multiplier: float) -> ipywidgets.Widget:
        attack = {"attacked": [[layer, unit]], "timed": [], "starts": [start], "start": start, "seeds": 1}
        planned = trials.some_units({**chosen, **attack, "multiplier": multiplier})
        planned = {name: planned[name] for name in ("twins", "first")}
        runs = trials.compute(planned, results, data_root)
        every = runs["twins"] + runs["first"]
        tables = [trials.curves(runs["first"], every, name) for name in ("units", "training", "values")]
        return static.attack_theatre(*tables, chosen["activation"])

    first = chosen["timed"][0]
    controls = {
        "layer": ipywidgets.Dropdown(options=chosen["layers"], value=first[0], description="layer"),
        "unit": ipywidgets.BoundedIntText(first[1], 0, 1_000_000, description="unit"),
        "start": ipywidgets.BoundedIntText(chosen["start"], 1, 100_000_000, description="first step"),
        "multiplier": ipywidgets.FloatText(chosen["multiplier"], description="multiplier"),
    }
    return _live(controls, draw)


def _live(controls: Mapping[str, ipywidgets.Widget], draw: Callable[..., ipywidgets.Widget]) -> Live | None:
    return None if os.environ.get(PAGE) else Live(controls, draw)


def _choice(scorers: Sequence[str]) -> ipywidgets.Dropdown:
    options = [(figures.title(scorer), scorer) for scorer in scorers]
    return ipywidgets.Dropdown(options=options, description="score")


def _frame(frame: static.Frame) -> ipywidgets.VBox:
    return ipywidgets.VBox([ipywidgets.HTML(f"<p>{html.escape(frame[0])}</p>"), frame[1]])
