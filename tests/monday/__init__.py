"""The first Monday, played in two minutes: all that ops have is real, and the commands are the docs' own.

It begins on an earlier release, and is upgraded in the middle, proxy by proxy, with readers at both. The
operators' page is opened at each telling moment, and must say what is.

Read `acts.py` first, the day from its beginning to its end; `morning.py` has its servers, `day.py` what an
operator types, `looks.py` what an operator sees. `make monday` prints the timeline; a test says what must be
true of it. Time is hastened: what the rules call a minute is three seconds, and the policy's steps last
seconds. Upstream and readers are played.
"""
