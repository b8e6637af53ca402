"""What the kernel is told of requests that no lab system supports."""

from __future__ import annotations

import errno

import pytest
from pyfuse3 import FUSEError

from labfs.fuse.refusals import Refusals


def test_without_extended_attributes_the_kernel_stops_asking() -> None:
    """ENOSYS it remembers for the mount; EOPNOTSUPP, which programs see in either case, it would ask for each file."""
    with pytest.raises(FUSEError) as caught:
        Refusals(xattrs=False).check_xattrs()
    assert caught.value.errno == errno.ENOSYS
    Refusals(xattrs=True).check_xattrs()
