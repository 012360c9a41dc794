"""The decision about one AutoGLMDeployment: what was observed in, what to do out."""

from datetime import datetime

from autoglm_operator.api import AutoGLMDeployment
from autoglm_operator.state import InvalidDeployment, Observed, Plan


def reconcile(deployment: AutoGLMDeployment | InvalidDeployment, observed: Observed, now: datetime) -> Plan:
    """Decide what to do about a deployment. Pure: the same input gives the same plan."""
    raise NotImplementedError
