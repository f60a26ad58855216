"""Damaged and crafted inputs from good ones, by a seeded generator."""

from __future__ import annotations

import random
import re

_ODD_BYTES = (b"\0", b"\xff", b"\x1b[31m", b"\n", b"\r", b"'", b'"', b",", b"\x80\x02", b"\xfe\xff")
_NUMBERS = (
    *("0", "-1", "1", "2", "007", "1.5", "1e3", "1e308", "1e999", "nan", "inf", "-inf", "0x10"),
    *("255", "65536", "134217728", "2147483647", "4294967295", "9223372036854775807"),
    *("18446744073709551616", "9" * 30, "9" * 300, "9" * 5000, "²", "٣", "1_000", "+5", ".5"),
)
_WORDS = (
    *(
        "",
        " ",
        "null",
        "~",
        "true",
        "yes",
        "x",
        "name",
        "inputs",
        "conv",
        "linear",
        "input",
        "host",
    ),
    *("os:abort", "a.py:b", "=1+1", "@x", "'", "$\\frac{x$", "\x1b[31m", "\u202e", "\u2028", "é"),
    *(
        "[",
        "]",
        "{",
        "}",
        "[]",
        "{}",
        "- ",
        "? ",
        ": ",
        "&a ",
        "*a",
        "!!bool x",
        "!!python/name:os",
    ),
    *(
        "!!binary x",
        "!!set {a}",
        "!!timestamp x",
        "<<: *a",
        "|",
        ">",
        "#",
        "%YAML 9.9\n---\n",
        "%YAML 1.9\n---\n",
    ),
    *(
        "[[a]]: 1\n",
        "{a: 1}: 2\n",
        "\t",
        "\n",
        "\r\n",
        "\0",
        "...",
        "---\n",
        "[" * 400,
        "{a: " * 400,
    ),
    *(
        ";",
        ",",
        '"',
        '""',
        "1x2",
        "1x2x3x4",
        "1:1",
        "2:4",
        "64 KiB",
        "1e99 GiB",
        "bfp8",
        "a" * 2000,
    ),
)
_TOKEN = re.compile(r"[A-Za-z_]+|[0-9]+(?:\.[0-9]+)?|\s+|.", re.DOTALL)


def damaged(rng: random.Random, seeds: list[bytes]) -> bytes:
    """One of the seeds after one to three changes of bytes."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        end = min(end, at + rng.choice((1, 4, 64, 4096)))
        match rng.randrange(8):
            case 0 | 1:
                for _ in range(rng.choice((1, 1, 2, 8))):
                    if data:
                        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            case 2:
                del data[at:]
            case 3:
                del data[at:end]
            case 4:
                data[at:at] = rng.choice(_ODD_BYTES)
            case 5:
                data[at:end] = bytes(rng.randrange(256) for _ in range(end - at))
            case 6:
                data[at:at] = data[at:end] * rng.choice((1, 2, 50))
            case _:
                other = rng.choice(seeds)
                data[at:end] = other[rng.randrange(len(other) + 1) :][: rng.choice((4, 64, 4096))]
    return bytes(data)


def rewritten(rng: random.Random, seeds: list[str]) -> str:
    """One of the seeds, texts, after one to four changes of words, numbers, and lines."""
    text = rng.choice(seeds)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if rng.random() < 0.2:
            text = _with_other_lines(rng, text, seeds)
            continue
        tokens = _TOKEN.findall(text) or [""]
        at = rng.randrange(len(tokens))
        if rng.random() < 0.5:  # numbers and words before blanks
            solid = [place for place, token in enumerate(tokens) if token.strip()] or [0]
            at = rng.choice(solid)
        match rng.randrange(6):
            case 0:
                tokens[at] = rng.choice(_NUMBERS)
            case 1:
                tokens[at] = rng.choice(_WORDS)
            case 2:
                tokens.insert(at, rng.choice(_WORDS + _NUMBERS))
            case 3:
                del tokens[at]
            case 4:
                tokens[at] = rng.choice(_TOKEN.findall(rng.choice(seeds)) or [""])
            case _:
                number = [place for place, token in enumerate(tokens) if token.isdecimal()] or [at]
                tokens[rng.choice(number)] = rng.choice(_NUMBERS)
        text = "".join(tokens)
    return text


def _with_other_lines(rng: random.Random, text: str, seeds: list[str]) -> str:
    lines = text.splitlines(keepends=True) or [""]
    at = rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[at])
        case 2:
            other = rng.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            lines.insert(at, rng.choice(rng.choice(seeds).splitlines(keepends=True) or [""]))
        case _:
            lines[at] = " " * rng.randrange(4) + lines[at].lstrip(" ")
    return "".join(lines)
