"""Draw alignment curves along depth, test their shapes, find where they part."""
