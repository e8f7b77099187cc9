"""Clients' configuration, made of the mirror's own (`mirror setup`)."""
