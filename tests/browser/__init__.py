"""Tests of `browser/`, with Node and what is installed here by `npm ci`."""
