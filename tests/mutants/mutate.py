"""Mutants: copies of a module's source with one thing in it made wrong.

A mutant is known by what it changes and in which function, not by its line, so that it stays the
same mutant when code elsewhere in the module changes.
"""

from __future__ import annotations

import ast
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_COMPARISON: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_EXTREMES = {
    "min": "max",
    "max": "min",
    "minimum": "maximum",
    "maximum": "minimum",
    "any": "all",
    "all": "any",
}
_SKIPPED_FIELDS = {"annotation", "returns", "decorator_list", "type_params", "bases"}
_SKIPPED_NODES = (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Assert)
_SKIPPED_FUNCTIONS = {"__repr__", "__str__"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change to one module.

    place, variant: of the changed node among all of the module's, and which of its changes
    line, text: where it is, for readers
    number: tells changes apart that look the same in one function
    """

    module: str
    function: str
    operator: str
    was: str
    becomes: str
    number: int
    line: int
    text: str
    place: int
    variant: int

    @property
    def key(self) -> tuple[str, str, str, str, str, int]:
        """What it is known by."""
        return (
            self.module, self.function, self.operator, self.was, self.becomes, self.number,
        )  # fmt: skip

    def rank(self, seed: int) -> bytes:
        """A place in a shuffled order."""
        return hashlib.sha256(repr((seed, *self.key)).encode()).digest()


def mutants_of(module: str, source: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its source."""
    tree, lines = ast.parse(source), source.splitlines()
    places = {id(node): place for place, node in enumerate(ast.walk(tree))}
    found: list[Mutant] = []
    seen: Counter[tuple[str, str, str, str, str, int]] = Counter()
    for node, function in _nodes(tree, ""):
        for variant, (operator, changed) in enumerate(_changes(node)):
            line: int = node.lineno  # type: ignore[attr-defined]
            one = Mutant(
                module, function, operator, _look(node), _look(changed), 0,
                line, lines[line - 1].strip(), places[id(node)], variant,
            )  # fmt: skip
            found.append(replace(one, number=seen[one.key]))
            seen[one.key] += 1
    return found


def mutated(source: str, mutant: Mutant) -> str:
    """The module's source with the change made."""
    tree = ast.parse(source)
    node = list(ast.walk(tree))[mutant.place]
    _, changed = list(_changes(node))[mutant.variant]

    class Replacement(ast.NodeTransformer):
        def visit(self, at: ast.AST) -> ast.AST:
            return changed if at is node else self.generic_visit(at)

    return ast.unparse(ast.fix_missing_locations(Replacement().visit(tree))) + "\n"


def sample(mutants: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """The first `count` of them in a shuffled order in which operators take turns."""
    by_operator: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in sorted(mutants, key=lambda one: one.rank(seed)):
        by_operator[mutant.operator].append(mutant)
    turns = [(turn, one) for own in by_operator.values() for turn, one in enumerate(own)]
    turns.sort(key=lambda each: (each[0], each[1].rank(seed)))
    return [one for _, one in turns[:count]]


def _nodes(node: ast.AST, function: str) -> Iterator[tuple[ast.AST, str]]:
    """Nodes that may be changed, with the function that they are in."""
    for name, value in ast.iter_fields(node):
        if name in _SKIPPED_FIELDS:
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, _SKIPPED_NODES):
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            inside = function
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                if child.name in _SKIPPED_FUNCTIONS:
                    continue
                inside = f"{function}.{child.name}" if function else child.name
            yield child, inside
            yield from _nodes(child, inside)


def _look(node: ast.AST) -> str:
    """A node as source; of a statement with a body, its condition."""
    if isinstance(node, ast.If | ast.While):
        return f"{type(node).__name__.lower()} {ast.unparse(node.test)}"
    return ast.unparse(node)


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What may stand in place of a node, by operator."""
    match node:
        case ast.BinOp(left, op, right) if type(op) in _ARITHMETIC:
            yield "arithmetic", ast.BinOp(left, _ARITHMETIC[type(op)](), right)
        case ast.AugAssign(target, op, value):
            yield "no update", ast.Pass()
            if type(op) in _ARITHMETIC:
                yield "arithmetic", ast.AugAssign(target, _ARITHMETIC[type(op)](), value)
        case ast.Compare(left, ops, comparators):
            for at, op in enumerate(ops):
                other = [*ops[:at], _COMPARISON[type(op)](), *ops[at + 1 :]]
                yield "comparison", ast.Compare(left, other, comparators)
        case ast.Constant(value) if type(value) is int:
            yield "constant", ast.Constant(value + 1)
            if value > 0:
                yield "constant", ast.Constant(value - 1)
        case ast.Call(ast.Name(name), args, keywords) if name in _EXTREMES:
            yield "extreme", ast.Call(ast.Name(_EXTREMES[name]), args, keywords)
        case ast.Call(ast.Attribute(value, name), args, keywords) if name in _EXTREMES:
            yield "extreme", ast.Call(ast.Attribute(value, _EXTREMES[name]), args, keywords)
        case ast.BoolOp(op, values):
            yield "and, or", ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(ast.Not() | ast.Invert(), operand):
            yield "not", operand
        case ast.UnaryOp(ast.USub(), operand) if not isinstance(operand, ast.Constant):
            yield "sign", operand
        case ast.If(test, body, orelse):
            yield "condition", ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.While(test, body, orelse):
            yield "condition", ast.While(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.IfExp(test, body, orelse):
            yield "condition", ast.IfExp(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Slice(lower, upper, step) if lower is not None or upper is not None:
            yield "bounds", ast.Slice(upper, lower, step)
        case ast.Subscript(value, ast.Constant(0), ctx):
            yield "first, last", ast.Subscript(value, ast.Constant(-1), ctx)
        case ast.Subscript(value, ast.UnaryOp(ast.USub(), ast.Constant(1)), ctx):
            yield "first, last", ast.Subscript(value, ast.Constant(0), ctx)
