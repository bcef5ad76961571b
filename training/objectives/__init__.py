"""Training ideas, one small file each (protocol: `training.objectives.base.Objective`)."""
