"""Compose, draw, describe and check small images of coloured shapes."""
