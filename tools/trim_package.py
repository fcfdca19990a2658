"""Takes out of a package for Lambda what the functions never read. The Makefile's recipe calls it, on Python 3.13.

`tests/deployment/test_build.py` runs the functions on what is left, and compares endpoints with those of the whole
botocore.
"""

import gzip
import json
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

# What the functions call. botocore makes a method of each operation, and reads what belongs to it, at every cold start.
OPERATIONS: Final[Mapping[str, frozenset[str]]] = {
    "dynamodb": frozenset({"BatchGetItem", "Query", "TransactWriteItems", "UpdateItem"}),
    "secretsmanager": frozenset({"GetSecretValue"}),
    "sqs": frozenset({"SendMessageBatch"}),
}
# Of each service description: what it does, how it is called, where it is. Not examples, paginators, waiters.
_DESCRIPTIONS: Final = ("service-2.json.gz", "service-2.sdk-extras.json", "endpoint-rule-set-1.json.gz")
_UNUSED: Final = (
    "*.dist-info",
    "bin",
    "*/tests",
    "**/__pycache__",
    "**/py.typed",
    "**/*.pyi",
    # certifi's is read instead, also by botocore.
    "botocore/cacert.pem",
    # Of Powertools only logging and metrics are used, and what they import.
    *(f"aws_lambda_powertools/{name}" for name in ("event_handler", "middleware_factory")),
    # Readable by none of the functions: urllib3 in a browser.
    "urllib3/contrib/emscripten",
)
_POWERTOOLS_UTILITIES: Final = ("__init__.py", "jmespath_utils", "typing")


def trim(package: Path, operations: Mapping[str, frozenset[str]] = OPERATIONS) -> None:
    """Trim a package in place; of AWS it can call these operations afterwards."""
    utilities = package / "aws_lambda_powertools" / "utilities"
    unused = [path for path in utilities.iterdir() if path.name not in _POWERTOOLS_UTILITIES]
    for path in [*unused, *(path for pattern in _UNUSED for path in package.glob(pattern))]:
        _remove(path)
    data = package / "botocore" / "data"
    for path in [path for path in data.iterdir() if path.is_dir()]:
        if path.name not in operations:
            _remove(path)
            continue
        *older, newest = sorted(path.iterdir())
        for each in [*older, *(each for each in newest.iterdir() if each.name not in _DESCRIPTIONS)]:
            _remove(each)
        service = newest / "service-2.json.gz"
        description = json.loads(gzip.decompress(service.read_bytes()))
        _write(newest / "service-2.json", _with_operations(description, operations[path.name]))
        _remove(service)
    endpoints = data / "endpoints.json"
    _write(endpoints, _with_services(json.loads(endpoints.read_text("utf-8")), operations))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")), "utf-8")


def _with_operations(description: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """Leave out other operations, the shapes that only those have, and all texts."""
    whole = _without_documentation(description)
    operations = {name: operation for name, operation in whole["operations"].items() if name in names}
    for operation in operations.values():
        # Tells where tables are that are named by their ARN; botocore looks for these in every request.
        operation.pop("operationContextParams", None)
    shapes: dict[str, Any] = {}
    pending = list(_shapes_in(operations))
    while pending:
        name = pending.pop()
        if name not in shapes:
            shapes[name] = whole["shapes"][name]
            pending += _shapes_in(shapes[name])
    kept = {name: shape for name, shape in whole["shapes"].items() if name in shapes}
    return {**whole, "operations": operations, "shapes": kept}


def _shapes_in(value: Any) -> Iterator[str]:
    """Yield the names of the shapes that something refers to."""
    if isinstance(value, dict):
        name = value.get("shape")
        if isinstance(name, str):
            yield name
        for item in value.values():
            yield from _shapes_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _shapes_in(item)


def _without_documentation(value: Any) -> Any:
    """Leave texts out; a shape or a member that is itself called `documentation` is an object."""
    if isinstance(value, dict):
        return {name: _without_documentation(item) for name, item in _items(value)}
    return [_without_documentation(item) for item in value] if isinstance(value, list) else value


def _items(value: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, item) for name, item in value.items() if name != "documentation" or isinstance(item, dict))


def _with_services(endpoints: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    partitions = [
        {**each, "services": {name: each["services"][name] for name in names if name in each["services"]}}
        for each in endpoints["partitions"]
    ]
    return {**endpoints, "partitions": partitions}


if __name__ == "__main__":
    trim(Path(sys.argv[1]))
