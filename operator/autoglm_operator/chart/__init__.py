"""The values of the Helm chart as models, and the chart's files that are made from them. Pure: texts out."""

from autoglm_operator.chart.files import FOLDER, generate
from autoglm_operator.chart.values import Values

__all__ = ["FOLDER", "Values", "generate"]
