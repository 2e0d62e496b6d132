"""Section 4.2: what the thesis only expects of the smaller network: its file, its memory, its time."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from deadbook.experiments.common import Row, build, load
from deadbook.experiments.unit_pruning import file_size
from deadbook.settings import UnitCosts
from deadunits import compaction, pruning, unit_scorers
from deadunits.data import Batch

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def unit_costs(settings: UnitCosts, data_root: str = "") -> Iterator[Row]:
    """Section 4.2: size and wall time of a dense network, the same masked, and the same compacted.

    Untrained, since the time does not depend on the weights. The networks are timed in turn, so that a drift
    of the machine hits all alike; one thread. Tables: `sizes` (parameters, bytes of the files, bytes of what
    the layers give for one image), `speeds` (medians, in seconds a forward pass, also over the dense one's).
    """
    images = load(settings, data_root)
    dense = build(settings, images).eval()
    norms = unit_scorers.norm_l2(dense, (), settings.layers)
    keep = pruning.unit_masks(norms, settings.fraction)
    networks = {"dense": dense, "masked": compaction.propagate(dense, keep)}
    networks["compacted"] = compaction.compact(dense, keep)
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[tuple[str, str], Callable[[torch.Tensor], object]] = {}
        for name, net in networks.items():
            file = Path(folder) / f"{name}.onnx"
            session = onnx_session(net, file, images.shape)
            row = {"network": name, "parameters": compaction.parameter_count(net)}
            row["bytes"] = file_size(net)
            row["onnx_bytes"] = file.stat().st_size if session else 0
            yield "sizes", row | {"activation_bytes": activation_bytes(net, images.probe)}
            for layout, memory in LAYOUTS.items():
                copy = compaction.compact(net, {}).to(memory_format=memory)  # a copy
                ways[f"PyTorch, {layout}", name] = lambda x, copy=copy, m=memory: copy(x.to(memory_format=m))
            if session:
                ways["ONNX Runtime", name] = lambda x, run=session.run: run(None, {"x": x.numpy()})
        for batch in settings.batches:
            x = images.train.x[torch.arange(batch) % len(images.train.x)]
            times = timed(ways, x, settings.rounds, inner=max(1, 64 // batch))
            for (engine, name), seconds in times.items():
                row = {"engine": engine, "network": name, "batch": batch, "seconds": seconds}
                yield "speeds", row | {"over_dense": seconds / times[engine, "dense"]}


@torch.no_grad()
def timed(
    ways: dict[tuple[str, str], Callable[[torch.Tensor], object]], x: torch.Tensor, rounds: int, inner: int
) -> dict[tuple[str, str], float]:
    """Median wall time of each way, in seconds."""
    times: dict[tuple[str, str], list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            for _ in range(inner):
                way(x)
            times[name].append((time.perf_counter() - start) / inner)
    return {name: statistics.median(values[1:]) for name, values in times.items()}  # the first warms up


def onnx_session(net: nn.Module, file: Path, shape: tuple[int, int, int]) -> object | None:
    """The network in ONNX Runtime, through a file; None where that is not installed."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx.export needs it
    except ImportError:
        return None
    x = torch.zeros(2, *shape)  # not 1: the exporter would take it for a constant
    copy = compaction.compact(net, {}).to(memory_format=torch.contiguous_format)
    batches = ({0: torch.export.Dim("images")},)
    one_file = {"external_data": False}  # by default the weights go to a second file
    how = {"dynamo": True, "dynamic_shapes": batches, "verbose": False} | one_file
    torch.onnx.export(copy, (x,), file, input_names=["x"], **how)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def activation_bytes(net: nn.Module, batch: Batch) -> int:
    """Bytes of what all its layers give for one image."""
    sizes: list[int] = []
    x = batch.x[:1]
    for module in net:
        x = module(x)
        sizes.append(x.numel() * x.element_size())
    return sum(sizes)
