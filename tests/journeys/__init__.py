"""Tests of whole journeys, from a client to the upstream and back."""
