"""Experiment trackers: what records, the table and the page say, sent to W&B, MLflow or TensorBoard.

Nothing is sent while a cell runs: its record, which has the curves, is sent once it is written.
"""
