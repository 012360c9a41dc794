"""Scaling: how many replicas a load needs. Pure: figures, the last decision and the time in; a number and its cause out."""
