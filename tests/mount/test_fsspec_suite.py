"""fsspec's own abstract test suite, on systems of the sandbox with `access = "full"`; what one cannot do has a reason."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import portal_stage
import pytest
from fsspec.tests import abstract
from stage import Sandbox

from labfs.fsspec.filesystem import LabFileSystem


class Fixtures(abstract.AbstractFixtures):
    @pytest.fixture
    def fs(self, unmounted: LabFileSystem) -> LabFileSystem:
        return unmounted

    @pytest.fixture
    def fs_join(self) -> Any:
        return lambda *parts: "/".join(parts)


class BaseSpace(Fixtures):
    """An app result: folders are parts of its files' paths, and nothing can be deleted.

    The suite's empty files stay on this machine, where they can be; what has bytes is not cleaned up.
    """

    @pytest.fixture
    def fs_path(self, sandbox: Sandbox, unmounted: LabFileSystem) -> str:
        made = sandbox.fresh()
        unmounted.invalidate_cache()
        return str(made.at(Path())).lstrip("/")

    @pytest.fixture
    def fs_target(self, fs: LabFileSystem, fs_join: Any, fs_path: str) -> str:
        return str(fs_join(fs_path, "target"))

    @pytest.fixture
    def fs_10_files_with_hashed_names(self, fs: LabFileSystem, fs_join: Any, fs_path: str) -> str:
        return str(self._10_files_with_hashed_names(fs, fs_join, fs_path))


class Portal(Fixtures):
    """A material: it takes files, which can be deleted, and no directories.

    All cases of copying, getting and putting begin with a tree of directories, or make one, and so cannot be played.
    """

    @pytest.fixture
    def fs_path(self, sandbox: Sandbox, unmounted: LabFileSystem) -> Iterator[str]:
        with portal_stage.opened(sandbox) as portal:
            team = portal.new_team(portal_stage.ADA)
            unmounted.invalidate_cache()
            yield f"portal/{team.name}/Material"


@pytest.fixture(autouse=True)
def chosen(request: pytest.FixtureRequest) -> None:
    """Of the many patterns of the suite one is enough here; LABFS_SOAK=1 plays all."""
    expected = getattr(request.node, "callspec", None)
    if expected is not None and not os.environ.get("LABFS_SOAK") and expected.params["path"] not in PATTERNS:
        pytest.skip("LABFS_SOAK=1 plays all patterns")


PATTERNS = ("**/subdir0",)


class TestBaseSpaceCopy(BaseSpace, abstract.AbstractCopyTests): ...


class TestBaseSpaceGet(BaseSpace, abstract.AbstractGetTests): ...


class TestBaseSpacePut(BaseSpace, abstract.AbstractPutTests): ...


class TestBaseSpaceOpen(BaseSpace, abstract.AbstractOpenTests): ...


class TestBaseSpacePipe(BaseSpace, abstract.AbstractPipeTests): ...


class TestPortalOpen(Portal, abstract.AbstractOpenTests): ...


class TestPortalPipe(Portal, abstract.AbstractPipeTests): ...


class TestPortalNames(Portal):
    def test_a_material_takes_no_directory(self, fs: LabFileSystem, fs_path: str) -> None:
        with pytest.raises(PermissionError, match="takes files and no folders"):
            fs.mkdir(f"{fs_path}/source")
