"""What a user may set: one typed model an experiment and one a chapter; nothing here imports torch.

The type, range and meaning of a setting are written once, as an annotated type that the models share. The
check of parameters cells, profiles, YAML files and the command line, their help and their errors are made
from the models. A number keeps its type: 100 and 100.0 are two settings, and two runs.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.machinery
import importlib.util
import itertools
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from annotated_types import Predicate
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from deadbook import datasets
from deadunits import Invalid


def setting(kind: Any, must: str, meaning: str, *checks: Any) -> Any:
    """The type of a setting. `must` completes the error "... must be"; `meaning` is its help, with units."""
    return Annotated[kind, *checks, Field(description=meaning, json_schema_extra={"must": must})]


def integer(low: int, high: int, meaning: str, note: str = "") -> Any:
    """The type of an integer from `low` to `high`."""
    return setting(int, f"an integer from {low:,} to {high:,}{note}", meaning, Field(ge=low, le=high))


def choice(meaning: str, *names: str) -> Any:
    """The type of a name among several."""
    return setting(Literal[names], f"one of {', '.join(names)}", meaning)


def distinct(kind: Any, what: str, meaning: str) -> Any:
    """The type of a list of different values."""
    return setting(list[kind], f"a list of different {what}", meaning, Predicate(_distinct))


def rising(kind: Any, what: str, meaning: str, least: int = 1) -> Any:
    """The type of a list of rising numbers."""
    empty = "" if least else ", or empty"
    return setting(list[kind], f"a rising list of {what}{empty}", meaning, Field(min_length=least), RISES)


def schedule(meaning: str) -> Any:
    """The type of a schedule of pruning."""
    must = "a list of [epoch, fraction], both rising, fractions from 0 to 1"
    return setting(list[list[Number]], must, meaning, Predicate(_is_schedule))


def units(meaning: str, least: int = 0) -> Any:
    """The type of a list of layers with one of their units each: [["conv1", 0]]."""
    must = "a list of [layer, unit]" + least * ", at least one"
    checks = Field(min_length=least), Predicate(_are_units)
    return setting(list[list[str | int]], must, meaning, *checks)


def _distinct(values: Sequence[Any]) -> bool:
    return len(values) > 0 and len(set(values)) == len(values) and "" not in values


def _rise(values: Sequence[float]) -> bool:
    return all(a < b for a, b in itertools.pairwise(values))


def _is_schedule(pairs: Sequence[Sequence[float]]) -> bool:
    """Pairs of an epoch and a fraction, both growing."""
    if not all(len(pair) == 2 and type(pair[0]) is int and pair[0] > 0 <= pair[1] <= 1 for pair in pairs):
        return False
    return all(a[0] < b[0] and a[1] <= b[1] for a, b in itertools.pairwise(pairs))


def _are_units(pairs: Sequence[Sequence[Any]]) -> bool:
    return all(len(p) == 2 and type(p[0]) is str and type(p[1]) is int and p[1] >= 0 for p in pairs)


def _importable(network: str) -> str:
    """Raise `Invalid` if the module of a reader's own network cannot be found; nothing is imported."""
    path = network.partition(":")[0]
    if network == "small_cnn" or path in sys.modules:
        return network
    top, *inner = itertools.accumulate(path.split("."), "{}.{}".format)
    spec = _spec(top)
    for name in inner:
        spec = spec and importlib.machinery.PathFinder.find_spec(name, spec.submodule_search_locations or [])
    if spec is None:
        raise Invalid(f"there is no module {path} here (PYTHONPATH, or the current folder)")
    return network


def _spec(module: str) -> importlib.machinery.ModuleSpec | None:
    """Where a module without a dot in its name comes from, without importing it."""
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None


def own_state(network: str, dataset: str) -> dict[str, str]:
    """Hashes of what a run uses of the reader's own: the source of the network's package, the pictures.

    They are part of a run's key, so that a run is computed again when either has changed.
    """
    states = {"network": _source_state(network), "images": datasets.state(dataset)}
    return {name: state for name, state in states.items() if state}


def _source_state(network: str) -> str:
    """A hash of the Python files of a network's package, or of its module; "": `small_cnn`, or no files."""
    spec = None if network == "small_cnn" else _spec(network.partition(":")[0].partition(".")[0])
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    files = [(file.relative_to(folder), file) for folder in folders for file in folder.rglob("*.py")]
    if spec and not folders and spec.origin and Path(spec.origin).is_file():
        files = [(Path(), Path(spec.origin))]
    state = hashlib.sha256()
    for name, file in sorted(files):
        state.update(repr((str(name), file.read_bytes())).encode())
    return state.hexdigest() if files else ""


RISES = Predicate(_rise)
FINITE = Predicate(lambda value: abs(value) <= sys.float_info.max)  # an integer may be too large for torch
Number = Annotated[int | Annotated[float, Field(allow_inf_nan=False)], FINITE]
Positive = Annotated[Number, Field(gt=0)]
Whole = Annotated[int, Field(ge=1, le=60_000)]
Text = Annotated[str, Field(min_length=1)]
FractionNumber = Annotated[Number, Field(ge=0, le=1)]
ActivationName = Literal["relu", "tanh", "own"]
SMALL_CNN = ("conv1", "conv2", "fc1", "fc2")  # its layers; the last one has a unit a class

Dataset = setting(
    str,
    f"one of {', '.join(datasets.TRAIN_SIZES)}, or the path of a folder with train/ and test/",
    "the images",
    Predicate(lambda name: name in datasets.TRAIN_SIZES or datasets.is_path(name)),
)
DataRoot = setting(str, "a path, or empty for the default", "folder of the data sets; empty: $DEADUNITS_DATA")
ImageSize = integer(0, 4096, "side of the images in pixels; 0: they are of one size", " (pixels)")
Network = setting(
    str,
    "small_cnn, or package.module:function of your own",
    "the network that is trained",
    Predicate(lambda name: name == "small_cnn" or name.count(":") == 1),
    AfterValidator(_importable),
)
Layers = distinct(Text, "names of layers, as texts: ['0', 'fc1']", "layers that are looked at")
AllLayers = distinct(Text, "names of layers, the last one too", "all layers")
THREE = "three integers from 1 to 60,000, for conv1, conv2 and fc1: [8, 16, 64]"
Widths = setting(list[Whole], THREE, "units of small_cnn", Field(min_length=3, max_length=3))
EMPTY_OR_THREE = Predicate(lambda widths: len(widths) in (0, 3))
Wider = setting(list[Whole], f"{THREE}; or empty", "units of a second small_cnn; empty: none", EMPTY_OR_THREE)
Activation = choice("nonlinearity; own: of a network that takes none", *get_args(ActivationName))
Activations = distinct(ActivationName, "names among relu, tanh, own", "nonlinearities, a training each")
BatchNorm = setting(bool, "true or false", "batch normalisation behind each nonlinearity of small_cnn")
Epochs = integer(1, 1000, "passes over the training images")
LearningRate = setting(Positive, "a number above 0, at most 10", "learning rate", Field(le=10))
BatchSize = integer(1, 60_000, "images in a minibatch")
MeasureEvery = integer(1, 1_000_000, "steps between two measurements")
ProbeSize = integer(1, 20_000, "images in each of the sets probe, other and train_probe")
Seed = integer(0, 2**31 - 1, "of the weights and of the order of the images")
Seeds = integer(1, 100, "how many seeds, from 0")
Fractions = distinct(FractionNumber, "numbers from 0 to 1", "of the weights or units to prune")
Fraction = setting(FractionNumber, "a number from 0 to 1", "of each layer's units to prune")
Draws = integer(1, 1000, "random choices to compare with")
Sizes = rising(Positive, "numbers above 0", "of a step away from the weights, in lengths of the direction")
Trials = integer(1, 1000, "minibatches at each measurement")
Rounds = integer(1, 1000, "of the measurement of time, after one to warm up")
Batches = distinct(Whole, "integers from 1 to 60,000", "images at once, to time the networks with")
Schedule = schedule("after which epoch which fraction is pruned; empty: nothing")
WeightSchedule = schedule("the same for the weights of the network to compare with")
By = choice("whether a fraction is of each layer or of the whole network", "layer", "network")
Of = choice("what is pruned", "weights", "units")
SCORERS = ("mrp", "mrs", "taylor", "taylor_squared", "mean_activation", "norm_l1", "norm_l2")
Scorer = choice("by which units are pruned, the lowest first", *SCORERS)
Attacked = units("units to attack", least=1)
Timed = units("units attacked at several times, or with a control", least=1)
Layer = setting(str, "the name of a layer, as a text; empty: no attack", "layer of the attacked unit")
Units = integer(1, 1_000_000, "how many units of the layer are attacked, from 0 on")
Start = integer(1, 100_000_000, "step of the first attack")
Starts = rising(Annotated[int, Field(ge=1)], "integers from 1", "steps of the first attack, a run each")
Interval = integer(1, 1_000_000, "steps from one attack to the next")
Repeats = integer(0, 1_000_000, "attacks; 0: none")
Multiplier = setting(Number, "a finite number", "of the learning rate, for the attacked unit")
Pixels = choice("which CIFAR-10 the images must be: its own, or others (re-coded)", "official", "folder")
Around = setting(
    list[list[int]],
    "a list of [first step, last step], at least 0 and rising, or empty",
    "when all units are measured every 10 steps, into tables of their own",
    Predicate(
        lambda windows: all(len(it) == 2 for it in windows) and _rise([-1, *itertools.chain(*windows)])
    ),
)
Snapshots = setting(
    bool, "true or false", "whether all weights are kept at step 50, after epoch 1 and at the end"
)
BELOW = "dead, frozen: below this share of the layer's mean"
Below = setting(FractionNumber, "a number from 0, below 1", BELOW, Field(lt=1))
Chapters = distinct(Text, "names of chapters", "whose runs are read")
OPEN_QUESTIONS = tuple(f"O{number}" for number in range(1, 12))
Questions = distinct(
    Literal[OPEN_QUESTIONS], f"names among {', '.join(OPEN_QUESTIONS)}", "open questions that are run"
)
Earlier = rising(Whole, "integers from 1", "epochs after which weights are removed, besides the last", 0)
SeedList = distinct(Seed, "integers from 0", "seeds of the experiments of this chapter")
Profile = setting(Text, "the name of a profile", "where parameters come from")
Own = setting(dict[str, Any], "parameters by name: {dataset: mnist}", "parameters instead of the profile's")
Results = setting(Text, "the path of a folder", "folder for new runs")
Processes = integer(0, 256, "runs at once", " (0: one a core)")


EXPERIMENTS: dict[str, type[Settings]] = {}  #: the settings of each, by its name
CHAPTERS: dict[str, type[Settings]] = {}  #: the parameters of each, by the name of its notebook


class Settings(BaseModel):
    """Values by name; each has its type and range, and together they fit."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, validate_default=True)
    #: Settings younger than the first committed runs: at its default, one is left out of a run's key.
    added_later: ClassVar[frozenset[str]] = frozenset()
    noun: ClassVar[str] = "parameter"  #: what errors call a name

    def __init_subclass__(cls, name: str = "", **more: Any) -> None:
        super().__init_subclass__(**more)
        if name:  # of an experiment or of a chapter
            (CHAPTERS if name[0].isdigit() else EXPERIMENTS)[name] = cls

    @model_validator(mode="after")
    def _check_fit(self) -> Settings:
        if misfits := list(_misfits(vars(self))):
            raise Invalid("\n".join(misfits))
        return self


class Experiment(Settings):
    """What all experiments have."""

    dataset: Dataset
    image_size: ImageSize
    network: Network
    activation: Activation
    probe_size: ProbeSize
    seed: Seed
    pixels: Pixels = "folder"
    added_later = frozenset({"pixels", "around", "snapshots", "after"})


class Training(Experiment):
    """An experiment that trains its network."""

    epochs: Epochs
    lr: LearningRate
    batch_size: BatchSize


class Measured(Training):
    """An experiment that measures while it trains."""

    measure_every: MeasureEvery


class Background(Measured, name="background"):
    """Of chapter 1."""

    sizes: Sizes
    trials: Trials


class Saliency(Measured, name="saliency"):
    """Of chapter 2.1."""

    layers: Layers
    fractions: Fractions
    draws: Draws


class Costs(Experiment, name="costs"):
    """Of chapter 2.1."""

    layers: Layers
    rounds: Rounds


class WeightPruning(Measured, name="weight_pruning"):
    """Of chapters 2.2 and 4.2."""

    layers: Layers
    schedule: Schedule
    by: By


class Explorer(Training, name="explorer"):
    """Of chapters 2.2 and 4.2."""

    layers: Layers
    fractions: Fractions
    of: Of


class Checkpoint(Training, name="checkpoint"):
    """Of chapters 2.1, 2.2, 4.1 and 4.2."""

    widths: Widths


class Attacks(Measured, name="attacks"):
    """Of chapters 3.2 to 3.4."""

    layers: Layers
    batch_norm: BatchNorm
    layer: Layer
    unit: integer(0, 1_000_000, "index of the attacked unit in its layer")
    start: Start
    interval: Interval
    repeats: Repeats
    multiplier: Multiplier
    control: setting(bool, "true or false", "whether it is the attack's control")
    watch: units("units whose values are kept")
    around: Around = []
    snapshots: Snapshots = False


class UnitSaliency(Measured, name="units"):
    """Of chapter 4.1."""

    layers: Layers
    widths: Widths
    fractions: Fractions
    draws: Draws
    snapshots: Snapshots = False


class UnitPruning(Measured, name="unit_pruning"):
    """Of chapter 4.2."""

    layers: Layers
    schedule: Schedule
    scorer: Scorer
    by: By


class Rescoring(Training, name="rescoring"):
    """Of open question 1."""

    layers: Layers
    ends: rising(Whole, "integers from 1", "epochs after which it is done")


class Grouping(Measured, name="grouping"):
    """Of open question 4."""

    layers: Layers
    fractions: Fractions


class Averaging(Measured, name="averaging"):
    """Of open question 5."""

    layers: Layers
    images: distinct(Whole, "integers from 1 to 60,000", "images trained on to score with")


class Rescaling(Training, name="rescaling"):
    """Of open question 8."""

    layer: Layer
    start: Start
    interval: Interval
    repeats: Repeats
    multiplier: Multiplier
    after: integer(1, 1_000_000, "steps from the first attack to the end") = 400


class Revival(Measured, name="revival"):
    """Of open question 11."""

    layers: Layers
    epoch: integer(1, 1000, "after which dead units are looked for")
    below: Below


class UnitCosts(Experiment, name="unit_costs"):
    """Of chapter 4.2."""

    layers: Layers
    fraction: Fraction
    batches: Batches
    rounds: Rounds


class Chapter(Settings):
    """The parameters of a chapter that trains; the defaults are those of its notebook."""

    dataset: Dataset = "digits"
    data_root: DataRoot = ""
    image_size: ImageSize = 0
    network: Network = "small_cnn"
    epochs: Epochs
    lr: LearningRate = 0.1
    batch_size: BatchSize = 32
    measure_every: MeasureEvery
    probe_size: ProbeSize = 100
    seeds: Seeds = 1
    results: Results = "results"
    processes: Processes = 0


class BackgroundChapter(Chapter, name="01-background"):
    """1."""

    activation: Activation = "relu"
    epochs: Epochs = 3
    measure_every: MeasureEvery = 100
    sizes: Sizes = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0]
    trials: Trials = 5


class SaliencyChapter(Chapter, name="02-1-saliency"):
    """2.1."""

    layers: Layers = ["conv1"]
    activations: Activations = ["relu", "tanh"]
    epochs: Epochs = 5
    measure_every: MeasureEvery = 33
    fractions: Fractions = [0.01, 0.05, 0.8]
    draws: Draws = 2
    rounds: Rounds = 1


class WeightPruningChapter(Chapter, name="02-2-weight-pruning"):
    """2.2."""

    layers: Layers = ["conv1", "conv2", "fc1", "fc2"]
    activation: Activation = "relu"
    epochs: Epochs = 7
    measure_every: MeasureEvery = 11
    schedule: Schedule = [[2, 0.2], [3, 0.5], [4, 0.8], [5, 0.9]]
    fractions: Fractions = [0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95]


class DeadUnitsChapter(Settings, name="03-1-dead-units"):
    """3.1."""

    points: integer(10, 1_000_000, "in the plane, in two groups") = 400
    noise: setting(FractionNumber, "a number from 0 to 1", "share of wrong labels") = 0.1
    below: Below = 0.05
    epochs: Epochs = 40
    lr: LearningRate = 0.1
    batch_size: BatchSize = 20
    seed: Seed = 0
    results: Results = "results"


class AttackChapter(Chapter):
    """What chapters 3.2 to 3.4 have."""

    layers: Layers = ["conv1", "conv2", "fc1"]
    activation: Activation = "relu"
    batch_norm: BatchNorm = False
    epochs: Epochs = 3
    measure_every: MeasureEvery = 12
    timed: Timed
    start: Start = 40
    interval: Interval = 2
    repeats: Repeats = 10
    multiplier: Multiplier


class BatchNormChapter(AttackChapter, name="03-2-batch-norm"):
    """3.2."""

    batch_norm: BatchNorm = True
    measure_every: MeasureEvery = 14
    attacked: Attacked = [["conv1", 0], ["conv1", 4], ["conv1", 2]]
    start: Start = 10
    multiplier: Multiplier = 100
    timed: Timed = [["conv1", 0], ["conv2", 0]]
    starts: Starts = [20, 90]
    multipliers: rising(Number, "numbers", "several multipliers, a run each") = [10, 100]
    slow_interval: integer(1, 1_000_000, "the same for the attacks with several multipliers") = 5


class TanhChapter(AttackChapter, name="03-3-tanh"):
    """3.3."""

    activation: Activation = "tanh"
    attacked: Attacked = [["conv1", 0], ["conv1", 1], ["conv1", 2], ["conv1", 3]]
    multiplier: Multiplier = 1000
    timed: Timed = [["conv1", 0], ["fc1", 16]]
    starts: Starts = [10, 90]


class ReluChapter(AttackChapter, name="03-4-relu"):
    """3.4."""

    layer: Layer = "conv2"
    units: Units = 6
    timed: Timed = [["conv2", 0], ["conv2", 4]]
    multiplier: Multiplier = 10
    milder: rising(Number, "numbers", "smaller multipliers, on the same units", least=0) = [3]
    milder_seeds: integer(1, 100, "how many seeds with the milder multipliers") = 1


class DetectingChapter(Settings, name="03-5-detecting"):
    """3.5."""

    chapters: Chapters = ["03-2-batch-norm", "03-3-tanh", "03-4-relu"]
    profile: Profile = "quick"
    own: Own = {}
    data_root: DataRoot = ""
    results: Results = "results"
    processes: Processes = 0


class QuestionsChapter(Settings, name="05-open-questions"):
    """5."""

    questions: Questions = [name for name in OPEN_QUESTIONS if name != "O9"]
    profile: Profile = "quick"
    own: Own = {}
    earlier: Earlier = []
    seed_list: SeedList = [0]
    data_root: DataRoot = ""
    results: Results = "results"
    processes: Processes = 0


class UnitsChapter(Chapter, name="04-1-units"):
    """4.1."""

    widths: Widths = [8, 16, 64]
    wider: Wider = []
    layers: Layers = ["conv1", "conv2", "fc1"]
    activations: Activations = ["relu", "tanh"]
    epochs: Epochs = 5
    measure_every: MeasureEvery = 33
    fractions: Fractions = [0.1, 0.2, 0.4, 0.5, 0.6, 0.8]
    draws: Draws = 3
    wider_seeds: integer(1, 100, "how many seeds with the second widths") = 1


class UnitPruningChapter(Chapter, name="04-2-unit-pruning"):
    """4.2."""

    layers: Layers = ["conv1", "conv2", "fc1"]
    all_layers: AllLayers = ["conv1", "conv2", "fc1", "fc2"]
    activation: Activation = "relu"
    epochs: Epochs = 7
    measure_every: MeasureEvery = 11
    schedule: Schedule = [[2, 0.1], [3, 0.2], [4, 0.4], [5, 0.6]]
    weight_schedule: WeightSchedule = [[2, 0.2], [3, 0.5], [4, 0.8], [5, 0.9]]
    scorer: Scorer = "mrs"
    by: By = "layer"
    batches: Batches = [1, 32]
    rounds: Rounds = 3
    fractions: Fractions = [0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95]


class Command(Settings):
    """What the command line says of all runs."""

    processes: Processes = 0
    seeds: Seeds = 1


def experiment(name: str) -> type[Settings]:
    """The settings of an experiment; raise `Invalid` if there is none of that name."""
    return _known("experiment", name, EXPERIMENTS)


def chapter(name: str) -> type[Settings]:
    """The parameters of a chapter; raise `Invalid` if there is none of that name."""
    return _known("chapter", name, CHAPTERS)


def _known(kind: str, name: str, models: Mapping[str, type[Settings]]) -> type[Settings]:
    if name not in models:
        raise Invalid(unknown(kind, name, list(models)))
    return models[name]


def check(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """The values as settings.

    Raises:
        Invalid: a line for each wrong value, with its name, the value and what it must be; for names that
            are unknown or missing; and for values that do not fit together.
    """
    try:
        return kind(**{str(name): value for name, value in values.items()})
    except ValidationError as error:
        raise Invalid("\n".join(dict.fromkeys(_lines(kind, values, error)))) from None


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """What to say of a name that is not among the known ones."""
    near = difflib.get_close_matches(name, known, n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    return f"unknown {kind} {name!r}{meant}; there are: {', '.join(known)}"


def described(name: str) -> str:
    """Help on an experiment or a chapter: a line a setting, with its default, meaning and what it must be."""
    fields = (CHAPTERS.get(name) or experiment(name)).model_fields
    shown = {name: "required" if it.is_required() else repr(it.default) for name, it in fields.items()}
    lines = (f"{name} ({shown[name]}): {it.description}. Must be {_must(it)}." for name, it in fields.items())
    return "\n".join(lines)


def _must(field: FieldInfo) -> str:
    return field.json_schema_extra["must"]


def shared(experiment: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a chapter that are settings of an experiment."""
    return {name: parameters[name] for name in EXPERIMENTS[experiment].model_fields if name in parameters}


def keyed(experiment: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run's key is made of: without those added later that have their default."""
    kind = EXPERIMENTS.get(experiment, Settings)
    fields = {name: kind.model_fields[name] for name in kind.added_later & kind.model_fields.keys()}
    later = {name: json.dumps(field.default) for name, field in fields.items()}
    return {name: value for name, value in values.items() if json.dumps(value) != later.get(name)}


def training_steps(values: Mapping[str, Any]) -> int | None:
    """Steps of the training that these settings speak of, if they do."""
    names = ("dataset", "probe_size", "batch_size", "epochs")
    if not all(name in values for name in names):
        return None
    dataset, probe_size, batch_size, epochs = (values[name] for name in names)
    return epochs * math.ceil((datasets.train_size(dataset) - 2 * probe_size) / batch_size)


def _lines(kind: type[Settings], values: Mapping[str, Any], error: ValidationError) -> Iterator[str]:
    """The lines of `check`, the missing names in one."""
    problems = error.errors()
    for problem in problems:
        name = str(problem["loc"][0]) if problem["loc"] else ""
        said = problem.get("ctx", {}).get("error")
        if problem["type"] == "extra_forbidden":
            yield unknown(kind.noun, name, list(kind.model_fields))
        elif not name:
            yield str(said)
        elif problem["type"] != "missing":
            right = f": {said}" if isinstance(said, Invalid) else f" must be {_must(kind.model_fields[name])}"
            yield f"{name} = {_short(values[name])}{right}"
    if missing := [problem["loc"][0] for problem in problems if problem["type"] == "missing"]:
        yield f"missing: {', '.join(missing)}"


def _short(value: Any) -> str:
    """As Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:100]} ... ({len(text):,} characters)"


def _misfits(values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with values that are right one by one; each as far as the values are there."""
    if "dataset" in values:
        # Files are looked at later, by whoever needs them: a chapter rendered from results does not.
        try:
            datasets.check_size(values["dataset"], values["probe_size"])
        except Invalid as error:
            yield str(error)
            return
    if "layers" in values:
        yield from _unknown_units(values)
    steps, epochs = training_steps(values), values.get("epochs")
    every = values.get("measure_every", 0)
    if steps is not None and every > steps:
        yield (
            f"measure_every = {every}: the training takes {steps} steps only ({epochs} epochs of "
            f"{values['dataset']} in minibatches of {values['batch_size']}), so nothing would be measured"
        )
    for name in ("schedule", "weight_schedule"):
        late = [epoch for epoch, _ in values.get(name, ()) if epoch > epochs]
        if late:
            yield f"{name} prunes after epoch {late[0]}, but there are only epochs = {epochs}"
    repeats = values.get("repeats", 0)
    attacks = [(start, "interval") for start in (values.get("start"), *values.get("starts", ())) if repeats]
    attacks += [(values["start"], "slow_interval")] if "slow_interval" in values and repeats else []
    for start, name in attacks:
        last = start + (repeats - 1) * values[name]
        if steps is not None and last > steps:
            yield (
                f"start = {start}, {name} = {values[name]}, repeats = {repeats}: "
                f"the last attack would be at step {last:,}, the training takes {steps:,} (epochs = "
                f"{epochs}, batch_size = {values['batch_size']}, probe_size = {values['probe_size']})"
            )


def _unknown_units(values: Mapping[str, Any]) -> Iterator[str]:
    """The first layer or unit that `small_cnn` does not have; of any network, of a layer not looked at."""
    count: dict[str, float] = {}
    if values["network"] == "small_cnn":
        count = dict(zip(SMALL_CNN, [*values.get("widths", (8, 16, 64)), math.inf], strict=True))
    layers = [(name, layer) for name in ("layers", "all_layers") for layer in values.get(name, ())]
    for name, layer in layers:
        if count and layer not in count:
            yield f"{name}: small_cnn has no layer {layer!r}; it has {', '.join(SMALL_CNN)}"
            return
    units = [(name, *pair) for name in ("watch", "attacked", "timed") for pair in values.get(name, ())]
    if values.get("layer"):
        units.append(("unit", values["layer"], values.get("unit", values.get("units", 1) - 1)))
    for name, layer, unit in units:
        if layer not in values["layers"]:
            yield f"{name}: {layer!r} must be one of layers = {values['layers']}"
            return
        if unit >= count.get(layer, math.inf):
            yield f"{name}: {layer} has units 0 to {count[layer] - 1}, not {unit}"
            return
