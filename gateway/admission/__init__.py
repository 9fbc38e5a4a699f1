"""Who may enter now, and how many wait."""
