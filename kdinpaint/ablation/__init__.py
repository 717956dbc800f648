"""Ablations: grids of small typed variations, trained in pairs, measured on one frozen list, told with intervals."""

from kdinpaint.ablation.grids import GRIDS, Cell, Grid, load_grid
from kdinpaint.ablation.oracle import OracleNet
from kdinpaint.ablation.report import report, report_sections
from kdinpaint.ablation.run import AblationPlan, run_ablation
from kdinpaint.ablation.settings import CellSettings, TeacherSettings, change
from kdinpaint.ablation.statistics import Difference, Interval, contrast, effects, interval, paired_difference

__all__ = [
    "GRIDS",
    "AblationPlan",
    "Cell",
    "CellSettings",
    "Difference",
    "Grid",
    "Interval",
    "OracleNet",
    "TeacherSettings",
    "change",
    "contrast",
    "effects",
    "interval",
    "load_grid",
    "paired_difference",
    "report",
    "report_sections",
    "run_ablation",
]
