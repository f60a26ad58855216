"""Single operands swapped in, against whole runs; the estimate, against the divergence."""

import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bfpsim.quant.formats import BFP, FormatError, Plain, candidates
from bfpsim.quant.study.additivity import Additivity, check_additivity
from bfpsim.quant.study.comparison import least_divergence
from bfpsim.quant.study.sensitivity import (
    COLUMNS,
    Fisher,
    FloatRun,
    Sensitivity,
    measure_sensitivity,
)
from bfpsim.quant.torch.model import Codings, QuantizedModel, quantize_model
from bfpsim.quant.torch.operand import Mode
from bfpsim.workloads import WorkloadError

FORMATS = [BFP(8, 3, 4), BFP(8, 5, 16), BFP(8, 2, 1), Plain(6), BFP(8, 5, 48)]


class Small(nn.Module):
    """Two paths that are added, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3)
        self.second = nn.Conv2d(6, 6, 1, groups=6)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = (x + self.second(x.relu())).relu()
        return self.fc(x.mean((2, 3))) * 8


@pytest.fixture(scope="module")
def small() -> tuple[QuantizedModel, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(30, 2, 6, 5)
    model = quantize_model(Small(), x[:4], Plain(32), [x])
    return model, x, torch.randint(4, (30,))


@pytest.fixture(scope="module")
def table(small) -> Sensitivity:
    model, x, y = small
    return measure_sensitivity(model, x, y, FORMATS, batch=8)


class Named(nn.Module):
    """Its logits are not its output, but in it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.fc(x)}


def test_what_gives_no_logits_has_no_divergence() -> None:
    x = torch.randn(5, 4)
    model = quantize_model(Named(), x, name="net.py:named")
    wrong = r"module net\.py:named: output dict for 5 images; allowed: one tensor \(5, classes\)"
    for measure in (
        lambda: measure_sensitivity(model, x, torch.zeros(5, dtype=torch.int64), FORMATS),
        lambda: least_divergence(model, x, FORMATS),
    ):
        with pytest.raises(WorkloadError, match=wrong):
            measure()


def probabilities(logits: Tensor) -> np.ndarray:
    values = np.exp(logits.double().numpy())
    return values / values.sum(axis=1, keepdims=True)


def divergence(model: QuantizedModel, x: Tensor) -> float:
    """KL of the float network's probabilities from those of the model as it is chosen."""
    choice = model.choice()
    with torch.no_grad():
        q = probabilities(model(x))
        model.choose(None)
        p = probabilities(model(x))
    model.choose(choice, tied=False)
    return float((p * np.log(p / q)).sum(axis=1).mean())


def test_a_row_is_what_a_whole_run_says(small, table) -> None:
    model, x, y = small
    assert tuple(table.table.columns) == COLUMNS
    assert len(table.table) == 3 * 3 * len(FORMATS)
    assert (table.network, table.images) == ("Small", 30)
    model.choose(None)
    with torch.no_grad():
        exact = model(x)
    right = int((exact.argmax(1) == y).sum())
    assert table.accuracy == right / 30
    by_name = {str(fmt): fmt for fmt in FORMATS}
    for row in table.table.itertuples():
        choice = {site.name: Codings() for site in model.sites}
        choice[row.layer] = Codings(**{row.tensor: by_name[row.format]})
        model.choose(choice, tied=False)
        with torch.no_grad():
            swapped = model(x)
        assert row.kl == pytest.approx(divergence(model, x), rel=1e-5, abs=1e-9)
        lost = right - int((swapped.argmax(1) == y).sum())
        assert row.accuracy_loss == pytest.approx(lost / 30)
        assert row.sqnr_db == pytest.approx(
            model.measure([x])[row.layer, row.tensor].sqnr_db, abs=1e-3
        )
        assert row.bits == model.measure([x[:1]])[row.layer, row.tensor].bits
    model.choose(Plain(32))


def test_larger_blocks_than_channels_are_measured_once(table) -> None:
    rows = table.table.set_index("format").drop(columns=["bits"])
    assert (
        rows.loc["bfp8e5b16"]
        .reset_index(drop=True)
        .equals(rows.loc["bfp8e5b48"].reset_index(drop=True))
    )


@pytest.mark.parametrize(
    ("up", "distinct"),
    [
        (nn.ConvTranspose2d(32, 2, 2, stride=2), 3),
        (nn.ConvTranspose2d(32, 4, 2, stride=2, groups=2), 2),  # of 16 channels each
        (nn.ConvTranspose2d(32, 32, 3, stride=2, groups=32), 3),
    ],
)
def test_formats_measured_together_are_those_measured_alone(up: nn.Module, distinct: int) -> None:
    """Of a transposed convolution, the axes of whose W are the other way round."""
    torch.manual_seed(0)
    with torch.no_grad():  # each channel smaller than the last, so that larger blocks lose more
        up.weight.normal_().mul_(0.9 ** torch.arange(32.0)[:, None, None, None])
    module, x = nn.Sequential(up, nn.Flatten()), torch.randn(4, 32, 3, 3)
    model = quantize_model(module, x)
    labels = torch.zeros(4, dtype=torch.int64)
    formats = [BFP(8, 4, size) for size in (2, 16, 32, 48)]
    together = measure_sensitivity(model, x, labels, formats).table.set_index("format")
    for fmt in formats:
        alone = measure_sensitivity(model, x, labels, [fmt]).table.set_index("format")
        assert together.loc[[str(fmt)]].equals(alone)
    errors = together[together["tensor"] == "W"]["sqnr_db"]
    assert list(errors) == sorted(errors, reverse=True)
    assert errors.nunique() == distinct


def test_the_choice_and_the_modes_stay(small) -> None:
    model, x, y = small
    before = model.choice(), {key: operand.mode for key, operand in model.operands.items()}
    measure_sensitivity(model, x[:3], y[:3], FORMATS[:1])
    assert before == (
        model.choice(), {key: operand.mode for key, operand in model.operands.items()}
    )  # fmt: skip
    assert all(p.grad is None for p in model.parameters())


def test_the_estimate_is_the_divergence_of_small_errors() -> None:
    """Sums over operands, many images: labels are drawn, so single rows scatter."""
    torch.manual_seed(2)
    x = torch.randn(1500, 2, 5, 5)
    model = quantize_model(Small(), x[:4], None, [x])
    labels = torch.zeros(1500, dtype=torch.int64)
    rows = measure_sensitivity(model, x, labels, [BFP(8, 3, 1), BFP(16, 8, 4)], batch=500).table
    assert float(rows.kl.max()) < 0.05
    for tensor in "IWO":
        own = rows[rows.tensor == tensor]
        assert float(own.fisher.sum()) == pytest.approx(float(own.kl.sum()), rel=0.25)
    ranks = rows.kl.rank(), rows.fisher.rank()
    assert ranks[0].corr(ranks[1]) > 0.95


def test_save_and_load(table, tmp_path) -> None:
    path = tmp_path / "table.csv"
    table.save(path)
    again = Sensitivity.load(path)
    assert again.table.equals(table.table)
    assert (again.network, again.images, again.accuracy) == ("Small", 30, table.accuracy)
    first = path.read_bytes()
    again.save(path)
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    "text",
    [
        "",
        "layer,tensor\n1,2\n",
        "# bfpsim sensitivity {\n",
        "# bfpsim sensitivity {}\na\n",
        "# bfpsim sensitivity []\n" + ",".join(COLUMNS),
        '# bfpsim sensitivity {"network": "a", "images": 3, "accuracy": 0.5}\n',
        '# bfpsim sensitivity {"network": "a", "images": 3, "accuracy": 0.5}\na\n',
        '# bfpsim sensitivity {"network": "a", "images": "b", "accuracy": 0.5}\n'
        + ",".join(COLUMNS),
        '# bfpsim sensitivity {"network": "a", "images": 3, "accuracy": NaN}\n' + ",".join(COLUMNS),
    ],
)
def test_other_files_are_refused(tmp_path, text: str) -> None:
    path = tmp_path / "other.csv"
    path.write_text(text)
    with pytest.raises(FormatError, match=r"other\.csv: .*; allowed: a table of `bfpsim quantize"):
        Sensitivity.load(path)


@pytest.mark.parametrize(
    ("column", "cell", "kind"),
    [
        ("kl", "abc", "a finite number"),
        ("kl", "", "a finite number"),
        ("kl", "nan", "a finite number"),
        ("kl", "inf", "a finite number"),
        ("sqnr_db", "-", "a number"),
        ("sqnr_db", "nan", "a number"),
        ("accuracy_loss", "inf", "a finite number"),
        ("fisher", "True", "a finite number"),
        ("bits", "12.5", "a whole number"),
    ],
)
def test_a_damaged_cell_is_named(table, tmp_path, column: str, cell: str, kind: str) -> None:
    path = tmp_path / "damaged.csv"
    table.save(path)
    lines = path.read_text().splitlines()
    cells = lines[2 + 4].split(",")  # behind the comment and the names of the columns
    cells[COLUMNS.index(column)] = cell
    lines[2 + 4] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(FormatError) as error:
        Sensitivity.load(path)
    assert str(error.value) == (
        f"{path}: row 5: {column} {cell!r} is not {kind}; allowed: a table of "
        "`bfpsim quantize --sensitivity`"
    )
    lines[2 + 4] = ",".join(cells[:5])
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(FormatError, match=rf"{path}: row 5: "):
        Sensitivity.load(path)


def test_noise_may_be_infinite(table, tmp_path) -> None:
    path = tmp_path / "table.csv"
    changed = table.table.assign(sqnr_db=[math.inf, -math.inf] + [1.5] * (len(table.table) - 2))
    Sensitivity(changed, "a", 3, 1).save(path)
    again = Sensitivity.load(path)
    assert again.table.equals(changed)
    assert again.accuracy == 1


def test_additivity_is_of_the_table_and_of_whole_runs(small, table) -> None:
    """Each choice is found again: its predicted losses are sums of rows, the measured are run."""
    model, x, y = small
    before = model.choice()
    drawn = []
    choose = model.choose

    def noted(chosen, *, tied=True):
        if isinstance(chosen, dict) and tied:
            drawn.append(chosen)
        choose(chosen, tied=tied)

    model.choose = noted  # type: ignore[method-assign]
    result = check_additivity(model, table, x, y, choices=6, batch=8, seed=5)
    del model.choose
    assert model.choice() == before
    rows = {(r.layer, r.tensor, r.format): r for r in table.table.itertuples()}
    assert len(drawn) == len(result.table) == 6
    assert len({str(codings.W) for choice in drawn for codings in choice.values()}) > 2
    for choice, row in zip(drawn, result.table.itertuples(), strict=True):
        parts = [
            rows[name, tensor, str(getattr(codings, tensor))]
            for name, codings in choice.items()
            for tensor in "IWO"
        ]
        assert row.predicted_kl == pytest.approx(math.fsum(p.kl for p in parts))
        assert row.predicted_fisher == pytest.approx(math.fsum(p.fisher for p in parts))
        assert row.predicted_accuracy_loss == pytest.approx(sum(p.accuracy_loss for p in parts))
        model.choose(choice)
        assert row.kl == pytest.approx(divergence(model, x), rel=1e-4)
        with torch.no_grad():
            accuracy = float((model(x).argmax(1) == y).double().mean())
        assert row.accuracy_loss == pytest.approx(table.accuracy - accuracy)
    model.choose(before, tied=False)


def test_correlation_and_slope_by_hand() -> None:
    import pandas as pd

    rng = random.Random(4)
    x = [rng.random() for _ in range(20)]
    y = [rng.random() for _ in range(20)]
    result = Additivity(pd.DataFrame({"predicted_kl": x, "predicted_fisher": y, "kl": y}))
    order = [sorted(values).index(v) for values in (x, y) for v in values]
    d = sum((a - b) ** 2 for a, b in zip(order[:20], order[20:], strict=True))
    assert result.spearman("kl") == pytest.approx(1 - 6 * d / (20 * (20**2 - 1)))
    assert result.spearman("kl", by="fisher") == pytest.approx(1)
    assert result.slope("kl", by="fisher") == pytest.approx(1)
    assert result.slope("kl") == pytest.approx(np.linalg.lstsq(np.c_[x], np.array(y))[0][0])


def test_choices_of_one_format_have_no_order(small) -> None:
    model, x, y = small
    one = measure_sensitivity(model, x, y, FORMATS[:1])
    result = check_additivity(model, one, x, y, choices=3)
    assert math.isnan(result.spearman("kl"))
    ratio = result.table["kl"].iloc[0] / one.table["kl"].sum()
    assert result.slope("kl") == pytest.approx(ratio)


def test_a_table_without_an_operand_is_refused(small, table) -> None:
    model, x, y = small
    partly = Sensitivity(table.table[table.table.layer != "fc"], "Small", 30, 0.5)
    with pytest.raises(FormatError, match="sensitivity table: I of 'fc' is not in it whole"):
        check_additivity(model, partly, x, y)


def test_candidates_are_those_of_table_2() -> None:
    assert len(candidates(16)) == 6 * 8
    assert len(candidates(8)) == 5 * 8
    assert {fmt.exponent_bits for fmt in candidates(16)} == {2, 3, 4, 5, 6, 7}
    assert {fmt.exponent_bits for fmt in candidates(8)} == {2, 3, 4, 5, 6}
    assert {fmt.block_size for fmt in candidates(8)} == {1, 2, 4, 8, 16, 24, 32, 48}
    with pytest.raises(FormatError, match="candidates of 12 bits; allowed: 16, 8"):
        candidates(12)


class Fork(nn.Module):
    """Two products that read one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x).relu()


def test_gradients_of_the_estimate_by_hand() -> None:
    """Of each reader alone; a weight's error is taken through its product, image by image."""
    torch.manual_seed(3)
    module, x = Fork().double(), torch.randn(6, 5).double()
    model = quantize_model(module, x, None)
    with model.in_mode(Mode.FLOAT):
        run, fisher = FloatRun(model, x), Fisher(model, x, seed=9)
    with torch.no_grad():
        p = module(x).softmax(1)
        labels = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(9))
        out = p - torch.zeros(6, 3).double().scatter(1, labels, 1.0)  # of -log p(label)
        behind = {"a": out, "b": out * (module.b(x) > 0)}
        for name in ("a", "b"):
            weight = getattr(module, name).weight
            error = torch.randn(6, 5).double()
            expected = (behind[name] @ weight * error).square().sum() / 2
            found = fisher.divergence((name, "I"), error, False, run)
            assert found == pytest.approx(float(expected))
            error = torch.randn(3, 5).double()
            expected = (behind[name] * (x @ error.T)).sum(1).square().sum() / 2
            found = fisher.divergence((name, "W"), error, True, run)
            assert found == pytest.approx(float(expected))


class Mixer(nn.Module):
    """A weight and a bias, and a matrix that stands in a product as a parameter or a buffer."""

    def __init__(self, buffer: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.fc = nn.Linear(4, 3)
        mix = torch.randn(6, 2, 4, generator=generator)
        if buffer:
            self.register_buffer("mix", mix)
        else:
            self.mix = nn.Parameter(mix)
        with torch.no_grad():
            self.fc.weight.normal_(generator=generator)
            self.fc.bias.normal_(generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.bmm(self.mix, x[:, :, None].expand(-1, -1, 4)).relu().mean(1))


@pytest.mark.parametrize("fixed", ["frozen", "buffer"])
def test_what_needs_no_gradient_is_estimated_alike(fixed: str) -> None:
    torch.manual_seed(1)
    x = torch.randn(6, 4)
    estimates = []
    for module in (Mixer(False), Mixer(fixed == "buffer").requires_grad_(False)):
        model = quantize_model(module, x)
        with model.in_mode(Mode.FLOAT):
            run, fisher = FloatRun(model, x), Fisher(model, x, seed=4)
        errors = {key: run.value(key).sin() / 100 for key in model.operands}
        estimates.append(
            {
                key: fisher.divergence(key, errors[key], operand.stored, run)
                for key, operand in model.operands.items()
            }
        )
    assert len(estimates[0]) == 6
    assert all(value > 0 for value in estimates[0].values())
    assert estimates[0] == estimates[1]


def test_gradients_of_the_caller_stay() -> None:
    torch.manual_seed(1)
    x = torch.randn(6, 5)
    model = quantize_model(Fork(), x)
    model(x).square().sum().backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    Fisher(model, x, seed=0)
    assert len(before) == 4
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, before[name])
    assert all(before[name].any() for name in before)
