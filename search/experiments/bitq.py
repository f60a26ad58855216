"""The experiments of the BitQ paper: energy (Fig. 5), alpha (Fig. 6), accuracy and ablation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import TYPE_CHECKING

from bfpsim.arch import Arch, ArchSource, load_arch
from bfpsim.mapping.counts import level_column
from bfpsim.objects import brief
from bfpsim.quant.formats import BFP, LayerFormats, Plain, candidates, parse_format
from bfpsim.search.bitwidth.search import Proposal, SearchResult, search_formats
from bfpsim.search.bitwidth.space import make_space
from bfpsim.search.bitwidth.target import ALPHAS, Tradeoff
from bfpsim.search.crew import workers as processes
from bfpsim.search.experiments.answer import STEPS
from bfpsim.search.phases import Phases, silent
from bfpsim.search.store import open_stages
from bfpsim.sim.simulate import simulate_layers
from bfpsim.workloads import Network, NetworkSource, WorkloadError, load_workload

if TYPE_CHECKING:
    import pandas as pd

    from bfpsim.quant.study.datasets import Dataset
    from bfpsim.search.experiments.classifier import Classifier
    from bfpsim.search.experiments.formats import FormatsByLayer

ALPHA = Tradeoff().alpha
"""The weight of movement at which the paper's tables are made."""

BITS = (16, 8)
"""The paper's two widths."""

TASKS: Mapping[str, tuple[str, ...]] = {
    "image classification": ("googlenet", "resnet18", "mobilenetv2-eca", "convnext-l"),
    "object detection": ("yolov8x", "one-peace-detection"),
    "instance segmentation": ("yolov8x-seg", "mask-dino-swinl-instance"),
    "semantic segmentation": ("mask-dino-swinl-semantic", "one-peace-segmentation"),
}
"""The networks of Table 3 and Fig. 5 by task, as they are shipped."""

ORIGINAL = "original"

STORED_AS: Mapping[str, LayerFormats] = {
    ORIGINAL: LayerFormats.uniform(Plain(32)),
    "dbps16": LayerFormats.uniform(BFP(16, 8, 16)),
    "flexblock16": LayerFormats.uniform(BFP(24, 8, 48)),
    "fast": LayerFormats.uniform(BFP(9, 3, 16)),
    "bsfp8": LayerFormats.uniform(BFP(16, 8, 16)),
}
"""A format of equal storage, within a few percent, for each baseline of Table 3.

What moves depends on widths alone: DBPS at its 8-bit mantissas, FlexBlock's 16-bit mode, FAST at
its 4-bit mantissas with sign and window, BSFP by its activations' MSFP16 (docs/baselines.md).
"""


@brief
@dataclass(frozen=True, eq=False)
class EnergyStudy:
    """Fig. 5.

    arch: the architecture's name; networks: their names; formats: theirs, the original's left out
    energies: a row per network and format: network, format, dram_bits, sram_bits, energy_pj,
        cycles, normalised (energy, the original's being 1)
    means: geometric means of normalised by group of networks: group, networks (how many), format,
        normalised
    """

    arch: str
    networks: tuple[str, ...]
    formats: tuple[str, ...]
    energies: pd.DataFrame
    means: pd.DataFrame


def reproduce_energy(
    networks: Sequence[NetworkSource],
    arch: ArchSource,
    *,
    bitq16: str = "bfp16",
    bitq8: str = "bfp8",
    progress: Phases = silent,
) -> EnergyStudy:
    """Fig. 5: networks simulated in each format, every layer under its best mapping.

    networks: those that are not in `TASKS` make up one group, "all", if none is
    bitq16, bitq8: formats that stand for BitQ, one for all tensors: a network without trained
        weights has no accuracy to search by

    Raises WorkloadError for two networks of one name, FormatError, and MappingError, naming the
    layer, if a layer has no legal mapping.
    """
    arch, loaded = load_arch(arch), [load_workload(network) for network in networks]
    names = [network.name for network in loaded]
    if again := next((name for name in names if names.count(name) > 1), None):
        raise WorkloadError(f"network {again!r} is given twice; allowed: different names")
    formats = {name: own for name, own in STORED_AS.items() if name != ORIGINAL}
    formats |= {
        f"bitq{bits} ({text})": LayerFormats.uniform(parse_format(text))
        for bits, text in zip(BITS, (bitq16, bitq8), strict=True)
    }
    with progress("simulating", len(loaded) * (len(formats) + 1)) as step:
        energies = _energies(loaded, arch, formats, step)
    groups = {task: own for task, own in TASKS.items() if not {*own}.isdisjoint(names)}
    means = _geometric_means(energies, groups or {"all": names})
    return EnergyStudy(arch.name, tuple(names), tuple(formats), energies, means)


def _energies(
    networks: Sequence[Network],
    arch: Arch,
    formats: Mapping[str, LayerFormats],
    progress: Callable[[str], None],
) -> pd.DataFrame:
    import pandas as pd

    levels = [level.name for level in arch.levels]
    rows = []
    for network in networks:
        original = 0.0
        for name, chosen in {ORIGINAL: STORED_AS[ORIGINAL], **formats}.items():
            result = simulate_layers(network, arch, chosen)
            original = original or result.energy_pj
            rows.append(
                {
                    "network": network.name,
                    "format": name,
                    **{
                        level_column(level, "bits"): sum(
                            int(one.counts.total(level)) for one in result.layers
                        )
                        for level in levels
                    },
                    "energy_pj": result.energy_pj,
                    "cycles": result.cycles,
                    "normalised": result.energy_pj / original,
                }
            )
            progress(f"{network.name}: {name}")
    return pd.DataFrame(rows)


def _geometric_means(frame: pd.DataFrame, groups: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for group, names in groups.items():
        own = frame[frame["network"].isin(names)]
        for name in dict.fromkeys(own["format"]):
            values = own.loc[own["format"] == name, "normalised"].tolist()
            rows.append((group, len(values), name, geometric_mean(values)))
    return pd.DataFrame(rows, columns=["group", "networks", "format", "normalised"])


@brief
@dataclass(frozen=True, eq=False)
class AlphaStudy:
    """Fig. 6 of one classifier.

    choices: by width of BitQ's formats, a row per alpha: alpha, and the columns of
        `confirm_choices` behind choice; of_first: simulated energy relative to the least alpha's
    """

    network: str
    arch: str
    choices: dict[int, pd.DataFrame]


def reproduce_alpha(
    classifier: Classifier,
    arch: ArchSource,
    work: str | Path,
    *,
    bits: Sequence[int] = BITS,
    workers: int = 1,
    progress: Phases = silent,
) -> AlphaStudy:
    """Fig. 6: what each alpha chooses, its accuracy on the images, and its energy.

    work: folder of sensitivity tables and finished stages, to go on from; it is made
    bits: widths of BitQ's formats, 16 and 8
    workers: processes

    Raises as `choose_formats`.
    """
    arch = load_arch(arch)
    choices = {}
    for width, search in _searches(classifier, arch, work, bits, ALPHA, workers, progress):
        frame = _confirm(classifier, search, {f"{a:g}": search.at(a) for a in ALPHAS}, progress)
        frame = frame.rename(columns={"choice": "alpha"})
        frame["alpha"] = frame["alpha"].astype(float)
        frame["of_first"] = frame["simulated"] / frame["simulated"].iloc[0]
        choices[width] = frame
    return AlphaStudy(classifier.name, arch.name, choices)


@brief
@dataclass(frozen=True, eq=False)
class AblationStudy:
    """Table 4 of one classifier.

    choices: the columns of `confirm_choices`, bits and trained (whether it was)
    """

    network: str
    arch: str
    alpha: float
    choices: pd.DataFrame


def reproduce_ablation(
    classifier: Classifier,
    arch: ArchSource,
    work: str | Path,
    *,
    bits: Sequence[int] = BITS,
    alpha: float = ALPHA,
    training: Dataset | None = None,
    steps: int = STEPS,
    workers: int = 1,
    progress: Phases = silent,
) -> AblationStudy:
    """Table 4: BitQ, and BitQ without training, without movement, without the trade-off.

    work, bits, workers: as in `reproduce_alpha`
    training: images; with them all but "w/o QAT" are trained for `steps` too, in further rows

    Raises as `choose_formats`.
    """
    import pandas as pd

    arch = load_arch(arch)

    rows = []
    for width, search in _searches(classifier, arch, work, bits, alpha, workers, progress):
        proposals = ablation_choices(search, alpha)
        frame = _confirm(classifier, search, proposals, progress)
        frame["bits"], frame["trained"] = width, False
        rows.append(frame)
        if training is not None:
            del proposals["w/o QAT"]
            frame = _train(classifier, search, proposals, width, training, steps, work, progress)
            frame["bits"], frame["trained"] = width, True
            rows.append(frame)
    choices = pd.concat(rows, ignore_index=True)
    return AblationStudy(classifier.name, arch.name, alpha, choices)


@brief
@dataclass(frozen=True, eq=False)
class AccuracyStudy:
    """Table 3 of one classifier.

    images: how many judged it
    accuracy: as in `Comparison`, of the paper's formats
    trained: rows of `confirm_choices` (policy in place of choice) of BitQ's choices, trained
    """

    network: str
    arch: str
    alpha: float
    images: int
    accuracy: pd.DataFrame
    trained: pd.DataFrame | None


def reproduce_accuracy(
    classifier: Classifier,
    arch: ArchSource,
    work: str | Path,
    *,
    alpha: float = ALPHA,
    training: Dataset | None = None,
    steps: int = STEPS,
    workers: int = 1,
    progress: Phases = silent,
) -> AccuracyStudy:
    """Table 3: accuracy in the original, in the baselines, and in what the search chooses.

    work, workers: as in `reproduce_alpha`
    training: images on which BitQ's choices are trained for `steps` too

    Raises as `choose_formats`.
    """
    import pandas as pd

    from bfpsim.quant.study.comparison import BITQ, TABLE_3, compare_formats, parse_policy

    arch = load_arch(arch)

    model, images = classifier.model, classifier.images
    policies: dict[str, FormatsByLayer] = {}
    rows = []
    for width, search in _searches(classifier, arch, work, BITS, alpha, workers, progress):
        choice = search.at(alpha)
        policies[f"bitq{width}"] = dict(search.formats(choice))
        for name in TABLE_3:
            if name not in BITQ and name not in policies:
                policies[name] = parse_policy(name, model, classifier.some(100))
        if training is not None:
            proposals = {f"bitq{width}": choice}
            frame = _train(classifier, search, proposals, width, training, steps, work, progress)
            rows.append(frame.rename(columns={"choice": "policy"}))
    ordered = {name: policies[name] for name in TABLE_3}
    with progress(f"evaluating {classifier.name}", len(ordered)) as step:
        result = compare_formats(model, images, ordered, progress=step)
    trained = pd.concat(rows, ignore_index=True) if rows else None
    return AccuracyStudy(classifier.name, arch.name, alpha, len(images), result.accuracy, trained)


def ablation_choices(search: SearchResult, alpha: float) -> dict[str, Proposal]:
    """Table 4: the choices of BitQ and of BitQ without each of its parts.

    "w/o QAT" looks at movement alone, "w/o DM expression" at accuracy alone; "w/o trade-off" takes
    the front's point nearest to the ideal one, both criteria scaled to 0..1 over the front.
    """
    front = search.front
    losses, costs = [own.loss for own in front], [own.simulated for own in front]

    def distance(own: Proposal) -> float:
        scaled = [
            (value - min(every)) / ((max(every) - min(every)) or 1.0)
            for value, every in ((own.loss, losses), (own.simulated, costs))
        ]
        return sum(value**2 for value in scaled)

    return {
        "BitQ": search.at(alpha),
        "w/o QAT": min(front, key=lambda own: (own.simulated, own.loss)),
        "w/o DM expression": min(front, key=lambda own: (own.loss, own.simulated)),
        "w/o trade-off": min(front, key=distance),
    }


def _searches(
    classifier: Classifier,
    arch: Arch,
    work: str | Path,
    bits: Sequence[int],
    alpha: float,
    workers: int,
    progress: Phases,
) -> Iterator[tuple[int, SearchResult]]:
    """A search by energy at each width; tables and stages stay in the folder."""
    from bfpsim.search.experiments.accuracy import measure_losses

    folder = Path(work)
    formats = {width: candidates(width) for width in bits}
    folder.mkdir(parents=True, exist_ok=True)
    with open_stages(folder / "stages.sqlite") as stages:
        for width, own in formats.items():
            space = make_space(classifier.network, own)
            table = folder / f"{classifier.stem}-{classifier.digest[:8]}-{width}.csv"
            losses = measure_losses(
                space, classifier, table=table, stages=stages, progress=progress
            )
            title = f"searching {space.network} on {arch.name}"
            with processes(workers) as run, progress(title, None) as step:
                result = search_formats(
                    space, arch, losses.matrix, Tradeoff(alpha), "energy", run, stages, step
                )
            yield width, result


def _confirm(
    classifier: Classifier,
    search: SearchResult,
    proposals: Mapping[str, Proposal],
    progress: Phases,
) -> pd.DataFrame:
    from bfpsim.search.experiments.accuracy import confirm_choices

    with progress("evaluating choices", len(proposals)) as step:
        return confirm_choices(classifier, search, proposals, step)


def _train(
    classifier: Classifier,
    search: SearchResult,
    proposals: Mapping[str, Proposal],
    width: int,
    training: Dataset,
    steps: int,
    work: str | Path,
    progress: Phases,
) -> pd.DataFrame:
    """Each choice trained from the float weights, and evaluated; checkpoints stay in the folder."""
    import pandas as pd

    from bfpsim.search.experiments.accuracy import train_choice

    rows = []
    for name, own in proposals.items():
        files = Path(work) / f"{classifier.stem}-{width}-{name.replace('/', '')}"
        row = train_choice(
            name, own, search, classifier, training, steps, checkpoints=files, progress=progress
        )
        rows.append(row)
    return pd.concat(rows, ignore_index=True)
