"""What registries have said: who has what, what tags mean, what refers to what."""
