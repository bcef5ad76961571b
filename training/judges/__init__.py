"""Evaluators that settings and tasks name, one small file each (base: `training.judges.base.JudgeSettings`)."""
