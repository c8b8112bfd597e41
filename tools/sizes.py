"""Measure the house: files of at most 250 lines, functions of at most 40, two levels of packages.

Usage: python tools/sizes.py [FOLDER]    (default: src/isthmus)

A function is counted from its `def` to its last line, without decorators and docstring; a function within a
function counts towards both. Prints one line for each thing that is too large and exits with 1; exits with 2
where it finds no Python file at all, so that a wrong path is no pass.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_LINES, FUNCTION_LINES, LEVELS = 250, 40, 2


def complaints(root: Path) -> Iterator[str]:
    """Say what is too large under a package's folder; `root` itself is level one."""
    for path in _files(root):
        levels = len(path.relative_to(root).parts)
        if levels > LEVELS:
            yield f"{path}: lies {levels} packages deep, at most {LEVELS} are allowed"
        yield from _complaints_of_file(path)


def _files(root: Path) -> list[Path]:
    """Python files of a folder, but for what lies in hidden folders, as environments do."""
    inside = ((path.relative_to(root), path) for path in root.rglob("*.py"))
    return sorted(path for relative, path in inside if not any(part.startswith(".") for part in relative.parts))


def _complaints_of_file(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    if lines > FILE_LINES:
        yield f"{path}: {lines} lines, at most {FILE_LINES} are allowed"
    for node in ast.walk(ast.parse(text, str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (length := _length(node)) > FUNCTION_LINES:
            yield f"{path}:{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES} are allowed"


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    length = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function, clean=False) is None:
        return length
    docstring = function.body[0]
    return length - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1)


def main() -> int:
    """Check the folder given on the command line."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "src/isthmus")
    if not _files(root):
        print(f"{root}: no Python file found", file=sys.stderr)
        return 2
    found = list(complaints(root))
    print("\n".join(found) or f"{root}: sizes kept")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
