"""For programs of a few steps, with this folder on their path: Python's collector looks at nothing they imported.

Of a script that imports torch and a framework it takes two fifths of the time, for nothing that a test asks about.
"""

import atexit
import gc

gc.disable()
# Else it looks through all of it as Python ends.
atexit.register(gc.freeze)
