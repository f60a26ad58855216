"""One convolution layer: its loop dimensions, its stored tensors, and what makes it consistent."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import cast

from bfpsim.objects import immutable

Pair = tuple[int, int]
Shape = tuple[int, int, int, int]

# Far above any network, and low enough for counts of bits in 64-bit integers and for arrays over
# one dimension: a file of a few bytes can ask for any size.
LARGEST_EXTENT = 1 << 22
_LARGEST_WINDOW = 1 << 16  # rows or columns of a filter
_LARGEST_TENSOR = 1 << 36  # elements
_LARGEST_WORK = 1 << 56  # multiply-accumulates
_LONGEST_TEXT = 1_000  # characters of a name
# Unicode categories that move a terminal's cursor, break lines, hide or reorder what stands there.
_CONTROLS = ("Cc", "Cf", "Cs", "Zl", "Zp")


class WorkloadError(ValueError):
    """A layer, network or workload file is not usable; the message is one line that says why."""


@immutable
@dataclass(frozen=True, slots=True)
class ConvLayer:
    """A (grouped) 2-D convolution, named by its loop dimensions.

    ``K`` and ``C`` are output and input channels *per group*, ``P`` x ``Q`` output rows x columns,
    ``R`` x ``S`` filter rows x columns, ``N`` the batch, ``G`` the groups. ``stride`` and
    ``dilation`` are one int or (rows, columns); ``padding`` is one int, (rows, columns) or (top,
    bottom, left, right). ``H`` x ``W`` is the stored input without padding; left out, each is the
    least that the outputs need (with stride 2 the stored input may be one larger).

    Every spelling is normalised on construction, so equal layers compare and hash equal. Read the
    normalised values from `strides`, `dilations`, `paddings`, `height` and `width`.

    Raises `WorkloadError` for a name that is empty or holds control characters, a value that is not
    an int in range, sizes beyond what can be counted here, a kernel that exceeds the padded input,
    or an H (W) that does not give P (Q).
    """

    name: str
    K: int
    C: int
    P: int
    Q: int
    R: int = 1
    S: int = 1
    N: int = 1
    G: int = 1
    stride: int | Pair = 1
    padding: int | Pair | Shape = 0
    dilation: int | Pair = 1
    H: int | None = None
    W: int | None = None

    def __post_init__(self) -> None:
        check_name("layer", self.name)
        owner = f"layer {self.name!r}"
        for field in ("N", "G", "K", "C", "P", "Q", "R", "S"):
            self._normalise(field, integer(owner, field, getattr(self, field)))
        for field in ("stride", "dilation"):
            self._normalise(field, pair(owner, field, getattr(self, field)))
        top, bottom, left, right = four_sides(owner, self.padding)
        self._normalise("padding", (top, bottom, left, right))
        self._settle_extent("H", "P", "R", self.strides[0], (top, bottom), self.dilations[0])
        self._settle_extent("W", "Q", "S", self.strides[1], (left, right), self.dilations[1])
        self._check_sizes(owner)

    @classmethod
    def on_input(
        cls,
        name: str,
        input_shape: Shape,
        out_channels: int,
        kernel: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: int | Pair | Shape = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
    ) -> ConvLayer:
        """Return the layer that maps an (N, H, W, channels) input to ``out_channels`` channels.

        As in torch, both channel counts are those of all ``groups`` together.
        """
        owner = f"layer {name!r}"
        N, H, W, channels = input_shape
        R, S = pair(owner, "kernel", kernel)
        rows, cols = pair(owner, "stride", stride)
        row_step, col_step = pair(owner, "dilation", dilation)
        top, bottom, left, right = four_sides(owner, padding)
        if integer(owner, "out_channels", out_channels) % integer(owner, "groups", groups):
            raise WorkloadError(f"{owner}: groups={groups} must divide out_channels={out_channels}")
        if channels % groups:
            raise WorkloadError(f"{owner}: groups={groups} must divide the {channels} channels in")
        return cls(
            name,
            K=out_channels // groups,
            C=channels // groups,
            # A kernel that exceeds the input has no output: the layer itself reports that.
            P=max(1, output_extent(H, R, rows, (top, bottom), row_step)),
            Q=max(1, output_extent(W, S, cols, (left, right), col_step)),
            R=R,
            S=S,
            N=N,
            G=groups,
            stride=(rows, cols),
            padding=(top, bottom, left, right),
            dilation=(row_step, col_step),
            H=H,
            W=W,
        )

    @classmethod
    def linear(cls, name: str, in_features: int, out_features: int, N: int = 1) -> ConvLayer:
        """Return the fully connected layer (N, in) x (in, out) as a 1x1 convolution."""
        return cls(name, K=out_features, C=in_features, P=1, Q=1, N=N)

    @classmethod
    def depthwise_conv(
        cls,
        name: str,
        channels: int,
        P: int,
        Q: int,
        R: int,
        S: int,
        *,
        N: int = 1,
        stride: int | Pair = 1,
        padding: int | Pair | Shape = 0,
        dilation: int | Pair = 1,
        H: int | None = None,
        W: int | None = None,
    ) -> ConvLayer:
        """Return a convolution of each of ``channels`` channels with its own R x S filter."""
        return cls(name, 1, 1, P, Q, R, S, N, channels, stride, padding, dilation, H, W)

    @property
    def strides(self) -> Pair:
        """Stride as (rows, columns)."""
        return cast(Pair, self.stride)

    @property
    def dilations(self) -> Pair:
        """Dilation as (rows, columns)."""
        return cast(Pair, self.dilation)

    @property
    def paddings(self) -> Shape:
        """Padding as (top, bottom, left, right)."""
        return cast(Shape, self.padding)

    @property
    def height(self) -> int:
        """Stored input rows H, without padding."""
        return cast(int, self.H)

    @property
    def width(self) -> int:
        """Stored input columns W, without padding."""
        return cast(int, self.W)

    @property
    def dims(self) -> dict[str, int]:
        """Loop dimension -> extent, in the order N G K C P Q R S."""
        return {
            "N": self.N,
            "G": self.G,
            "K": self.K,
            "C": self.C,
            "P": self.P,
            "Q": self.Q,
            "R": self.R,
            "S": self.S,
        }

    @property
    def macs(self) -> int:
        """Multiply-accumulates, those with padding included: N G K C P Q R S."""
        return self.N * self.G * self.K * self.C * self.P * self.Q * self.R * self.S

    @property
    def input_shape(self) -> Shape:
        """Shape of I: (N, H, W, G*C)."""
        return self.N, self.height, self.width, self.G * self.C

    @property
    def weight_shape(self) -> Shape:
        """Shape of W: (G*K, C, R, S)."""
        return self.G * self.K, self.C, self.R, self.S

    @property
    def output_shape(self) -> Shape:
        """Shape of O: (N, P, Q, G*K)."""
        return self.N, self.P, self.Q, self.G * self.K

    @property
    def depthwise(self) -> bool:
        """Whether each group has a single input channel, and there are several groups."""
        return self.C == 1 and self.G > 1

    def batched(self, n: int) -> ConvLayer:
        """Return this layer with a batch of ``n``."""
        return replace(self, N=n)

    def _settle_extent(
        self, stored: str, output: str, kernel: str, stride: int, pads: Pair, dilation: int
    ) -> None:
        """Derive the stored input extent along one axis, or check the one given."""
        owner = f"layer {self.name!r}"
        outputs, taps, extent = (getattr(self, field) for field in (output, kernel, stored))
        if extent is None:
            extent = max(1, (outputs - 1) * stride + span(taps, dilation) - sum(pads))
        else:
            extent = integer(owner, stored, extent)
            least = max(1, span(taps, dilation) - sum(pads))
            if extent < least:
                raise WorkloadError(
                    f"{owner}: {stored}={extent} must be at least {least}: with padding {pads} "
                    f"it must hold the kernel {kernel}={taps} at dilation {dilation}"
                )
        gives = output_extent(extent, taps, stride, pads, dilation)
        if gives != outputs:
            raise WorkloadError(
                f"{owner}: {output}={outputs} must be {gives}, which {stored}={extent}, "
                f"{kernel}={taps}, stride {stride}, padding {pads} and dilation {dilation} give"
            )
        self._normalise(stored, extent)

    def _check_sizes(self, owner: str) -> None:
        for shape in (self.input_shape, self.weight_shape, self.output_shape):
            check_shape(owner, shape)
        if max(self.R, self.S) > _LARGEST_WINDOW:
            raise WorkloadError(
                f"{owner}: a filter of {self.R} x {self.S}; allowed: at most {_LARGEST_WINDOW} each"
            )
        check_work(owner, self.macs)

    def _normalise(self, field: str, value: object) -> None:
        object.__setattr__(self, field, value)


def check_name(kind: str, name: object) -> None:
    """Raise `WorkloadError` unless a name is text that is not empty, printable, and not too long.

    ``kind`` says what bears the name.
    """
    if not isinstance(name, str) or not name.strip():
        raise WorkloadError(f"{kind} {name!r}: name must be a non-empty string")
    check_text(kind, name)


def check_text(kind: str, text: str) -> None:
    """Raise `WorkloadError` for control characters, or text beyond a name's length."""
    if len(text) > _LONGEST_TEXT:
        raise WorkloadError(
            f"{kind} {text[:40]!r}...: {len(text)} characters; allowed: at most {_LONGEST_TEXT}"
        )
    control = next((one for one in text if is_control(one)), None) if text else None
    if control is not None:
        raise WorkloadError(
            f"{kind} {text!r}: holds the control character {control!r}; allowed: printable text"
        )


def is_control(character: str) -> bool:
    """Return whether a character acts on a terminal or on its neighbours, and shows nothing."""
    return not character.isprintable() and unicodedata.category(character) in _CONTROLS


def check_shape(owner: str, shape: Sequence[int]) -> None:
    """Raise `WorkloadError` for sizes beyond what can be counted here."""
    elements = 1
    for extent in shape:
        elements *= extent
        if extent > LARGEST_EXTENT or elements > _LARGEST_TENSOR:
            raise WorkloadError(
                f"{owner}: a tensor of {' x '.join(map(str, shape))} elements; allowed: at most "
                f"{LARGEST_EXTENT} along an axis and {_LARGEST_TENSOR} in all"
            )


def check_work(owner: str, macs: int) -> None:
    """Raise `WorkloadError` for more multiply-accumulates than can be counted here."""
    if macs > _LARGEST_WORK:
        raise WorkloadError(
            f"{owner}: {macs} multiply-accumulates; allowed: at most {_LARGEST_WORK}"
        )


def span(taps: int, dilation: int) -> int:
    """Return the input elements from a kernel's first tap to its last."""
    return (taps - 1) * dilation + 1


def output_extent(extent: int, taps: int, stride: int, pads: Pair, dilation: int = 1) -> int:
    """Return how many outputs a window of ``taps`` has along an axis of ``extent`` elements.

    ``pads`` is the padding (before, after). At most 0 if the window exceeds the padded axis.
    """
    return (extent + sum(pads) - span(taps, dilation)) // stride + 1


def integer(owner: str, field: str, value: object, least: int = 1, most: int | None = None) -> int:
    """Return ``value`` as an int in range, or raise `WorkloadError` naming owner and field."""
    # bool is an Integral, but K=True is a slip of the caller's, not a size.
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise WorkloadError(f"{owner}: {field}={value!r} must be an int >= {least}")
    if most is not None and int(value) > most:
        raise WorkloadError(f"{owner}: {field}={value!r} must be at most {most}")
    return int(value)


def pair(owner: str, field: str, value: object, least: int = 1) -> Pair:
    """Return one int or (rows, columns) as a pair of ints >= ``least``, or raise likewise."""
    items = value if isinstance(value, Sequence) else (value, value)
    if len(items) != 2:
        raise WorkloadError(f"{owner}: {field}={value!r} must be an int or (rows, columns)")
    rows, columns = (integer(owner, field, item, least, LARGEST_EXTENT) for item in items)
    return rows, columns


def four_sides(owner: str, padding: object) -> Shape:
    """Return padding as (top, bottom, left, right), or raise `WorkloadError` naming the owner."""
    if isinstance(padding, Sequence) and len(padding) == 4:
        top, bottom, left, right = (
            integer(owner, "padding", side, 0, LARGEST_EXTENT) for side in padding
        )
        return top, bottom, left, right
    if isinstance(padding, Sequence) and len(padding) != 2:
        raise WorkloadError(
            f"{owner}: padding={padding!r} must be an int, (rows, columns) or "
            "(top, bottom, left, right)"
        )
    rows, cols = pair(owner, "padding", padding, 0)
    return rows, rows, cols, cols
