"""Places to write to: a local folder, and a file system in memory that behaves as an object store."""

import fsspec
import pytest
from pyarrow import fs

from lop_ray.results.filesystem import Location


@pytest.fixture(params=["local", "object_store"])
def place(request, tmp_path):
    """An empty place that doesn't exist yet."""
    if request.param == "local":
        return Location.of(tmp_path / "new" / "folder")
    memory = type("FreshMemory", (fsspec.get_filesystem_class("memory"),), {"store": {}, "pseudo_dirs": [""]})
    return Location(fs.PyFileSystem(fs.FSSpecHandler(memory(skip_instance_cache=True))), "bucket/folder")
