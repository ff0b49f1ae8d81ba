"""The package's face: what a document handler may import, and that nobody pays for it who does not use it."""

import subprocess
import sys
from pathlib import Path

import pytest

import orderflow_ingest

PACKAGE = Path(orderflow_ingest.__file__).parent


@pytest.mark.parametrize("name", orderflow_ingest.__all__)
def test_each_public_name_can_be_imported_and_is_described(name):
    value = getattr(orderflow_ingest, name)
    assert name in dir(orderflow_ingest)
    assert name in ("__version__", "Handler") or (value.__doc__ and value.__name__ == name)


def test_what_is_imported_lazily_is_what_a_type_checker_reads():
    lazily = {f"from orderflow_ingest.{module} import": set() for module in orderflow_ingest._MODULES.values()}
    for name, module in orderflow_ingest._MODULES.items():
        lazily[f"from orderflow_ingest.{module} import"].add(name)
    lines = [line.strip() for line in (PACKAGE / "__init__.py").read_text().splitlines()]
    for statement, names in lazily.items():
        assert f"{statement} {', '.join(sorted(names))}" in lines
    assert {*orderflow_ingest._MODULES, "__version__"} == set(orderflow_ingest.__all__)


def test_importing_the_package_imports_nothing_else():
    code = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); old = set(sys.modules); import orderflow_ingest"
    shown = [sys.executable, "-I", "-S", "-c", f"{code}; print(*set(sys.modules) - old)"]
    assert subprocess.check_output(shown, text=True, cwd="/").split() == ["orderflow_ingest"]


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Order'"):
        orderflow_ingest.Order  # noqa: B018
    with pytest.raises(ImportError):
        from orderflow_ingest import Order  # noqa: F401


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").is_file()
