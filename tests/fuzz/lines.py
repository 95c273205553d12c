"""Which lines of the decoders are reached.

Lines of a decoder are the statements inside its functions: what is run as a module is imported is
not counted. A statement over several lines counts as one.
"""

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any, Self, TypeAlias

Line: TypeAlias = tuple[str, int]
"""A file and the number of a line."""


class Lines:
    """The lines of some decoders, and which of them are reached while it `watches`.

    A line is looked for until it is reached, so that watching costs little.

    Args:
        decoders: Modules, and of each the names of functions, or none for all of them.

    Attributes:
        reached: The lines that were reached, in that order.
    """

    def __init__(self, decoders: Mapping[ModuleType, Sequence[str]]) -> None:
        self._statements = {str(m.__file__): _statements(m, names) for m, names in decoders.items()}
        self._pending: dict[int, tuple[CodeType, set[int]]] = {}
        self.reached: dict[Line, None] = {}

    def anew(self) -> Self:
        """Return the same lines, none of them reached."""
        other = copy(self)
        other._pending, other.reached = {}, {}
        return other

    @property
    def all(self) -> set[Line]:
        """All lines of the decoders."""
        return {(file, n) for file, lines in self._statements.items() for n in lines.values()}

    @contextmanager
    def watches(self) -> Iterator[None]:
        """Note the lines that are reached inside."""
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(before)

    def _called(self, frame: FrameType, _event: str, _arg: Any) -> Any:
        code = frame.f_code
        _, pending = self._pending.get(id(code)) or self._first_call(code)
        return self._stepped if pending else None

    def _first_call(self, code: CodeType) -> tuple[CodeType, set[int]]:
        statements = self._statements.get(code.co_filename, {})
        lines = {line for _, _, line in code.co_lines() if line in statements}
        # The code is held so that no other takes its id.
        self._pending[id(code)] = code, {line for line in lines if line is not None}
        return self._pending[id(code)]

    def _stepped(self, frame: FrameType, event: str, _arg: Any) -> Any:
        _, pending = self._pending[id(frame.f_code)]
        if event == "line" and frame.f_lineno in pending:
            pending.discard(frame.f_lineno)
            file = frame.f_code.co_filename
            self.reached[file, self._statements[file][frame.f_lineno]] = None
        return self._stepped if pending else None


def _statements(module: ModuleType, names: Sequence[str]) -> dict[int, int]:
    """Return the line at which the statement begins that each line of some functions is part of."""
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    functions = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and (not names or node.name in names)
    ]
    missing = {*names} - {function.name for function in functions}
    assert not missing, f"{module.__name__} has no functions {sorted(missing)}"
    begins: dict[int, int] = {}
    for function in functions:
        for node in ast.walk(function):  # a statement before those inside it
            is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if isinstance(node, ast.stmt) and node is not function and not is_text:
                last = node.end_lineno or node.lineno
                begins |= dict.fromkeys(range(node.lineno, last + 1), node.lineno)
    return begins
