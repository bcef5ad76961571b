"""What stands between the drawn rows and a training batch, one small file each (base: `dataset.steps.base.Step`)."""
