"""Metrics, protocols and baselines for evaluating a SEN."""
