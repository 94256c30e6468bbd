from __future__ import annotations

from pathlib import Path

import pytest
from recipe_files import Write


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def file(content: str) -> Path:
        path = tmp_path / "my.yaml"
        path.write_bytes(content.encode())
        return path

    return file
