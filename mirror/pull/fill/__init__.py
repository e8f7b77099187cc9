"""Fills: one download of one blob, shared by everyone who reads it while it arrives."""
