"""Score models and break their bridges one at a time."""
