"""Ways of producing predictions, one small file each (protocol: `training.inference.base.Inference`)."""
