"""What the packages import is declared, and what is declared as required is imported."""

import ast
import re
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("fastfold_jax", "pallas_kernels", "parallel")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Distributions whose import name is not their own name, or that bring another package along.
IMPORT_NAMES = {
    "absl_py": {"absl"},
    "alphafold_colabfold": {"alphafold"},
    "backports": {"backports", "compression"},  # the same module, as Python 3.14 has it
    "dm_haiku": {"haiku"},
    "google_crc32c": {"google_crc32c"},
    "jax": {"jax", "jaxlib", "ml_dtypes"},
    "orbax_checkpoint": {"orbax"},
    "tensorboardx": {"tensorboardX"},
}
# Modules that are nothing without an extra, and that others import inside functions only.
NEEDS_EXTRA = {
    "fastfold_jax/training/*.py": "train",
    "pallas_kernels/*/kernels.py": "triton",
    "pallas_kernels/device.py": "triton",
}


def import_names(requirements: list[str]) -> set[str]:
    names = set()
    for requirement in requirements:
        distribution = re.match(r"[\w-]+", requirement).group().replace("-", "_").lower()
        names |= IMPORT_NAMES.get(distribution, {distribution})
    return names


def imported_modules(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - set(PACKAGES)


def start_up_modules(tree: ast.Module) -> set[str]:
    """Imports that run when the module does: not those inside functions, where optional packages belong."""
    skipped = (ast.FunctionDef, ast.AsyncFunctionDef)
    kept = [node for node in tree.body if not isinstance(node, skipped)]
    return imported_modules(ast.Module(body=kept, type_ignores=[]))


SOURCES = [path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py"))]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
REQUIRED = import_names(PROJECT["dependencies"])
ANY = REQUIRED | import_names([line for extra in PROJECT["optional-dependencies"].values() for line in extra])


def allowed_at_start_up(path: Path) -> set[str]:
    extras = [extra for pattern, extra in NEEDS_EXTRA.items() if path.relative_to(REPOSITORY).match(pattern)]
    return REQUIRED.union(*(import_names(PROJECT["optional-dependencies"][extra]) for extra in extras))


def test_imports_are_declared():
    undeclared = {path: names for path, tree in TREES.items() if (names := imported_modules(tree) - ANY)}
    assert not undeclared


def test_optional_packages_are_not_imported_at_start_up():
    optional = {
        path: names for path, tree in TREES.items() if (names := start_up_modules(tree) - allowed_at_start_up(path))
    }
    assert not optional


def test_required_packages_are_used():
    assert REQUIRED - {"jaxlib", "ml_dtypes"} <= set().union(*map(imported_modules, TREES.values()))
