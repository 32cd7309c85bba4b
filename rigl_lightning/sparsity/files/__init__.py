"""Files that hold masks: those of this package and of others."""
