"""Tests of the checkout itself: set-up, release, image, documentation, architecture."""
