"""Steps are what the formulas say; a run that was killed ends where one that was not does."""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from bfpsim.quant.formats import FormatError
from bfpsim.quant.study.accuracy import TopK
from bfpsim.quant.study.datasets import AS_STORED, ArrayDataset
from bfpsim.quant.training.fine_tuning import FineTuned, fine_tune, image_order
from bfpsim.workloads import WorkloadError

STEPS, EVERY = 12, 5


def blobs(count: int = 30, seed: int = 1) -> ArrayDataset:
    """Images of 1x4x4 pixels: label k is brighter in row k."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    pixels = rng.random((count, 1, 4, 4), np.float32)
    pixels[np.arange(count), 0, labels] += 1
    return ArrayDataset(pixels, labels, AS_STORED)


class Tiny(nn.Module):
    """A convolution, dropout, a linear layer, and a buffer that changes with every step."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.conv, self.dropout = nn.Conv2d(1, 3, 3, padding=1), nn.Dropout(0.3)
        self.fc = nn.Linear(48, 4)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.2, 0.2, generator)
        self.register_buffer("drift", torch.zeros(()), persistent=False)

    def forward(self, x):
        if self.training:
            self.drift += 0.01
        return self.fc(self.dropout(self.conv(x).relu()).flatten(1)) * (1 + self.drift)


def shaken(inputs):
    return inputs + 0.1 * torch.randn_like(inputs)


def tuned(checkpoint: Path | None = None, module: nn.Module | None = None, **changes):
    settings = {"steps": STEPS, "batch": 8, "rate": 0.1, "seed": 3, "every": EVERY}
    settings |= {"augment": shaken, "checkpoint": checkpoint, **changes}
    module = Tiny() if module is None else module
    return module, fine_tune(module, settings.pop("dataset", blobs()), **settings)


def same(one: nn.Module, two: nn.Module) -> bool:
    pairs = zip(
        [*one.named_parameters(), *one.named_buffers()],
        [*two.named_parameters(), *two.named_buffers()],
        strict=True,
    )
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


# --- the order of images ------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**64),
    images=st.integers(1, 12),
    batch=st.integers(1, 30),
    steps=st.integers(1, 6),
)
def test_every_image_is_seen_once_before_any_is_seen_again(seed, images, batch, steps):
    row = np.concatenate([image_order(seed, step, batch, images) for step in range(steps)])
    assert len(row) == steps * batch
    for start in range(0, len(row), images):
        epoch = row[start : start + images].tolist()
        assert len(set(epoch)) == len(epoch)
        assert set(epoch) <= set(range(images))


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = [tuple(image_order(seed, step, 50, 50)) for seed in range(9) for step in range(9)]
    assert len(set(orders)) == 81


# --- a step -------------------------------------------------------------------------------------


class OneWeight(nn.Module):
    """Logits w x and 0, of images of one pixel."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x):
        score = self.weight * x.flatten(1)
        return torch.cat([score, torch.zeros_like(score)], 1)


def test_steps_by_hand():
    """Momentum descent on one weight, in Python's floats: all images in every step."""
    xs, labels = [0.5, -1.25, 2.0], [0, 1, 1]
    dataset = ArrayDataset(
        np.array(xs, np.float32).reshape(3, 1, 1, 1), np.array(labels), AS_STORED
    )
    module = OneWeight(0.75)
    result = fine_tune(module, dataset, steps=5, batch=3, rate=0.4)

    weight, velocity, losses = 0.75, 0.0, []
    for step in range(5):
        # Of label 0 the loss is log(1 + exp(-w x)), of label 1 log(1 + exp(w x)).
        signs = [-1 if label == 0 else 1 for label in labels]
        pairs = [sign * x for sign, x in zip(signs, xs, strict=True)]
        losses.append(sum(math.log1p(math.exp(weight * z)) for z in pairs) / 3)
        gradient = sum(z / (1 + math.exp(-weight * z)) for z in pairs) / 3
        velocity = 0.9 * velocity + gradient
        weight -= 0.4 * (1 + math.cos(math.pi * step / 5)) / 2 * velocity
    assert module.weight.item() == pytest.approx(weight, abs=1e-6)
    assert result.losses == pytest.approx(losses, abs=1e-6)
    assert result.resumed_at == 0


def test_it_learns():
    module, dataset = Tiny(), blobs(200)
    before = TopK(dataset)(module)
    result = fine_tune(module, dataset, steps=60, batch=16, rate=0.1)
    assert before < 0.5
    assert TopK(dataset)(module) > 0.95
    assert np.mean(result.losses[-10:]) < np.mean(result.losses[:10]) / 2


def test_only_what_requires_a_gradient_is_trained():
    module = Tiny()
    module.conv.requires_grad_(False)
    tuned(module=module)
    fresh = Tiny()
    assert torch.equal(module.conv.weight, fresh.conv.weight)
    assert not torch.equal(module.fc.weight, fresh.fc.weight)


def test_modes_random_numbers_and_progress():
    module, told = Tiny().eval(), []
    module.dropout.train()
    state = torch.random.get_rng_state()
    tuned(module=module, steps=2, progress=told.append)
    assert torch.equal(state, torch.random.get_rng_state())
    assert [part.training for part in module.modules()] == [False, False, True, False]
    assert module.drift.item() == pytest.approx(0.02)  # it was in training mode
    assert [each[:20] for each in told] == ["step 1 of 2: loss 1.", "step 2 of 2: loss 1."]


def test_what_is_drawn_at_random_depends_on_seed_and_step():
    def drawn(seed: int, batch: int) -> list[float]:
        numbers: list[float] = []

        def watching(inputs):
            numbers.append(torch.rand(()).item())
            return inputs

        tuned(seed=seed, batch=batch, augment=watching)
        return numbers

    one, other = drawn(3, 8), drawn(4, 8)
    assert len(set(one + other)) == 2 * STEPS
    torch.manual_seed(9)
    assert drawn(3, 7) == one


# --- killed and resumed -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[nn.Module, FineTuned, bytes]:
    """A run from the first to the last step, and its checkpoint."""
    path = tmp_path_factory.mktemp("whole") / "run.safetensors"
    module, result = tuned(path)
    return module, result, path.read_bytes()


def test_a_checkpoint_changes_nothing(whole):
    module, result = tuned()
    assert same(module, whole[0])
    assert result == whole[1]
    assert len(result.losses) == STEPS


@pytest.mark.parametrize("changes", [{"seed": 4}, {"augment": None}, {"batch": 7}, {"rate": 0.2}])
def test_other_settings_give_other_parameters(whole, changes):
    assert not same(tuned(**changes)[0], whole[0])


@pytest.mark.parametrize("stops", [(1,), (4,), (5,), (9, 9), (6, 11), (11,)])
def test_a_run_that_was_stopped_ends_where_one_that_was_not_does(tmp_path, whole, stops):
    path = tmp_path / "run.safetensors"
    for stop in stops:

        def stopping(text: str, stop: int = stop) -> None:
            if text.startswith(f"step {stop} "):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            tuned(path, progress=stopping)
        torch.manual_seed(stop)  # what others draw does not matter
    module, result = tuned(path)
    assert same(module, whole[0])
    assert result == FineTuned(whole[1].losses, stops[-1] // EVERY * EVERY)
    assert path.read_bytes() == whole[2]


def test_a_run_that_is_done_is_only_read(tmp_path, whole):
    path = tmp_path / "run.safetensors"
    path.write_bytes(whole[2])
    told: list[str] = []
    module, result = tuned(path, progress=told.append)
    assert same(module, whole[0])
    assert result == FineTuned(whole[1].losses, STEPS)
    assert told == []
    assert path.read_bytes() == whole[2]


def test_weights_laid_out_channels_last_resume_too(tmp_path):
    def module() -> nn.Module:
        module, generator = Tiny(), torch.Generator().manual_seed(6)
        module.conv = nn.Conv2d(2, 3, 3, padding=1).to(memory_format=torch.channels_last)
        for parameter in module.conv.parameters():
            nn.init.uniform_(parameter, -0.2, 0.2, generator)
        return module

    double = ArrayDataset(blobs().pixels.repeat(2, 1), blobs().labels, AS_STORED)
    path = tmp_path / "run.safetensors"
    run, _ = tuned(path, module(), dataset=double)
    again, _ = tuned(path, module(), dataset=double)
    assert same(run, again)
    assert again.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert not again.conv.weight.is_contiguous()


KILLED = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
from tests.quant.training.test_fine_tuning import tuned
from bfpsim.workloads.files import atomic

written = []
whole = atomic.replacing

class Half:
    def __init__(self, file):
        self.file = file

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

@contextmanager
def half(path):
    written.append(path)
    with whole(path) as file:
        yield file if len(written) == 1 else Half(file)

atomic.replacing = half
tuned(Path(sys.argv[1]))
"""


def test_a_kill_in_the_middle_of_writing_leaves_the_checkpoint_before(tmp_path, whole):
    path = tmp_path / "run.safetensors"
    root = Path(__file__).parents[3]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2  # and half a file beside it
    assert len(load_file(path)["losses"]) == EVERY
    module, result = tuned(path)
    assert same(module, whole[0])
    assert result == FineTuned(whole[1].losses, EVERY)


# --- checkpoints of something else --------------------------------------------------------------


class Wide(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(48, 5)


class More(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Parameter(torch.zeros(2))


def refused(path: Path, module: nn.Module | None = None, **changes) -> str:
    module = Tiny() if module is None else module
    before = [each.clone() for each in module.parameters()]
    with pytest.raises(WorkloadError) as caught:
        tuned(path, module, **changes)
    assert all(map(torch.equal, before, module.parameters()))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_the_checkpoint_of_another_run_is_refused(tmp_path, whole):
    path = tmp_path / "run.safetensors"
    path.write_bytes(whole[2])
    for change, written in (
        ({"seed": 4}, "seed=3; allowed: 4"),
        ({"steps": 13}, "steps=12; allowed: 13"),
        ({"batch": 9}, "batch=8; allowed: 9"),
        ({"rate": 0.2}, "rate=0.1; allowed: 0.2"),
        ({"name": "bfp8"}, "name=''; allowed: 'bfp8'"),
        ({"dataset": blobs(31)}, "images=30; allowed: 31"),
    ):
        message = refused(path, **change)
        assert message == f"checkpoint of a run with {written}, or another file"
    other = Tiny()
    with torch.no_grad():
        other.fc.bias += 2.0**-20
    for change in ({"module": other}, {"dataset": blobs(30, seed=9)}):
        assert refused(path, **change) == (
            "checkpoint of a run that began with other weights or images; allowed: those of that "
            "run, or another file"
        )
    assert refused(path, Wide()) == (
        "tensor 'module.fc.bias' is torch.float32 (4,); allowed: torch.float32 (5,)"
    )
    assert refused(path, Tiny().double()).endswith(
        "torch.float32 (3,); allowed: torch.float64 (3,)"
    )
    assert refused(path, More()).startswith("tensors missing: module.extra; allowed: a checkpoint")
    frozen = Tiny()
    frozen.conv.requires_grad_(False)
    assert refused(path, frozen).startswith(
        "tensors not the module's: momentum.conv.bias, momentum.conv.weight; allowed"
    )


def test_files_that_are_no_checkpoint_are_refused(tmp_path, whole):
    path = tmp_path / "run.safetensors"
    for data in (b"", b"PK\x03\x04", whole[2][:-1], whole[2] + b"\0", whole[2][:40]):
        path.write_bytes(data)
        assert refused(path).startswith("cannot be read as a safetensors file: ")
    path.write_bytes(whole[2])
    tensors = load_file(path)
    run = {"name": "", "steps": STEPS, "batch": 8, "rate": 0.1, "momentum": 0.9, "seed": 3}
    right = json.dumps(run | {"images": 30})

    def rewritten(text: str | None = right, **changes: torch.Tensor | None) -> str:
        new = {key: each for key, each in {**tensors, **changes}.items() if each is not None}
        save_file(new, path, None if text is None else {"fine-tuning": text})
        return refused(path)

    for text in (None, "", "{", "3"):
        assert rewritten(text).startswith(f"metadata fine-tuning={text!r}; allowed: a checkpoint")
    assert rewritten("{}").startswith("checkpoint of a run with name=None; allowed: ''")
    assert rewritten(losses=None).startswith("tensors missing: losses")
    for losses, count in ((torch.zeros(13), 13), (torch.zeros(0), 0)):
        assert rewritten(losses=losses.double()) == f"{count} losses; allowed: 1..12"
    for losses in (torch.zeros(()), torch.zeros(3, 4), torch.zeros(3)):
        assert rewritten(losses=losses).startswith("tensor 'losses' is torch.float32")


def test_a_checkpoint_that_cannot_be_written(tmp_path):
    nowhere = tmp_path / "no" / "run.safetensors"
    assert refused(nowhere) == "its folder does not exist; allowed: an existing one"
    assert refused(tmp_path).startswith("cannot be read as a safetensors file: ")


# --- what cannot go on --------------------------------------------------------------------------


class Breaks(OneWeight):
    """Its third step has a loss that is ``value``."""

    def __init__(self, value: float) -> None:
        super().__init__(0.5)
        self.value, self.calls = value, 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (self.value if self.calls == 3 else 1)


def dots(count: int = 4) -> ArrayDataset:
    pixels = np.ones((count, 1, 1, 1), np.float32)
    return ArrayDataset(pixels, np.zeros(count, int), AS_STORED)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_loss_that_is_not_finite_names_its_step(tmp_path, value):
    path = tmp_path / "run.safetensors"
    with pytest.raises(FormatError, match=r"step 3: loss (nan|inf); allowed: finite numbers"):
        fine_tune(Breaks(value), dots(), steps=5, batch=2, checkpoint=path, every=1)
    assert len(load_file(path)["losses"]) == 2


class Root(OneWeight):
    def forward(self, x):
        return super().forward(x) + self.weight.sqrt()


def test_a_parameter_that_is_not_finite_is_not_written(tmp_path):
    """The square root of 0 has an infinite slope: only the weight shows it."""
    path = tmp_path / "run.safetensors"
    with pytest.raises(FormatError) as caught:
        fine_tune(Root(0.0), dots(), steps=1, checkpoint=path)
    assert str(caught.value) == (
        "step 1: parameter 'weight' is NaN or infinite; allowed: finite numbers"
    )
    assert not path.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps=0; allowed: 1 or more"),
        ({"batch": 0}, "batch=0; allowed: 1 or more"),
        ({"every": 0}, "every=0; allowed: 1 or more"),
        ({"rate": 0.0}, "rate=0.0; allowed: a finite number above 0"),
        ({"rate": math.inf}, "rate=inf; allowed: a finite number above 0"),
        ({"rate": math.nan}, "rate=nan; allowed: a finite number above 0"),
        ({"seed": -1}, "seed=-1; allowed: 0 or more"),
        ({"module": nn.Flatten()}, "module Flatten: no parameter requires a gradient; allowed: at"),
        ({"module": nn.Conv2d(1, 2, 3)}, "module Conv2d: output (8, 2, 2, 2) for 8 images"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(WorkloadError) as caught:
        tuned(**changes)
    assert str(caught.value).startswith(message)


def test_labels_beyond_the_classes():
    dataset = ArrayDataset(blobs().pixels, np.full(30, 4), AS_STORED)
    with pytest.raises(WorkloadError, match=r"label 4 for module Tiny; allowed: 0\.\.3"):
        tuned(dataset=dataset)
