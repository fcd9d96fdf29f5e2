"""Which models are held, where, and how they come and go."""
