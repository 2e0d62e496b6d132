"""A pruned network leaves PyTorch: the same logits from ONNX Runtime, and a smaller file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from deadunits.compaction import compact, parameter_count
from deadunits.data import digits
from deadunits.mean_replacement import observe
from deadunits.models import small_cnn
from deadunits.pruning import lowest
from toys import make_batch

LAYERS = ["conv1", "conv2", "fc1"]


def pruned_by_half(activation, batch_norm):
    """A small CNN in eval mode and the same without half of its units, means in their place; float32."""
    net = small_cnn((1, 20, 20), activation=activation, batch_norm=batch_norm, seed=3)
    batch = make_batch(64, (1, 20, 20), 10)
    batch = batch._replace(x=batch.x.float())
    with torch.no_grad():
        net.train()(batch.x)  # statistics of batch norm that are not the default
    seen = observe(net.eval(), batch, LAYERS)
    keep = {layer: lowest(units.mrs, 0.5) for layer, units in seen.items()}
    return net, compact(net, keep, h={layer: units.mean for layer, units in seen.items()})


def export(net, file):
    """One file with the weights in it, for any number of images."""
    x = torch.zeros(2, 1, 20, 20)  # not 1: the exporter would take it for a constant
    torch.onnx.export(
        net,
        (x,),
        file,
        dynamo=True,
        external_data=False,  # by default the weights go to a second file
        input_names=["x"],
        dynamic_shapes=({0: torch.export.Dim("images")},),
        verbose=False,
    )
    return file


def run(file, x, name="x"):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return session.run(None, {name or session.get_inputs()[0].name: x.numpy()})[0]


@pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "batch norm"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_onnx_runtime_gives_the_logits_of_the_compacted_network(activation, batch_norm, tmp_path):
    dense, small = pruned_by_half(activation, batch_norm)
    file = export(small, tmp_path / "small.onnx")
    onnx.checker.check_model(file, full_check=True)
    for images in (1, 32):
        x = make_batch(images, (1, 20, 20), 10, seed=7).x.float()
        with torch.no_grad():
            logits = small(x).numpy()
            assert np.abs(logits - dense(x).numpy()).max() > 1e-3  # the file is not the dense network's
        assert np.abs(run(file, x) - logits).max() < 1e-5
    assert [one.name for one in tmp_path.iterdir()] == ["small.onnx"]
    if activation == "relu":
        # the graph itself takes a few kB, whatever the widths
        assert file.stat().st_size < 0.6 * export(dense, tmp_path / "dense.onnx").stat().st_size


def test_the_librarys_page_takes_a_resnet18_from_load_to_onnx_in_15_lines(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", Path("book/library.md").read_text(), flags=re.S)
    (block,) = (code for code in blocks if '"resnet.onnx"' in code)
    assert len(block.strip().splitlines()) <= 15
    monkeypatch.chdir(tmp_path)
    names = {"batch": digits(probe_size=100).probe}
    exec(compile(block, "library.md", "exec"), names)
    small, x = names["small"], names["colour"].x[:5]
    logits = small(x).detach().numpy()
    assert np.abs(run(tmp_path / "resnet.onnx", x, None) - logits).max() < 1e-4 * np.abs(logits).max()
    assert parameter_count(small) < 0.3 * parameter_count(names["dense"])
