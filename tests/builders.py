"""Which networks of `torchvision.models` can be pruned, with `structured.prune` and with Torch-Pruning.

    python tests/builders.py                    # all that are not in book/tables/builders.csv yet
    python tests/builders.py resnet18 swin_t    # these, whether they are there or not

Each builder of a classifier has random weights and two images of 64 x 64 (75 for inception_v3, 224 for vision
transformers and maxvit, whose sizes are fixed), and each library a process of its own with 8 GB of memory and
five minutes of processor time. Half of the units of each group are to go by the L2 norm of their weights:
ours with means, what cannot go left as it is (`skip_unsupported`); Torch-Pruning's by its own pruner, called
as its tests do. A network counts as pruned if the smaller one has fewer parameters, gives finite outputs of
the same shape, and passes a backward pass, `deepcopy` and `state_dict`.
"""

from __future__ import annotations

import copy
import csv
import multiprocessing
import resource
import signal
import sys
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch_pruning
import torchvision

from deadunits import data, structured
from deadunits.compaction import parameter_count

FILE = Path("book/tables/builders.csv")
COLUMNS = (*("network", "parameters", "left", "layers not pruned", "left by Torch-Pruning"),)
MEMORY, SECONDS = 8 * 2**30, 300


def build(name: str) -> tuple[torch.nn.Module, data.Batch]:
    torch.manual_seed(0)
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    net = torchvision.models.get_model(name, weights=None, **options).eval()
    size = {"vit": 224, "max": 224, "inc": 75}.get(name[:3], 64)
    return net, data.Batch(torch.randn(2, 3, size, size), torch.tensor([0, 1]))


def ours(net: torch.nn.Module, batch: data.Batch) -> tuple[torch.nn.Module, int]:
    pruned = structured.prune(net, batch, 0.5, "norm_l2", skip_unsupported=True)
    return pruned.net, len(pruned.left)


def theirs(net: torch.nn.Module, batch: data.Batch) -> tuple[torch.nn.Module, int]:
    vision = isinstance(net, torchvision.models.VisionTransformer)
    last = [
        m for m in net.modules() if 1000 in (getattr(m, "out_features", 0), getattr(m, "out_channels", 0))
    ]
    torch_pruning.BasePruner(
        net,
        batch.x[:1],
        torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=last,
        round_to=net.encoder.layers[0].num_heads if vision else None,
    ).step()
    if vision:
        net.hidden_dim = net.conv_proj.out_channels
    return net, 0


def attempt(name: str, library: str) -> tuple[float, int, int]:
    """The share of parameters that stay, layers that were left, parameters before; or an error."""
    net, batch = build(name)
    before, shape = parameter_count(net), net(batch.x).shape
    small, left = {"ours": ours, "torch_pruning": theirs}[library](net, batch)
    del net
    out = small(batch.x)
    assert out.shape == shape, "outputs of another shape"
    assert out.isfinite().all(), "outputs that are not finite"
    assert parameter_count(small) < before, "no fewer parameters"
    out.logsumexp(1).sum().backward()
    small.zero_grad()
    twin = copy.deepcopy(small)
    twin.load_state_dict(small.state_dict())
    assert torch.allclose(twin(batch.x), out), "the copy gives other outputs"
    return parameter_count(small) / before, left, before


def child(name: str, library: str, pipe: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    warnings.simplefilter("ignore")
    try:
        share, left, before = attempt(name, library)
        pipe.send((f"{share:.3f}", left, before))
    except MemoryError:
        pipe.send((f"more than {MEMORY >> 30} GB", "", ""))
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        memory = "allocate" in text
        pipe.send((f"more than {MEMORY >> 30} GB" if memory else text.split("\n")[0][:80], "", ""))


def run(name: str, library: str) -> tuple[str, str, str]:
    """The share of parameters that stay or why there is none, layers not pruned, parameters."""
    pipe, end = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=child, args=(name, library, end))
    process.start()
    end.close()
    try:
        return pipe.recv()
    except EOFError:
        process.join()
        late = process.exitcode == -signal.SIGXCPU
        return f"more than {SECONDS} s" if late else f"ended with {process.exitcode}", "", ""
    finally:
        process.join()


def main(names: list[str]) -> None:
    every = torchvision.models.list_models(module=torchvision.models)
    sizes = {name: torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"] for name in every}
    known = {name: dict.fromkeys(COLUMNS, "") | {"network": name} for name in every}
    if FILE.exists():
        known |= {row["network"]: row for row in csv.DictReader(FILE.open())}
    for library, column in (("ours", "left"), ("torch_pruning", "left by Torch-Pruning")):
        for name in names or sorted((name for name in every if not known[name][column]), key=sizes.get):
            known[name][column], left, parameters = run(name, library)
            if library == "ours":
                known[name] |= {"layers not pruned": left, "parameters": parameters}
            print(name, library, known[name][column], flush=True)
            with FILE.with_suffix(".draft").open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(known[name] for name in every if known[name]["left"])
            FILE.with_suffix(".draft").replace(FILE)
    for column in ("left", "left by Torch-Pruning"):
        print(column, sum(row[column].startswith("0.") for row in known.values()), "of", len(every))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
