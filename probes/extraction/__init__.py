"""Turn stimuli into features, in memory or in a store."""
