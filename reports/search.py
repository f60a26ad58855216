"""Tables and figures of searches: choices, prices compared, the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bfpsim.reports.levels import OUTERMOST
from bfpsim.reports.report import Report, together
from bfpsim.reports.style import (
    BLUE,
    GREY,
    ORANGE,
    VERMILION,
    drawing,
    make_table,
    numbers,
    plain_powers,
    save,
)
from bfpsim.reports.tables import bits_by_level, result_levels
from bfpsim.reports.tradeoff import COLUMNS
from bfpsim.search.bitwidth.search import Cost, Proposal, SearchResult
from bfpsim.search.bitwidth.target import ALPHAS, CostBudget, LossBudget, Target

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from rich.table import Table

    from bfpsim.search.experiments.answer import Answer
    from bfpsim.sim.result import NetworkResult

UNITS = {
    "dram": (f"{OUTERMOST} traffic", "Mbit"),
    "energy": ("energy", "µJ"),
    "latency": ("time", "Mcycles"),
}
"""The name and unit of each objective; all units are a million of the counts."""

_BASE_UNITS = {"dram": "bit", "energy": "pJ", "latency": "cycles"}


def search_report(answer: Answer) -> Report:
    """The report of `choose_formats`: the choice, prices compared, the front, the finalists."""
    search, choice, finalists = answer.search, answer.choice, answer.finalists
    result, losses = answer.simulation, answer.losses
    where = search.arch.name
    if losses.images is None:
        known: dict[str, Any] = {"accuracy": "not known: the network has no trained weights"}
    else:
        known = {"sensitivity_images": losses.images, "loss_per_nat": losses.per_nat}
        if losses.below_one_image:
            known["loss_per_nat_is"] = (
                f"of one image of {losses.images} lost by each choice that was run: none lost any"
            )
    outermost = result_levels(result)[:1]
    answers = f"{answer.cost} prices" if finalists is None else str(finalists["choice"].iloc[0])
    summary: dict[str, Any] = {
        "network": answer.name,
        "arch": where,
        "answer": answers,
        "objective": str(search.target),
        "dm_unit": _BASE_UNITS[search.objective],
        "perf": search.objective,
        "cost": answer.cost,
        "formats": len(search.space.formats),
        **known,
        "dm_max": search.by("simulated").dm_max,
        "value": search.value(choice),
        "gap": search.gap(choice),
        "floor": search.floor,
        "rounds": search.rounds,
        "simulations": search.simulations,
        "predicted_loss": choice.loss,
        **bits_by_level(result.layers, outermost),
        "energy_pj": result.energy_pj,
        "cycles": result.cycles,
    }
    comparison = search.comparison()
    excess = comparison.set_index("cost")["excess"]
    for model in ("exact", "paper"):
        summary[f"{model}_model_costs_more"] = f"{100 * excess[model]:.2f} %"
    layers = choice_frame(result, search, choice)
    frames = {"layers": layers, "comparison": comparison, "front": front_frame(search)}
    tables = [
        choice_table(layers, f"{answer.name} on {where}: the answer, {answers}"),
        comparison_table(search, answer.cost),
    ]
    if finalists is not None:
        frames["finalists"] = finalists
        if search.objective == "energy":
            frames["accuracy"] = accuracy_frame(finalists)
        tables.append(finalists_table(finalists, search))
        summary["accuracy_loss"] = answer.accuracy_loss
        if answer.points_above_budget is not None:
            summary["measured_loss_above_budget_by_points"] = answer.points_above_budget
    front, objective = frames["front"], search.objective
    figures = {
        "front": lambda path: plot_front(
            front, comparison, objective, f"{answer.name} on {where}", path
        )
    }
    notes = tuple(key for key in summary if key not in ("network", "arch", "perf", "cost"))
    return Report(together(*tables), frames, summary, notes, figures)


def choice_frame(result: NetworkResult, search: SearchResult, proposal: Proposal) -> pd.DataFrame:
    """A row per layer: formats of I, W, O, mapping, and what it costs as simulated."""
    import pandas as pd

    formats, levels = search.formats(proposal), result_levels(result)
    return pd.DataFrame(
        {
            "layer": one.layer.name,
            **{tensor: str(formats[one.layer.name].of(tensor)) for tensor in ("I", "W", "O")},
            "order": one.mapping.order,
            "tile": " ".join(f"{dim}={size}" for dim, size in one.mapping.tile.items()),
            **bits_by_level((one,), levels),
            "energy_pj": one.energy_pj,
            "cycles": one.cycles,
        }
        for one in result.layers
    )


def front_frame(search: SearchResult) -> pd.DataFrame:
    """The Pareto front, ascending loss: loss, simulated cost, and the alphas that lead there.

    alpha_from, alpha_to: between these Eq. 1 is least here, among the front; NaN where no alpha
    leads.
    """
    import pandas as pd

    dm_max = search.by("simulated").dm_max
    rows = []
    for own in search.front:
        low, high = 0.0, float("inf")
        for other in search.front:
            gain = (own.simulated - other.simulated) / dm_max
            if gain > 0:  # the other is cheaper: better from this alpha on
                high = min(high, (other.loss - own.loss) / gain)
            elif gain < 0:
                low = max(low, (own.loss - other.loss) / -gain)
        leads = low <= high
        rows.append(
            {
                "loss": own.loss,
                "simulated": own.simulated,
                "share_of_dm_max": own.simulated / dm_max,
                "alpha_from": low if leads else float("nan"),
                "alpha_to": high if leads else float("nan"),
            }
        )
    return pd.DataFrame(rows)


def accuracy_frame(finalists: pd.DataFrame) -> pd.DataFrame:
    """Finalists of a search by energy, as the report of a sweep takes them (`write_report`)."""
    names = {"choice": "label", "simulated": "energy_pj"}
    return finalists.rename(columns=names)[list(COLUMNS)]


def choice_table(frame: pd.DataFrame, title: str) -> Table:
    """The table of `choice_frame`."""
    table = make_table(title, "layer", "I", "W", "O", "order", "tile", gap=1)
    numbers(table, f"{OUTERMOST}\n[Mbit]", "energy\n[µJ]", "kcycles")
    for row in frame.to_dict(orient="records"):
        table.add_row(
            *(row[key] for key in ("layer", "I", "W", "O", "order", "tile")),
            f"{row['dram_bits'] / 1e6:.3f}",
            f"{row['energy_pj'] / 1e6:.2f}",
            f"{row['cycles'] / 1e3:.1f}",
        )
    return table


def comparison_table(search: SearchResult, decides: Cost = "simulated") -> Table:
    """Was the analytical model good enough? See `SearchResult.comparison`.

    decides: the kind of price whose choice is taken
    """
    what, unit = UNITS[search.objective]
    table = make_table(f"Chosen by each kind of price: {what} [{unit}]", "prices", gap=1)
    numbers(table, "predicted", "simulated", "off [%]", "more than\nsimulated [%]")
    numbers(table, "other\nformats", "loss\n[points]", "gap")
    for row in search.comparison().to_dict(orient="records"):
        table.add_row(
            f"{row['cost']} (decides)" if row["cost"] == decides else row["cost"],
            f"{row['predicted'] / 1e6:.3f}",
            f"{row['simulated'] / 1e6:.3f}",
            f"{100 * row['error']:+.1f}",
            f"{100 * row['excess']:+.1f}",
            str(row["other_formats"]),
            f"{100 * row['loss']:.3f}",
            f"{row['gap']:.1e}",
        )
    return table


def finalists_table(frame: pd.DataFrame, search: SearchResult) -> Table:
    """Choices evaluated on real images, the answer first; see `confirm_choices`."""
    what, unit = UNITS[search.objective]
    scale, of_value = _value_unit(search.target)
    table = make_table("Evaluated on real images", "choice", gap=1)
    numbers(table, "top-1\n[%]", "loss\n[points]", "predicted\n[points]", f"{what}\n[{unit}]")
    numbers(table, "W\n[bit/elem]", "I and O\n[bit/elem]", f"objective{of_value}")
    for place, row in enumerate(frame.to_dict(orient="records")):
        table.add_row(
            f"{row['choice']} (the answer)" if place == 0 else row["choice"],
            f"{100 * row['top1']:.2f}",
            f"{100 * row['accuracy_loss']:.2f}",
            f"{100 * row['predicted_loss']:.3f}",
            f"{row['simulated'] / 1e6:.3f}",
            f"{row['weight_width']:.2f}",
            f"{row['activation_width']:.2f}",
            f"{scale * row['value']:.5f}",
        )
    return table


def _value_unit(target: Target) -> tuple[float, str]:
    """What an objective is multiplied by to be shown, and its unit: Eq. 1 has none."""
    if isinstance(target, CostBudget):
        return 100, "\n[points]"
    return 1, "\n[DM_max]" if isinstance(target, LossBudget) else ""


def plot_front(
    front: pd.DataFrame, comparison: pd.DataFrame, objective: str, title: str, path: str | Path
) -> None:
    """Predicted loss against simulated cost: the front, where alphas lead, and the models.

    A loss is predicted by adding up, and may be more than all images: the axis ends at 100 points.

    front: of `front_frame`
    comparison: of `SearchResult.comparison`

    Raises OSError if the file cannot be written.
    """
    what, unit = UNITS[objective]
    with drawing() as figure:
        axes = figure.subplots()
        cost, loss = front["simulated"] / 1e6, 100 * front["loss"]
        axes.plot(cost, loss, "o-", color=BLUE, markersize=4, label="front")
        chosen = comparison.to_dict(orient="records")
        by_model = {row["cost"]: (row["simulated"] / 1e6, 100 * row["loss"]) for row in chosen}
        for name, color, marker in (("exact", ORANGE, "s"), ("paper", VERMILION, "^")):
            axes.plot(
                *by_model[name], marker, color=color, markersize=8,
                label=f"chosen by the {name} model's prices",
            )  # fmt: skip
        dm_max = float((front["simulated"] / front["share_of_dm_max"]).iloc[0]) / 1e6
        axes.axvline(dm_max, color=GREY, linestyle="--", label="DM_max")
        axes.set_xlabel(f"simulated {what} [{unit}]")
        axes.set_ylabel("predicted loss of top-1 [points]")
        if (loss > 0).all():
            axes.set_yscale("log")
            plain_powers(axes.yaxis)
        low, high = axes.get_ylim()
        axes.set_ylim(low, min(high, _ALL_IMAGES))
        figure.suptitle(title)
        axes.legend(loc="upper right", bbox_to_anchor=(0.9, 1.0))
        figure.draw_without_rendering()  # now places on the page are known
        for (x, y), alphas in _labels(front, axes.transData.transform):
            axes.annotate(
                "α = " + ", ".join(f"{alpha:g}" for alpha in alphas),
                (x, y),
                textcoords="offset points",
                xytext=(-6, -4),  # to the side where no choice can be
                horizontalalignment="right",
                verticalalignment="top",
                fontsize=9,
            )
        save(figure, path)


_ALL_IMAGES = 100.0  # points
_LINE = 25
"""Height of a label and a little room, in pixels."""


def _labels(
    front: pd.DataFrame, on_page: Callable[[tuple[float, float]], NDArray[Any]]
) -> list[tuple[tuple[float, float], list[float]]]:
    """The places of labels, and their alphas: one label for choices too close for two."""
    labels: list[tuple[tuple[float, float], list[float]]] = []
    for alpha, own in _apart(front, ALPHAS):
        place = (own["simulated"] / 1e6, 100 * own["loss"])
        if labels and abs(on_page(place)[1] - on_page(labels[-1][0])[1]) < _LINE:
            labels[-1][1].append(alpha)
        else:
            labels.append((place, [alpha]))
    return labels


def _apart(front: pd.DataFrame, alphas: Sequence[float]) -> list[tuple[float, Any]]:
    """The first alpha that leads to each choice, and that choice's row."""
    first: dict[Any, float] = {}
    for alpha in sorted(alphas):
        leads = front[(front["alpha_from"] <= alpha) & (alpha <= front["alpha_to"])]
        if len(leads):
            first.setdefault(leads.index[0], alpha)
    return [(alpha, front.loc[place]) for place, alpha in first.items()]
