"""The `reproduce` commands: the experiments of the BitQ paper, with simulated costs."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bfpsim.commands.arguments import ArchName, UsageError, with_groups
from bfpsim.commands.emit import Output, check_folder, complain, kept
from bfpsim.commands.images import ImageOptions, TrainData, TrainLabels, check_training
from bfpsim.commands.progress import progress

if TYPE_CHECKING:
    from bfpsim.quant.study.datasets import Dataset
    from bfpsim.reports.report import Report
    from bfpsim.search.experiments.classifier import Classifier

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
Alpha = Annotated[float, typer.Option(min=0, help="Weight of movement in Eq. 1.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes (default: one per core).")]
_ALPHA = 0.2  # the paper's, as `bitq.ALPHA`, which takes long to load
_SAMPLE = 200  # images that sensitivity is measured on


@dataclass(frozen=True)
class TrainingOptions:
    """Options of training each choice."""

    qat: Annotated[
        int | None, typer.Option("--qat", min=1, help="Train each choice for so many steps too.")
    ] = None
    train: TrainData = None
    train_labels: TrainLabels = None

    def images(self, options: ImageOptions) -> Dataset | None:
        """The images of --train; raises UsageError unless they and --qat come together."""
        check_training(self.qat, self.train)
        return None if self.train is None else options.training(self.train, self.train_labels)


@reproduce_app.command("energy")
@with_groups
def energy(
    *,
    networks: Annotated[
        list[str] | None,
        typer.Argument(metavar="NETWORK", help="Default: the paper's ten, an hour."),
    ] = None,
    arch: ArchName = "ideal-64k",
    bitq16: Annotated[str, typer.Option(help="Format that stands for BitQ at 16 bits.")] = "bfp16",
    bitq8: Annotated[str, typer.Option(help="Format that stands for BitQ at 8 bits.")] = "bfp8",
    output: Output,
) -> None:
    """Fig. 5: energy in each format relative to the float32 original, and geometric means.

    Networks without trained weights have no accuracy to search by, so BitQ is one format for all
    their tensors here; `search` says what it chooses where there are weights.
    """
    output.check()
    from bfpsim.arch import load_arch
    from bfpsim.reports.reproduction import energy_report
    from bfpsim.search.experiments.bitq import TASKS, reproduce_energy
    from bfpsim.workloads import load_workload

    spec = load_arch(arch)
    names = networks or [name for group in TASKS.values() for name in group]
    if not networks:
        complain(
            f"the paper's {len(names)} networks in 7 formats take about an hour; "
            "named ones take less, such as `bfpsim reproduce energy resnet18`"
        )
    study = reproduce_energy(
        [load_workload(name) for name in names], spec, bitq16=bitq16, bitq8=bitq8,
        progress=progress,
    )  # fmt: skip
    output.emit(energy_report(study))


@reproduce_app.command("alpha")
@with_groups
def alpha(
    network: TrainedName,
    *,
    work: Work,
    arch: ArchName = "ideal-64k",
    bits: Bits = None,
    images: ImageOptions,
    workers: Workers = None,
    output: Output,
) -> None:
    """Fig. 6: what each alpha chooses, its accuracy and its energy."""
    output.check()
    from bfpsim.arch import load_arch
    from bfpsim.reports.reproduction import alpha_report
    from bfpsim.search.experiments.bitq import reproduce_alpha

    spec, widths = load_arch(arch), _widths(bits)
    with _stages(work):
        study = reproduce_alpha(
            _classifier(network, images), spec, work, bits=widths, workers=_processes(workers),
            progress=progress,
        )  # fmt: skip
    output.emit(_as_given(alpha_report(study), arch))


@reproduce_app.command("ablation")
@with_groups
def ablation(
    network: TrainedName,
    *,
    work: Work,
    arch: ArchName = "ideal-64k",
    bits: Bits = None,
    alpha: Alpha = _ALPHA,
    images: ImageOptions,
    training: TrainingOptions,
    workers: Workers = None,
    output: Output,
) -> None:
    """Table 4: BitQ, and BitQ without training, without movement, without the trade-off.

    With --qat all but "w/o QAT" are trained too, in rows of their own.
    """
    output.check()
    data = training.images(images)
    from bfpsim.arch import load_arch
    from bfpsim.reports.reproduction import ablation_report
    from bfpsim.search.experiments.bitq import reproduce_ablation

    spec, widths = load_arch(arch), _widths(bits)
    with _stages(work):
        study = reproduce_ablation(
            _classifier(network, images), spec, work, bits=widths, alpha=alpha, training=data,
            steps=training.qat or 0, workers=_processes(workers), progress=progress,
        )  # fmt: skip
    output.emit(_as_given(ablation_report(study), arch))


@reproduce_app.command("accuracy")
@with_groups
def accuracy(
    network: TrainedName,
    *,
    work: Work,
    arch: ArchName = "ideal-64k",
    alpha: Alpha = _ALPHA,
    images: ImageOptions,
    training: TrainingOptions,
    workers: Workers = None,
    output: Output,
) -> None:
    """Table 3: accuracy in the original, in the baselines, and in what the search chooses."""
    output.check()
    data = training.images(images)
    from bfpsim.arch import load_arch
    from bfpsim.reports.reproduction import accuracy_report
    from bfpsim.search.experiments.bitq import reproduce_accuracy

    spec = load_arch(arch)
    with _stages(work):
        study = reproduce_accuracy(
            _classifier(network, images), spec, work, alpha=alpha, training=data,
            steps=training.qat or 0, workers=_processes(workers), progress=progress,
        )  # fmt: skip
    output.emit(_as_given(accuracy_report(study), arch))


def _stages(work: Path) -> AbstractContextManager[None]:
    """The work whose finished stages are kept in a folder; raises UsageError if they cannot be."""
    check_folder(work, "--work")
    return kept(f"finished stages are in {work}; the same command goes on from there")


def _widths(bits: list[int] | None) -> tuple[int, ...]:
    """The widths; raises FormatError for one that BitQ has no formats of, before the work."""
    from bfpsim.quant.formats import candidates
    from bfpsim.search.experiments.bitq import BITS

    widths = tuple(dict.fromkeys(bits or BITS))
    for width in widths:
        candidates(width)
    return widths


def _classifier(network: str, images: ImageOptions) -> Classifier:
    classifier = images.classifier(network, _SAMPLE)
    if classifier is None:
        raise UsageError(
            f"{network} has no trained weights here; allowed: a shipped trained network, a "
            ".safetensors file, or a module with --data"
        )
    return classifier


def _processes(workers: int | None) -> int:
    return workers or os.cpu_count() or 1


def _as_given(report: Report, arch: str) -> Report:
    """The report with the architecture as the command line spells it."""
    return replace(report, summary={**report.summary, "arch": arch})
