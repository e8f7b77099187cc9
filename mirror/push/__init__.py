"""Pushes: uploads that go through the mirror to the registry that they are meant for."""
