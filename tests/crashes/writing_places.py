"""Finds every call in our code that writes state: files, folders, rows of the store, and processes."""

import ast
from pathlib import Path

from crash_point import Place

import jobs

ROOT = Path(jobs.__file__).parents[1]
PACKAGES = ("scheduler", "jobs", "augment", "models")

OUR_WRITERS = {
    *("append_line", "drop_lines_after", "save_checkpoint", "save_weights", "write_record", "write_view"),
    *("make_private_folder", "make_store", "open_private", "write_atomically", "_transaction"),
}
LIBRARY_WRITERS = {
    *("backup", "copy2", "ftruncate", "link", "mkdir", "rename", "rmtree", "touch", "truncate", "unlink"),
    *("Popen", "folder_beside", "write_bytes", "write_text"),
}
WRITING_SQL = ("INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "PRAGMA user_version =")


def writing_places() -> set[Place]:
    """Statements of a transaction count as the transaction."""
    found: set[Place] = set()
    for file in (file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        finder = _Finder(".".join(file.relative_to(ROOT).with_suffix("").parts))
        finder.visit(ast.parse(file.read_text()))
        found |= finder.places
    in_transactions = {place.caller for place in found if place.callee == "_transaction"}
    return {one for one in found if not (one.callee.startswith("execute") and one.caller in in_transactions)}


class _Finder(ast.NodeVisitor):
    def __init__(self, module: str) -> None:
        self.places: set[Place] = set()
        self._module = module
        self._scopes: list[ast.AST] = []  # classes and functions

    def visit_Name(self, node: ast.Name) -> None:
        """Not only calls: what writes may also be handed on, to be called when there is room."""
        if node.id in OUR_WRITERS:
            self._found(node.id)

    def visit_Call(self, node: ast.Call) -> None:
        if (callee := _writer(node)) is not None:
            self._found(callee)
        self.generic_visit(node)

    def _found(self, callee: str) -> None:
        self.places.add(Place(f"{self._module}:{self._function()}", callee))

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._enter(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._enter(node)

    def _enter(self, node: ast.ClassDef | ast.FunctionDef) -> None:
        self._scopes.append(node)
        self.generic_visit(node)
        self._scopes.pop()

    def _function(self) -> str:
        """What is called; a function in a function counts as the outer one."""
        names = []
        for scope in self._scopes:
            names.append(scope.name)  # type: ignore[attr-defined]
            if isinstance(scope, ast.FunctionDef):
                break
        return ".".join(names)


def _writer(call: ast.Call) -> str | None:
    """The name of the function that is called, if it writes."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in OUR_WRITERS | LIBRARY_WRITERS or (name in ("execute", "executemany") and _writes(call.args[0])):
        return name
    is_of_path = (
        name == "replace" and isinstance(call.func, ast.Attribute) and len(call.args) == 1 and not call.keywords
    )
    return "replace" if is_of_path else None


def _writes(statement: ast.expr) -> bool:
    if isinstance(statement, ast.JoinedStr):
        statement = statement.values[0]
    return isinstance(statement, ast.Constant) and str(statement.value).startswith(WRITING_SQL)
