"""The scheduler: when each race is read, and the workers that read it."""
