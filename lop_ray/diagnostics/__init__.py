"""What is measured on a network: pure functions on plain torch modules and tensors, one topic a file."""

from lop_ray.diagnostics.diagnosable import Diagnosable
from lop_ray.diagnostics.registry import DIAGNOSTICS
from lop_ray.diagnostics.suite import DiagnosticSuite, Rows

__all__ = ["DIAGNOSTICS", "Diagnosable", "DiagnosticSuite", "Rows"]
