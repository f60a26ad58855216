"""The `reproduce` commands: the experiments of the BitQ paper, with simulated costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bfpsim.commands.arguments import ArchName, Csv, Json, Out, UsageError, one_of
from bfpsim.commands.emit import Report, emit
from bfpsim.commands.progress import progress_bar
from bfpsim.commands.searching import (
    Trained,
    find_losses,
    run_search,
    searched_network,
    stages_in,
    trained_model,
    training_images,
    tuned,
)
from bfpsim.commands.trained import (
    Count,
    Crop,
    DataName,
    Grey,
    LabelsFile,
    NormaliseName,
    Preparation,
    Resize,
    WeightsFile,
    file_stem,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas as pd

    from bfpsim.quant.study.datasets import Dataset
    from bfpsim.quant.torch.model import Chosen
    from bfpsim.search.bitwidth.search import Proposal, SearchResult

reproduce_app = typer.Typer(
    help="The experiments of the BitQ paper: accuracy (Table 3), energy (Fig. 5), alpha (Fig. 6), "
    "ablation (Table 4).",
    no_args_is_help=True,
)

TrainedName = Annotated[
    str,
    typer.Argument(
        metavar="NETWORK",
        help="A shipped trained network (resnet18-fashion, ...), a .safetensors file of the "
        "training script, or package.module:function or file.py:function with --data.",
    ),
]
Bits = Annotated[
    list[int] | None, typer.Option("--bits", help="16 or 8; may be given twice (default: both).")
]
Work = Annotated[
    Path,
    typer.Option(help="Folder of sensitivity tables and finished stages, to go on from."),
]
_ALPHA = 0.2
"""The paper's, at which its tables are made."""
Alpha = Annotated[float, typer.Option(min=0, help="Weight of movement in Eq. 1.")]
Steps = Annotated[
    int | None, typer.Option("--qat", min=1, help="Train each choice for so many steps too.")
]
Train = Annotated[str | None, typer.Option(help="Images to train on, as --data takes them.")]
TrainLabels = Annotated[
    str | None, typer.Option(help="IDX file of labels for --train.", metavar="FILE")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes (default: one per core).")]


@dataclass(frozen=True)
class _Given:
    """What the three commands on a trained network share."""

    network: str
    arch: str
    bits: tuple[int, ...]
    alpha: float
    work: Path
    weights: Path | None
    data: str
    labels: str | None
    how: Preparation
    count: int | None
    workers: int | None
    training: Dataset | None
    steps: int | None


@reproduce_app.command("energy")
def energy(
    networks: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NETWORK]...", help="Default: the paper's ten, an hour."),
    ] = None,
    arch: ArchName = "edge-64k",
    bitq16: Annotated[str, typer.Option(help="Format that stands for BitQ at 16 bits.")] = "bfp16",
    bitq8: Annotated[str, typer.Option(help="Format that stands for BitQ at 8 bits.")] = "bfp8",
    as_json: Json = False,
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Fig. 5: energy in each format relative to the float32 original, and geometric means.

    Networks without trained weights have no accuracy to search by, so BitQ is one format for all
    their tensors here; `search` says what it chooses where there are weights.
    """
    one_of(as_json, as_csv, out)
    from bfpsim.arch import load_arch
    from bfpsim.quant.formats import LayerFormats, parse_format
    from bfpsim.reports import reproduction as show
    from bfpsim.search.bitwidth.experiments import (
        ORIGINAL,
        STORED_AS,
        TASKS,
        energies,
        geometric_means,
    )
    from bfpsim.workloads import load_workload

    spec = load_arch(arch)
    names = networks or [name for group in TASKS.values() for name in group]
    nets = [load_workload(name) for name in names]
    titles = [net.name for net in nets]
    if again := next((title for title in titles if titles.count(title) > 1), None):
        raise UsageError(f"network {again!r} is given twice; allowed: different names")
    formats = {name: own for name, own in STORED_AS.items() if name != ORIGINAL}
    formats |= {
        f"bitq{bits} ({text})": LayerFormats.uniform(parse_format(text))
        for bits, text in ((16, bitq16), (8, bitq8))
    }
    with progress_bar("simulating", len(nets) * (len(formats) + 1)) as done:
        frame = energies(nets, spec, formats, done)
    groups = {task: own for task, own in TASKS.items() if any(net.name in own for net in nets)}
    if not groups:
        groups["all"] = tuple(net.name for net in nets)
    means = geometric_means(frame, groups)
    title = f"Energy of data movement on {spec.name}"
    summary: dict[str, Any] = {"arch": spec.name, "networks": [net.name for net in nets]}
    summary |= show.summary_means(means, list(formats))
    figures = {"energy": lambda path: show.plot_energies(frame, means, title, path)}
    frames = {"energy": frame, "means": means}
    emit(
        Report(show.energy_table(frame, means), frames, summary, (), figures), as_json, as_csv, out
    )


@reproduce_app.command("alpha")
def alpha(
    network: TrainedName,
    work: Work,
    arch: ArchName = "edge-64k",
    bits: Bits = None,
    weights: WeightsFile = None,
    data: DataName = "shipped",
    labels: LabelsFile = None,
    normalise: NormaliseName = "fashion-mnist",
    resize: Resize = None,
    crop: Crop = None,
    grey: Grey = False,
    count: Count = None,
    workers: Workers = None,
    as_json: Json = False,
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Fig. 6: what each alpha chooses, its accuracy and its energy."""
    one_of(as_json, as_csv, out)
    from bfpsim.reports import reproduction as show
    from bfpsim.search.bitwidth.target import ALPHAS

    how = Preparation(normalise, resize, crop, grey)
    given = _Given(network, arch, _widths(bits), _ALPHA, work, weights, data, labels, how, count,
                   workers, None, None)  # fmt: skip
    frames: dict[str, pd.DataFrame] = {}
    for width, searched, trained in _studies(given):
        named = {f"{own:g}": searched.at(own) for own in ALPHAS}
        frame = _measured(searched, trained, named).rename(columns={"choice": "alpha"})
        frame["alpha"] = frame["alpha"].astype(float)
        frame["of_first"] = frame["simulated"] / frame["simulated"].iloc[0]
        frames[f"bitq{width}"] = frame
    from rich.console import Group

    table = Group(*(show.alpha_table(frame) for frame in frames.values()))
    figures = {"alpha": lambda path: show.plot_alphas(frames, network, path)}
    summary = {"network": network, "arch": arch, "perf": "energy"}
    emit(Report(table, frames, summary, (), figures), as_json, as_csv, out)


@reproduce_app.command("ablation")
def ablation_of(
    network: TrainedName,
    work: Work,
    arch: ArchName = "edge-64k",
    bits: Bits = None,
    alpha: Alpha = _ALPHA,
    weights: WeightsFile = None,
    data: DataName = "shipped",
    labels: LabelsFile = None,
    normalise: NormaliseName = "fashion-mnist",
    resize: Resize = None,
    crop: Crop = None,
    grey: Grey = False,
    count: Count = None,
    qat: Steps = None,
    train: Train = None,
    train_labels: TrainLabels = None,
    workers: Workers = None,
    as_json: Json = False,
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Table 4: BitQ, and BitQ without training, without movement, without the trade-off.

    With --qat all but "w/o QAT" are trained too, in rows of their own.
    """
    one_of(as_json, as_csv, out)
    how = Preparation(normalise, resize, crop, grey)
    training = training_images(qat, train, train_labels, how)
    given = _Given(network, arch, _widths(bits), alpha, work, weights, data, labels, how,
                   count, workers, training, qat)  # fmt: skip
    import pandas as pd

    from bfpsim.reports import reproduction as show
    from bfpsim.search.bitwidth.experiments import ablation

    rows = []
    for width, searched, trained in _studies(given):
        named = ablation(searched, alpha)
        frame = _measured(searched, trained, named)
        frame["bits"], frame["trained"] = width, False
        rows.append(frame)
        if given.training is not None:
            choices = {name: own for name, own in named.items() if name != "w/o QAT"}
            trained_rows = _tuned(given, given.training, width, searched, trained, choices)
            trained_rows["bits"], trained_rows["trained"] = width, True
            rows.append(trained_rows)
    frame = pd.concat(rows, ignore_index=True)
    summary = {"network": network, "arch": arch, "alpha": alpha, "perf": "energy"}
    emit(Report(show.ablation_table(frame), {"ablation": frame}, summary), as_json, as_csv, out)


@reproduce_app.command("accuracy")
def accuracy(
    network: TrainedName,
    work: Work,
    arch: ArchName = "edge-64k",
    alpha: Alpha = _ALPHA,
    weights: WeightsFile = None,
    data: DataName = "shipped",
    labels: LabelsFile = None,
    normalise: NormaliseName = "fashion-mnist",
    resize: Resize = None,
    crop: Crop = None,
    grey: Grey = False,
    count: Count = None,
    qat: Steps = None,
    train: Train = None,
    train_labels: TrainLabels = None,
    workers: Workers = None,
    as_json: Json = False,
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Table 3: accuracy in the original, in the baselines, and in what the search chooses."""
    one_of(as_json, as_csv, out)
    how = Preparation(normalise, resize, crop, grey)
    training = training_images(qat, train, train_labels, how)
    given = _Given(network, arch, (16, 8), alpha, work, weights, data, labels, how, count,
                   workers, training, qat)  # fmt: skip
    import pandas as pd

    from bfpsim.quant.study.comparison import BITQ, TABLE_3, compare_formats, parse_policy
    from bfpsim.reports.quantization import accuracy_table

    chosen: dict[str, Chosen | Mapping[str, Chosen]] = {}
    rows = []
    for width, searched, trained in _studies(given):
        found = searched.at(alpha)
        some = trained.measured.batch(range(min(100, len(trained.measured)))).inputs
        chosen[f"bitq{width}"] = dict(searched.formats(found))
        for name in TABLE_3:
            if name not in BITQ and name not in chosen:
                chosen[name] = parse_policy(name, trained.model, some)
        if given.training is not None:
            trained_rows = _tuned(
                given, given.training, width, searched, trained, {f"bitq{width}": found}
            )
            rows.append(trained_rows.rename(columns={"choice": "policy"}))
    ordered = {name: chosen[name] for name in TABLE_3}
    with progress_bar(f"evaluating {network}", len(ordered)) as done:
        result = compare_formats(trained.model, trained.images, ordered, progress=done)
    frames = {"accuracy": result.accuracy}
    if rows:
        frames["trained"] = pd.concat(rows, ignore_index=True)
    table = accuracy_table(result.accuracy, f"{network} on {len(trained.images):,} images")
    summary = {"network": network, "arch": arch, "alpha": alpha, "perf": "energy"}
    emit(Report(table, frames, summary), as_json, as_csv, out)


def _widths(bits: list[int] | None) -> tuple[int, ...]:
    return tuple(dict.fromkeys(bits or (16, 8)))


def _studies(given: _Given) -> Iterator[tuple[int, SearchResult, Trained]]:
    """A search by energy at each width; tables and stages stay in the folder."""
    from bfpsim.arch import load_arch
    from bfpsim.quant.formats import candidates
    from bfpsim.search.bitwidth.space import make_space
    from bfpsim.search.bitwidth.target import Tradeoff

    spec = load_arch(given.arch)
    spaces = {width: candidates(width) for width in given.bits}
    trained = trained_model(
        given.network, given.weights, given.data, given.labels, given.how, given.count, 200
    )
    if trained is None:
        raise UsageError(
            f"{given.network} has no trained weights here; allowed: a shipped trained network, a "
            ".safetensors file, or a module with --data"
        )
    net = searched_network(given.network, None, trained)
    given.work.mkdir(parents=True, exist_ok=True)
    with stages_in(given.work / "stages.sqlite") as stages:
        for width, formats in spaces.items():
            space = make_space(net, formats)
            table = given.work / f"{file_stem(given.network)}-{trained.digest[:8]}-{width}.csv"
            losses, _ = find_losses(space, trained, table, None, stages)
            yield width, run_search(
                space, spec, losses, Tradeoff(given.alpha), "energy", given.workers, stages
            ), trained  # fmt: skip


def _measured(
    searched: SearchResult, trained: Trained, named: Mapping[str, Proposal]
) -> pd.DataFrame:
    from bfpsim.search.bitwidth.accuracy import confirm

    with progress_bar("evaluating choices", len(named)) as done:
        return confirm(trained.model, trained.images, searched, named, done)


def _tuned(
    given: _Given,
    training: Dataset,
    width: int,
    searched: SearchResult,
    trained: Trained,
    named: Mapping[str, Proposal],
) -> pd.DataFrame:
    """Each choice trained from the float weights, and evaluated; resumable."""
    import pandas as pd

    rows = []
    for name, own in named.items():
        files = given.work / f"{file_stem(given.network)}-{width}-{name.replace('/', '')}"
        rows.append(
            tuned(name, own, searched, trained, training, given.steps or 0, checkpoints=files)
        )
    return pd.concat(rows, ignore_index=True)
