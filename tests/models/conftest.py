"""Base models that the tests of adapters share."""

from pathlib import Path

import pytest

from tests.helpers.adapters_of_peft import write_base


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """By whether head and embedding are tied."""
    root = tmp_path_factory.mktemp("bases")
    return {tie: write_base(root / f"tie-{tie}", tie=tie) for tie in (True, False)}
