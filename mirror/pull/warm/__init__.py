"""Warming: images are fetched before anybody asks for them, and go again when room is needed."""
