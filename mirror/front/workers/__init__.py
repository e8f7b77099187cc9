"""The processes that face clients, and the one that keeps them at work."""
