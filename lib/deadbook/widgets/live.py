"""Widgets for a notebook with a kernel: moved, they compute anew, on the network of the reader's parameters.

In a published page, which has no kernel, they are left out. torch is imported when a control is moved.
"""

from __future__ import annotations

import copy
import html
import math
import os
import threading
from collections.abc import Callable, Mapping
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

    While it is computed the widget says so. What is asked for meanwhile waits, and of that only the last: a
    slider that is dragged on never queues up old work. An error is shown in the place of the result.

    Args:
        controls: widgets with a `value`, by the names that `draw` knows them by.
        draw: gets the values by name; called in a thread of its own.
    """

    def __init__(self, controls: Mapping[str, ipywidgets.Widget], draw: Callable[..., ipywidgets.Widget]):
        self._controls, self._draw = dict(controls), draw
        self._said, self._place = ipywidgets.HTML(HINT), ipywidgets.VBox()
        self._lock, self._busy = threading.Lock(), False
        self._wanted: dict[str, Any] | None = None
        super().__init__([*self._controls.values(), self._said, self._place])
        for control in self._controls.values():
            control.observe(self._ask, "value")

    def _ask(self, change: object = None) -> None:
        with self._lock:
            self._wanted = {name: control.value for name, control in self._controls.items()}
            if self._busy:
                return
            self._busy = True
        self._said.value = '<p role="status">computing ...</p>'
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                wanted, self._wanted = self._wanted, None
                self._busy = wanted is not None
            if wanted is None:
                return
            try:
                shown, said = [self._draw(**wanted)], ""
            except Exception as error:  # whatever it is, it belongs into the widget
                shown, said = [], f'<p role="alert">{html.escape(f"{type(error).__name__}: {error}")}</p>'
            if self._wanted is None:
                self._place.children, self._said.value = shown, said


class Network:
    """The network of a chapter's parameters, trained with seed 0 as far as it is asked for.

    Going on costs the steps between; going back starts from the first step again.

    Args:
        chosen: parameters of a chapter by name; `activation` is one of its activations.
    """

    def __init__(self, chosen: Mapping[str, Any], data_root: str = "") -> None:
        self._chosen, self._data_root = chosen, data_root
        self._reached, self._images, self._steps = 0, None, iter(())

    @property
    def images(self) -> data.Images:
        """The chapter's data set, read when it is first needed."""
        if self._images is None:
            self._images = datasets.load(root=self._data_root, **datasets.chosen(self._chosen))
        return self._images

    def after(self, step: int) -> nn.Module:
        """A copy of the network after that many steps, in evaluation mode."""
        from deadunits import models, training

        chosen, images = self._chosen, self.images
        if not self._reached or step < self._reached:
            self._net = models.build(
                chosen["network"], images.shape, images.classes, chosen["activation"], seed=0
            )
            how = {name: chosen[name] for name in ("epochs", "lr", "batch_size")}
            self._steps, self._reached = training.sgd(self._net, images.train, **how, seed=0), 0
        while self._reached < step:
            self._reached = next(self._steps).number
        return copy.deepcopy(self._net).eval()

    def slider(self, start: int = 0) -> ipywidgets.IntSlider:
        """Through the steps of the training."""
        last, every = settings.training_steps(self._chosen), self._chosen["measure_every"]
        return ipywidgets.IntSlider(start or last, 1, last, every, description="step", readout_format=",d")


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
        saliency.check_affordable(net, names)
        (_, shape), *_ = common.shapes(net, names)
        found = saliency.saliencies(net, network.images.probe, names)
        scores = pd.DataFrame({name: one[names[0]].flatten().tolist() for name, one in found.items()})
        return _frame(static.filters(scores, scorer, tuple(list(shape.values())[1:])))

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
        weights = {name: one.detach().clone() for name, one in net.named_parameters()}
        directions = {"gradient": derivatives.gradient(net, probe, names), "removal": weights}
        sizes = sorted({*chosen["sizes"], size}) if step not in seen else [size]
        for direction, along in directions.items():
            for row in background.expansion(net, probe, {name: -one for name, one in along.items()}, sizes):
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
    network, seen = Network(chosen, data_root), {}

    def draw(step: int, scorer: str, fraction: float) -> ipywidgets.Widget:
        from deadbook.experiments import common, explorer

        net, images = network.after(step), network.images
        scores = explorer.scored(net, images, chosen["layers"], "weights", scorer, 0)
        about = {"scorer": scorer, "fraction": fraction}
        row = about | explorer.without_weights(net, images, scores, fraction)
        seen.setdefault(step, {})[scorer, fraction] = [row]
        first = next(iter(scores))
        (_, shape), *_ = common.shapes(net, [first])
        order = scores[first].flatten().argsort(stable=True).argsort()
        ranks = order.reshape(list(shape.values())[1:]).numpy()
        return _frame(static.pruned(_rows(seen[step]), ranks, scorer, fraction))

    controls = {"step": network.slider(), "scorer": _choice(WEIGHTS), "fraction": _fraction()}
    return _live(controls, draw)


def unit_pruning_slider(chosen: Mapping[str, Any], data_root: str = "") -> Live | None:
    """Any step, score and fraction of units: parameters left, accuracy with their means and bare.

    Every move adds a point to the lines.

    Args:
        chosen: the parameters of chapter 4.2 by name.
    """
    network, seen = Network(chosen, data_root), {}

    def draw(step: int, scorer: str, fraction: float) -> ipywidgets.Widget:
        from deadbook.experiments import explorer
        from deadunits import pruning

        net, images = network.after(step), network.images
        scores = explorer.scored(net, images, chosen["layers"], "units", scorer, 0)
        about = {"scorer": scorer, "fraction": fraction}
        found = explorer.without_units(net, images, pruning.unit_masks(scores, fraction))
        seen.setdefault(step, {})[scorer, fraction] = [about | row for row in found]
        return _frame(static.smaller(_rows(seen[step]), scorer, fraction))

    controls = {"step": network.slider(), "scorer": _choice(UNITS), "fraction": _fraction()}
    return _live(controls, draw)


def attack_theatre(chosen: Mapping[str, Any], results: str = "results", data_root: str = "") -> Live | None:
    """Attack any unit at any time, by any factor, and see its theatre.

    Trains the chapter's network and its twin, with seed 0; what was computed once is read from `results`.

    Args:
        chosen: the parameters of chapter 3.2, 3.3 or 3.4 by name.
    """

    def draw(layer: str, unit: int, start: int, multiplier: float) -> ipywidgets.Widget:
        one = {"attacked": [[layer, unit]], "timed": [], "starts": [start], "start": start, "seeds": 1}
        planned = trials.some_units({**chosen, **one, "multiplier": multiplier})
        planned = {name: planned[name] for name in ("twins", "first")}
        found = trials.compute(planned, results, data_root)
        every = found["twins"] + found["first"]
        tables = [trials.curves(found["first"], every, name) for name in ("units", "training", "values")]
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


def _choice(scorers: tuple[str, ...]) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(options=[(figures.title(one), one) for one in scorers], description="score")


def _fraction() -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(0.5, min=0, max=1, step=0.01, description="fraction")


def _frame(frame: static.Frame) -> ipywidgets.VBox:
    return ipywidgets.VBox([ipywidgets.HTML(f"<p>{html.escape(frame[0])}</p>"), frame[1]])


def _rows(seen: Mapping[object, list[dict[str, Any]]]) -> pd.DataFrame:
    return pd.DataFrame([row for rows in seen.values() for row in rows])
