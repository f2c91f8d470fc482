"""Small mistakes of one source text, one at a time: mutmut's operators and three of our own."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation import mutators


@dataclass(frozen=True)
class Mutant:
    """One mistake: the file's whole text with it, and the lines that differ, without their indentation."""

    path: str
    line: int
    kind: str
    text: str
    before: str
    after: str


def skipped_check(node: cst.If) -> Iterator[cst.If]:
    yield node.with_changes(test=cst.Name("False"))


def missing_statement(node: cst.Expr) -> Iterator[cst.Pass]:
    if isinstance(node.value, cst.Call):
        yield cst.Pass()


def missing_term(node: cst.BinaryOperation) -> Iterator[cst.BaseExpression]:
    if isinstance(node.operator, cst.Add | cst.Subtract | cst.Multiply | cst.Divide):
        yield node.left


def missing_keyword(node: cst.Call) -> Iterator[cst.Call]:
    for at, argument in enumerate(node.args):
        if argument.keyword is not None and argument.keyword.value not in _GUARDS:
            yield node.with_changes(args=[*node.args[:at], *node.args[at + 1 :]])


def swapped_arguments(node: cst.Call) -> Iterator[cst.Call]:
    named = _name_of(node)
    if len(node.args) > 1 and not any(a.keyword or a.star for a in node.args[:2]) and named not in _ANY_ORDER:
        first, second = node.args[:2]
        swapped = [first.with_changes(value=second.value), second.with_changes(value=first.value)]
        yield node.with_changes(args=[*swapped, *node.args[2:]])


def _name_of(call: cst.Call) -> str:
    """What is called, without the object that it belongs to."""
    named = call.func.attr if isinstance(call.func, cst.Attribute) else call.func
    return named.value if isinstance(named, cst.Name) else ""


# Functions that give the same for their first two arguments exchanged (or, of `isinstance`, nothing but an error).
_ANY_ORDER = ("isinstance", "max", "min", "maximum", "minimum", "equal", "array_equal", "_apart")
# Of lists made side by side, of what a CPU does not tell apart, and of the line that a warning names.
_GUARDS = ("strict", "device", "stacklevel")

# Left out of mutmut's: what becomes None, loses a positional argument or gets a name that nothing has. Such a mutant
# ends in a TypeError wherever it is run, so it says little about the tests and would only raise their share.
OPERATORS: list[tuple[type, Callable[..., Iterable[cst.CSTNode]]]] = [
    (cst.BaseNumber, mutators.operator_number),
    (cst.SimpleString, mutators.operator_string),
    (cst.Name, mutators.operator_name),
    (cst.AugAssign, mutators.operator_augmented_assignment),
    (cst.UnaryOperation, mutators.operator_remove_unary_ops),
    (cst.Call, mutators.operator_symmetric_string_methods_swap),
    (cst.CSTNode, mutators.operator_keywords),
    (cst.CSTNode, mutators.operator_swap_op),
    (cst.IfExp, mutators.operator_if_exp),
    (cst.Call, missing_keyword),
    (cst.Call, swapped_arguments),
    (cst.BinaryOperation, missing_term),
    (cst.If, skipped_check),
    (cst.Expr, missing_statement),
]

# Types, imports and what is said when something is raised: nothing is computed there.
_NOT_COMPUTED = (cst.Annotation, cst.Decorator, cst.Raise, cst.Import, cst.ImportFrom)


def _not_computed(node: cst.CSTNode) -> bool:
    """Text for people, types, and what only guards."""
    if isinstance(node, cst.If):
        return isinstance(node.test, cst.Name) and node.test.value == "TYPE_CHECKING"
    if isinstance(node, cst.SimpleString):
        return " " in node.value
    if isinstance(node, cst.Arg) and node.keyword is not None:
        return node.keyword.value in _GUARDS
    if isinstance(node, cst.Subscript):
        return isinstance(node.value, cst.Name) and node.value.value == "Literal"
    return isinstance(node, cst.Call) and (_name_of(node) in ("cast", "TypeVar") or _is_number_as_text(node))


def _is_number_as_text(call: cst.Call) -> bool:
    """`float("inf")`: the same in capital letters, and an error at once with any other."""
    return _name_of(call) == "float" and len(call.args) == 1 and isinstance(call.args[0].value, cst.SimpleString)


class _Finder(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, left_out: Collection[str]) -> None:
        super().__init__()
        self.left_out = left_out
        # line -> kind -> the nodes and what takes their place
        self.found: dict[int, dict[str, list[tuple[cst.CSTNode, cst.CSTNode]]]] = defaultdict(lambda: defaultdict(list))

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, _NOT_COMPUTED) or _not_computed(node):
            return False
        if isinstance(node, cst.FunctionDef) and node.name.value in self.left_out:
            return False
        position = self.get_metadata(PositionProvider, node, None)
        for kind, operator in OPERATORS:
            if position is not None and isinstance(node, kind):
                name = operator.__name__.removeprefix("operator_")
                self.found[position.start.line][name] += [(node, made) for made in operator(node)]
        return True


def mutants(path: str, source: str, seed: str, left_out: Collection[str] = ()) -> Iterator[Mutant]:
    """Every line's mutants, in an order drawn by the seed: first one of each line, then a second, and so on. Functions
    that are `left_out` have none.

    Which of a line's mutants comes first is drawn by kind, so that the many of one kind do not crowd out the rest.
    """
    wrapper = MetadataWrapper(cst.parse_module(source))
    finder = _Finder(left_out)
    wrapper.visit(finder)
    draw = random.Random(seed)
    rounds: dict[int, list[tuple[int, str, cst.CSTNode, cst.CSTNode]]] = defaultdict(list)
    for line, kinds in sorted(finder.found.items()):
        left = {kind: draw.sample(pairs, len(pairs)) for kind, pairs in kinds.items() if pairs}
        for turn in range(sum(map(len, left.values()))):
            kind = draw.choice([kind for kind in left if left[kind]])
            rounds[turn].append((line, kind, *left[kind].pop()))
    for turn in sorted(rounds):
        for line, kind, old, new in draw.sample(rounds[turn], len(rounds[turn])):
            text = cst.ensure_type(wrapper.module.deep_replace(old, new), cst.Module).code
            yield Mutant(path, line, kind, text, *_changed(source, text))


def _changed(old: str, new: str) -> tuple[str, str]:
    before, after = old.splitlines(), new.splitlines()
    while before and after and before[0] == after[0]:
        del before[0], after[0]
    while before and after and before[-1] == after[-1]:
        del before[-1], after[-1]
    return " ".join(line.strip() for line in before), " ".join(line.strip() for line in after)
