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

from labfs.fsspec.core import core_of
from labfs.fsspec.filesystem import LabFileSystem


@pytest.fixture(scope="session")
def lab(running: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFileSystem]:
    base = tmp_path_factory.mktemp("suite")
    config = base / "labfs.toml"
    config.write_text(running.config.read_text().replace('access = "write"', 'access = "full"'))
    config.chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABFS_STATE_DIR", str(base / "state"))
        patch.setenv("LABFS_CACHE_DIR", str(base / "cache"))
        yield LabFileSystem(config=config)
        core_of(str(config)).end()


class Fixtures(abstract.AbstractFixtures):
    @pytest.fixture
    def fs(self, lab: LabFileSystem) -> LabFileSystem:
        return lab

    @pytest.fixture
    def fs_join(self) -> Any:
        return lambda *parts: "/".join(parts)


class BaseSpace(Fixtures):
    @pytest.fixture
    def fs_path(self, sandbox: Sandbox, lab: LabFileSystem) -> str:
        made = sandbox.fresh()
        lab.invalidate_cache()
        return str(made.at(Path())).lstrip("/")


class Portal(Fixtures):
    @pytest.fixture
    def fs_path(self, sandbox: Sandbox, lab: LabFileSystem) -> Iterator[str]:
        with portal_stage.opened(sandbox) as portal:
            team = portal.new_team(portal_stage.ADA)
            lab.invalidate_cache()
            yield f"portal/{team.name}/Material"


class TestBaseSpaceCopy(BaseSpace, abstract.AbstractCopyTests): ...
class TestBaseSpaceGet(BaseSpace, abstract.AbstractGetTests): ...
class TestBaseSpacePut(BaseSpace, abstract.AbstractPutTests): ...
class TestBaseSpaceOpen(BaseSpace, abstract.AbstractOpenTests): ...
class TestBaseSpacePipe(BaseSpace, abstract.AbstractPipeTests): ...
class TestPortalCopy(Portal, abstract.AbstractCopyTests): ...
class TestPortalGet(Portal, abstract.AbstractGetTests): ...
class TestPortalPut(Portal, abstract.AbstractPutTests): ...
class TestPortalOpen(Portal, abstract.AbstractOpenTests): ...
class TestPortalPipe(Portal, abstract.AbstractPipeTests): ...
