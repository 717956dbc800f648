"""Fillers in networks that know nothing of them: plan, dry run, wrappers, and the way back."""

from kdinpaint.retrofitting.report import Level, RetrofitReport

__all__ = ["Level", "RetrofitReport"]
