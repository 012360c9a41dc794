"""Rollouts in steps: a new revision beside the old one, its share of the traffic, its gates, and the way back. Pure."""
