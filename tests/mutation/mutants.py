# SPDX-License-Identifier: GPL-2.0-only
"""Every way to change one spot of a module's syntax tree: another operator, another number, a line left out.

What a test cannot see is not changed: annotations, docstrings, the texts of reasons and of errors.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
UNCHANGED = -1
"""The number of the mutant that changes nothing."""
_UNSEEN = (ast.JoinedStr, ast.Raise, ast.Import, ast.ImportFrom, ast.Assert)


@dataclass(frozen=True)
class Mutant:
    """One change: where it is, what was there and what is there now."""

    file: Path
    line: int
    number: int
    """Of the mutants of its file, in the order of the text."""
    was: str
    now: str

    def __str__(self) -> str:
        return f"{self.file.name}:{self.line}: {self.was}  ->  {self.now}"


def mutants_of(file: Path) -> list[Mutant]:
    """All mutants of a Python file."""
    tree = ast.parse(file.read_text())
    return [
        Mutant(file, getattr(node, "lineno", 0), number, ast.unparse(node), _shown(changed))
        for number, (node, changed) in enumerate(_changes(tree))
    ]


@dataclass(frozen=True)
class Spot:
    """Where a mutant's change happens: the lines of its statement (of its head only, if it holds others), and the
    outermost function whose body it is in (qualified as in ``__qualname__``, with its first line), if any."""

    lines: range
    function: tuple[str, int] | None


def spot_of(mutant: Mutant) -> Spot:
    """Where the change happens."""
    return _spots(mutant.file)[mutant.number]


@cache
def _spots(file: Path) -> list[Spot]:
    """Of all mutants of a file."""
    tree = ast.parse(file.read_text())
    wanted = {id(node): number for number, (node, _) in enumerate(_changes(tree))}
    found: dict[int, Spot] = {}

    def walk(node: ast.AST, lines: range, names: tuple[str, ...], function: tuple[str, int] | None) -> None:
        if id(node) in wanted:
            found[id(node)] = Spot(lines, function)
        is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        if is_function or isinstance(node, ast.ClassDef):
            names = (*names, node.name)  # type: ignore[attr-defined]
        for name, value in ast.iter_fields(node):
            inside = function
            if is_function and name == "body" and function is None:
                inside = (".".join(names), _first(node))  # type: ignore[arg-type]
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    walk(child, _lines(child) if isinstance(child, ast.stmt) else lines, names, inside)

    walk(tree, range(0), (), None)
    return [found[id(node)] for node, _ in _changes(tree)]


def _lines(statement: ast.stmt) -> range:
    body = getattr(statement, "body", None) or getattr(statement, "cases", None)
    end = statement.end_lineno or statement.lineno
    if body:
        end = max(statement.lineno, _first(body[0]) - 1)
    return range(statement.lineno, end + 1)


def _first(node: ast.AST) -> int:
    if isinstance(node, ast.match_case):
        node = node.pattern
    return min([node.lineno, *(place.lineno for place in getattr(node, "decorator_list", []))])  # type: ignore[attr-defined]


def mutated_tree(mutant: Mutant) -> ast.Module:
    """The syntax tree of the mutant's file with that one change."""
    tree = ast.parse(mutant.file.read_text())
    if mutant.number == UNCHANGED:
        return tree
    for number, (node, changed) in enumerate(_changes(tree)):
        if number == mutant.number:
            _Swap(node, changed).visit(tree)
            return ast.fix_missing_locations(tree)
    raise ValueError(f"{mutant.file} has no mutant {mutant.number}: it changed since they were counted")


class _Swap(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST | None) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        if node is self.old:
            return ast.copy_location(self.new if self.new is not None else ast.Pass(), node)
        visited: ast.AST = self.generic_visit(node)
        return visited


def _shown(changed: ast.AST | None) -> str:
    return "(left out)" if changed is None else ast.unparse(ast.fix_missing_locations(copy.deepcopy(changed)))


def _changes(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.AST | None]]:
    """(node, what it becomes); None leaves a statement out."""
    for node in _seen(tree):
        yield from _of(node)


def _seen(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes whose change can show, outermost first."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params", "bases"):
            continue
        if _is_name_only(node):
            value = [child for child in value if not isinstance(child, ast.Assign)] if name == "body" else value
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not (isinstance(child, _UNSEEN) or _is_text(child) or _is_strict(child)):
                yield from _seen(child)


def _is_name_only(node: ast.AST) -> bool:
    """Values of an Enum's members: no rule computes with them (one of an IntEnum is a number like others), so that
    another value that no other member has can change nothing."""
    return isinstance(node, ast.ClassDef) and any(
        isinstance(base, ast.Name) and base.id == "Enum" for base in node.bases
    )


def _is_strict(node: ast.AST) -> bool:
    """``strict=True`` of a zip: an assertion like others, which never speaks where the lengths are the same."""
    return isinstance(node, ast.keyword) and node.arg == "strict"


def _is_text(node: ast.AST) -> bool:
    """Docstrings and strings: names of counters stay, for a misspelt one is noticed by every table."""
    if isinstance(node, ast.Expr):
        node = node.value
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _of(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST | None]]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield node, ast.Compare(node.left, [_other(node.ops[0])], node.comparators)  # type: ignore[list-item]
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        yield node, ast.BinOp(node.left, _other(node.op), node.right)  # type: ignore[arg-type]
    elif isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
        yield node, ast.AugAssign(node.target, _other(node.op), node.value)  # type: ignore[arg-type]
    elif isinstance(node, ast.BoolOp):
        yield node, ast.BoolOp(_other(node.op), node.values)  # type: ignore[arg-type]
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.UAdd):
        yield node, node.operand
    elif isinstance(node, ast.Constant):
        yield from _of_constant(node)
    elif isinstance(node, (ast.If, ast.IfExp)):
        yield node.test, ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield node, None
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "replace":
        for left_out in node.keywords:
            yield node, ast.Call(node.func, node.args, [kept for kept in node.keywords if kept is not left_out])


def _of_constant(node: ast.Constant) -> Iterator[tuple[ast.AST, ast.AST | None]]:
    if isinstance(node.value, bool):
        yield node, ast.Constant(not node.value)
    elif isinstance(node.value, int):
        yield node, ast.Constant(node.value + 1)


def _other(op: ast.AST) -> ast.AST:
    return OPERATORS[type(op)]()
