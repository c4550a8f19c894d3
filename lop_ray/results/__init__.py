"""The results store: what every trial leaves behind, as typed Parquet and checkpoints."""

from lop_ray.results.checkpoints import Checkpoint, Checkpoints, CheckpointVersionError, DamagedCheckpointError
from lop_ray.results.filesystem import Location, LocationError
from lop_ray.results.lock import BusyError, Lock
from lop_ray.results.provenance import provenance
from lop_ray.results.reader import connect, open_table, read_table
from lop_ray.results.schema import SCHEMA_VERSION, SCHEMAS, SchemaVersionError, describe, schema_of
from lop_ray.results.store import Store
from lop_ray.results.table_writer import DamagedPartError
from lop_ray.results.writer import TrialWriter

__all__ = [
    "SCHEMAS",
    "SCHEMA_VERSION",
    "Checkpoint",
    "CheckpointVersionError",
    "Checkpoints",
    "DamagedCheckpointError",
    "DamagedPartError",
    "BusyError",
    "Location",
    "Lock",
    "LocationError",
    "SchemaVersionError",
    "Store",
    "TrialWriter",
    "connect",
    "describe",
    "open_table",
    "provenance",
    "read_table",
    "schema_of",
]
