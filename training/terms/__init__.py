"""Additive loss terms, one small file each (protocol: `training.objectives.base.Term`)."""
