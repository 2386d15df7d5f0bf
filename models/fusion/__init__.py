"""Join two experts at the layers of a bridge plan."""
