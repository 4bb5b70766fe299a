"""`python -m tests.golden` writes the files of the corpus anew."""

from tests.golden import write

write()
