"""Whole models and single blocks as ONNX files."""

from kdinpaint.exporting.export import ExportReport, export

__all__ = ["ExportReport", "export"]
