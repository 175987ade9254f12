"""Metrics, protocols and the baselines that a SEN is measured against."""
