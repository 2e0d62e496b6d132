"""Networks in float64 for the library's tests: each with what is to come out of it, and random chains."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from toys import make_batch, make_net


class Block(nn.Module):
    """Residual, with a function in place of a module, pooling, and a concatenation."""

    def __init__(self, pad="zeros"):
        super().__init__()
        self.a = nn.Conv2d(4, 4, 3, padding=1, bias=False, padding_mode=pad)
        self.norm = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 4, 3, padding="same")
        self.side = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        h = F.relu(self.norm(self.a(x)))
        h = self.b(h)
        h += x
        return torch.cat([F.max_pool2d(h, 2).relu(), F.avg_pool2d(self.side(x), 2)], 1)


class Gated(nn.Module):
    """Channels times what is computed from all of them, between depthwise and grouped convolutions."""

    def __init__(self):
        super().__init__()
        self.expand, self.depth = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pool, self.down, self.up = nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 3, 1), nn.Conv2d(3, 8, 1)
        self.norm, self.act = nn.GroupNorm(2, 8), nn.Hardswish(inplace=True)
        self.group, self.project = nn.Conv2d(8, 4, 3, groups=2), nn.Conv2d(4, 6, 1)

    def forward(self, x):
        h = self.act(self.depth(self.act(self.expand(x))))
        h = h * torch.sigmoid(self.up(F.relu6(3 + self.down(self.pool(h)))))
        return self.project(self.group(self.norm(h)).relu_()).mean((2, 3))


class Tokens(nn.Module):
    """A small vision transformer: tokens, a class token, attention, an MLP."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(1, 6, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, 6))
        self.norm, self.attention = nn.LayerNorm(6), nn.MultiheadAttention(6, 2, batch_first=True)
        self.up, self.down, self.head = nn.Linear(6, 9), nn.Linear(9, 6), nn.Linear(6, 3)

    def forward(self, x):
        n = x.shape[0]
        h = self.patch(x).reshape(n, 6, -1).permute(0, 2, 1)
        h = torch.cat([self.token.expand(n, -1, -1), h], 1)
        h = h + self.attention(self.norm(h), h, h, need_weights=False)[0]
        h = h + self.down(F.gelu(self.up(h)))
        return self.head(h[:, 0])


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5), nn.Conv2d(5, 3, 3, 1, 1)

    def forward(self, x):
        return self.b(torch.tanh(self.norm(self.a(x))))


#: name -> network, shape of an image, how some of its layers are scored
NETWORKS = {
    "residual": lambda: (
        make_net(nn.Conv2d(1, 4, 3), Block(), nn.ReLU6(), nn.Flatten(), nn.Linear(6 * 25, 3)),
        (1, 12, 12),
        {"0": "fast", "1.a": "fast", "1.b": "fast", "1.side": "fast", "4": "fast"},
    ),
    "circular padding": lambda: (
        make_net(nn.Conv2d(1, 4, 3), Block("circular"), nn.Flatten(), nn.Linear(6 * 25, 3)),
        (1, 12, 12),
        {"0": "fast", "1.a": "fast", "1.b": "fast"},
    ),
    "squeeze and excite": lambda: (
        make_net(nn.Conv2d(1, 6, 3), nn.SiLU(), Gated(), nn.Linear(6, 3)),
        (1, 8, 8),
        {"0": "fast", "2.expand": "fast", "2.depth": "fast", "2.up": "partly", "2.group": "fast"},
    ),
    "images of two pixels": lambda: (
        make_net(nn.Conv2d(1, 4, 4, 4), Small(), nn.Flatten(), nn.Linear(12, 3)),
        (1, 8, 8),
        {"0": "fast", "1.a": "fast", "1.b": "fast"},
    ),
    "tokens": lambda: (
        make_net(Tokens()),
        (1, 8, 8),
        {"0.patch": "partly", "0.up": "fast", "0.down": "partly", "0.head": "fast"},
    ),
}


def case(*layers, shape, at=("0",)):
    """A case: a chain, whose last layer is linear; `at`: the layers that are scored."""
    flow = torch.zeros(2, *shape)
    net = nn.Sequential(*layers, nn.Flatten())
    width = net.eval()(flow).shape[1]
    return lambda: (make_net(*layers, nn.Flatten(), nn.Linear(width, 3)), shape, dict.fromkeys(at, "fast"))


def cases():
    tanh, conv, image = nn.Tanh(), nn.Conv2d, (1, 12, 12)
    return {
        "two convolutions": case(
            *(conv(1, 3, 3), nn.MaxPool2d(2), nn.ReLU(), conv(3, 4, 3), nn.MaxPool2d(3, 1), nn.ReLU()),
            shape=image,
            at=("0", "3"),
        ),
        "three convolutions, in place": case(
            *(conv(1, 3, 3), nn.ELU(True), nn.Sequential(conv(3, 2, 3), nn.ReLU(True)), conv(2, 2, 3)),
            shape=image,
            at=("0", "2.0", "3"),
        ),
        "batch norm, padding, stride, dilation": case(
            *(conv(2, 3, (3, 2), padding=(1, 2), stride=2), nn.BatchNorm2d(3, affine=False), nn.Tanh()),
            *(conv(3, 4, (2, 3), padding=1, stride=(1, 2), dilation=(2, 1)), nn.BatchNorm2d(4)),
            shape=(2, 11, 9),
            at=("0", "3"),
        ),
        "pools": case(
            *(conv(1, 3, 3), nn.MaxPool2d(2, padding=1), nn.AvgPool2d(2), tanh, nn.Flatten()),
            *(nn.BatchNorm1d(27), nn.Linear(27, 5), tanh),
            shape=image,
            at=("0", "6", "9"),
        ),
        "linear": case(
            *(nn.ELU(True), nn.Linear(7, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(), nn.Linear(6, 4)),
            shape=(7,),
            at=("1", "5", "7"),
        ),
    }


with torch.random.fork_rng():
    NETWORKS |= cases()


class Wide(nn.Module):
    """Two linear maps beside the way of the images, so that a unit's change has two ways out."""

    def __init__(self, inputs, units, classes):
        super().__init__()
        self.first, self.second = nn.Linear(inputs, units), nn.Linear(units, inputs)
        self.last = nn.Linear(inputs, classes)

    def forward(self, x):
        return self.last((x + self.second(self.first(x).relu())).tanh())


class Residual(nn.Module):
    """Two streams added, concatenated with a third, a depthwise convolution: all without zero padding."""

    def __init__(self, padding=0, mode="zeros"):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 5, 3, padding=1, padding_mode="circular", bias=False)
        self.back = nn.Conv2d(5, 6, 1)
        self.depthwise = nn.Conv2d(6, 6, 2, groups=6)
        self.side = nn.Conv2d(6, 3, 2)
        self.both = nn.Conv2d(9, 4, 3, 2, padding, padding_mode=mode, bias=False)
        self.head = nn.Linear(4 * (16 if padding else 9), 7)
        self.out = nn.Linear(7, 3)

    def forward(self, x):
        x = F.relu_(self.bn(self.stem(x)))
        x = F.relu(x + self.back(torch.tanh(self.inner(x))))
        x = torch.cat([torch.tanh(self.depthwise(x)), self.side(x)], 1)
        x = F.max_pool2d(F.relu(self.both(x)), 1).flatten(1)
        return self.out(torch.sigmoid(self.head(x)))


def residual(**options):
    with torch.random.fork_rng():
        net = Residual(**options)
    make_net(net)  # its parameters and statistics
    return net.double().eval()


# What enters each layer: the layer whose outputs it takes, in order, of which `prune` says what is kept.
RESIDUAL = {
    "inner": ["stem"],
    "back": ["inner"],
    "side": ["stem"],
    "both": ["depthwise", "side"],
    "head": ["both"],
    "out": ["head"],
}


# Of all kinds, without padding, so that replaced by means and smaller must be the same.


class Attention(nn.Module):
    """A block of a transformer, and what is behind it."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(2, 6, 2, 2)
        self.place = nn.Parameter(torch.zeros(1, 9, 6))
        self.block = nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=True)
        self.fc = nn.Linear(6, 5)
        self.out = nn.Linear(5, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.place
        return self.out(self.fc(self.block(x)).relu().mean(1))


class Squeeze(nn.Module):
    """A depthwise convolution with multiplier, squeeze and excitation, a scale for each channel."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3)
        self.depthwise = nn.Conv2d(6, 12, 2, groups=6)
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.scale = nn.Parameter(torch.zeros(12, 1, 1))
        self.out = nn.Linear(12, 3)

    def forward(self, x):
        x = self.depthwise(F.gelu(self.stem(x)))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        return self.out((x * gate * self.scale).mean([2, 3]))


class Shuffle(nn.Module):
    """Channels are cut in two, and mixed; those in the branch can go."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner = nn.Conv2d(2, 8, 1), nn.Conv2d(4, 6, 1)
        self.back, self.out = nn.Conv2d(6, 4, 1), nn.Linear(8, 3)

    def forward(self, x):
        left, right = self.stem(x).chunk(2, 1)
        x = torch.cat([left, self.back(self.inner(right).relu())], 1)
        x = x.view(len(x), 2, 4, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
        return self.out(x.mean((2, 3)))


def grouped():
    return make_net(
        *(nn.Conv2d(2, 12, 1), nn.GroupNorm(6, 12), nn.ReLU(), nn.Conv2d(12, 6, 2, groups=3), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(150, 3)),
    )


def signal():
    return make_net(
        *(nn.Flatten(2), nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.PReLU(6), nn.ConvTranspose1d(6, 4, 1)),
        *(nn.SiLU(), nn.InstanceNorm1d(4, affine=True), nn.Flatten(), nn.Linear(136, 3)),
    )


def finished(net):
    make_net(net)
    return net.double().eval()


KINDS = {
    "grouped": (grouped, {"0": 8, "3": 4}, {"6": ["3"]}, []),
    "signal": (signal, {"1": 3, "4": 2}, {"4": ["1"], "8": ["4"]}, []),
    "squeeze": (
        lambda: finished(Squeeze()),
        {"stem": 3, "depthwise": 6, "squeeze": 2, "excite": 6},
        {"squeeze": ["depthwise"], "excite": ["squeeze"], "out": ["depthwise"]},
        [],
    ),
    "shuffle": (lambda: finished(Shuffle()), {"inner": 3}, {"back": ["inner"]}, ["stem", "back"]),
    "attention": (
        lambda: finished(Attention()),
        {"block.linear1": 4, "fc": 3},
        {"block.linear2": ["block.linear1"], "out": ["fc"]},
        ["patches", "block.linear2", "block.self_attn.out_proj"],
    ),
}


CHANNELWISE = {
    "relu": nn.ReLU,
    "relu in place": lambda: nn.ReLU(inplace=True),
    "elu in place": lambda: nn.ELU(inplace=True),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "dropout": nn.Dropout,
    "identity": nn.Identity,
}
POOLS = {
    "max": lambda: nn.MaxPool2d(2),
    "max, overlapping, padded": lambda: nn.MaxPool2d(3, 2, 1),
    "avg": lambda: nn.AvgPool2d(2),
    "avg, ceil": lambda: nn.AvgPool2d(2, ceil_mode=True),
    "avg, padding not counted": lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "adaptive": lambda: nn.AdaptiveAvgPool2d(3),
}


@st.composite
def chains(draw):
    """A chain and images: up to two convolutions, up to three linear layers, all kinds of layers between."""
    n = draw(st.integers(0, 2))
    convolutions = [
        (draw(st.integers(1, 3)), draw(st.sampled_from([(1, 1), (2, 3), (3, 2)])), draw(st.integers(1, 2)))
        for _ in range(n)
    ]
    widths = draw(st.lists(st.integers(1, 4), min_size=1 if n else 2, max_size=3))
    x = make_batch(3, (2, 13, 13) if n else (4,), 2, seed=draw(st.integers(0, 99))).x
    layers: list[nn.Module] = []

    def add(layer: nn.Module) -> None:
        layers.append(layer)
        with torch.no_grad():  # shapes by running it
            flow.append(layer.double().eval()(flow[-1].clone()))

    def between(image: bool) -> None:
        batch_norm = nn.BatchNorm2d if image else nn.BatchNorm1d
        kinds = [*CHANNELWISE, "norm", "plain norm", *(POOLS if image and flow[-1].shape[-1] > 3 else ())]
        for kind in draw(st.lists(st.sampled_from(kinds), max_size=3)):
            if kind in POOLS and flow[-1].shape[-1] <= 3:
                continue
            if "norm" in kind:
                add(batch_norm(flow[-1].shape[1], affine=kind == "norm"))
            else:
                add((CHANNELWISE | POOLS)[kind]())

    with torch.random.fork_rng():
        flow = [x]
        for units, size, stride in convolutions:
            if min(flow[-1].shape[-2:]) >= 3:
                add(nn.Conv2d(flow[-1].shape[1], units, size, stride, bias=draw(st.booleans())))
                between(image=True)
        if n:
            add(nn.Flatten())
        for units in widths:
            between(image=False)  # behind a Flatten: batch norm of each position
            add(nn.Linear(flow[-1].shape[1], units, bias=draw(st.booleans())))
        return make_net(*layers, seed=draw(st.integers(0, 99))), x
