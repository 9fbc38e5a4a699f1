"""Where bytes live: objects by URL, and their names."""
