"""Draw what trained bridges are worth beside what rules said of them."""
