"""Things that happen around an update and are no loss, one small file each (base: `training.hooks.base.Hook`)."""
