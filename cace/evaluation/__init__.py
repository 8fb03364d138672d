"""Predictions of a localizer, and their scores."""
