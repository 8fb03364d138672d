"""Training of localizers on stored features."""
