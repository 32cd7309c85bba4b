"""Files that hold masks: our own, and those of other packages."""
