"""How long tests wait."""

#: Seconds that a test waits at most for what must come: on an idle machine it comes in a few, on one with six other
#: programs at work in many times as long.
PATIENCE = 300
