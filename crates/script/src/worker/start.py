"""The worker process's first file: brings up the package beside it, then leaves no trace of it on sys.path."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    if sys.version_info < (3, 8):
        sys.exit("scoring scripts need Python 3.8 or later; %s is %s" % (sys.executable, sys.version.split()[0]))
    # Everything of ours is imported before any code of the user's can put something else in its place.
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != HERE]
    sys.path.insert(0, HERE)
    from moorline_worker import life

    sys.path.remove(HERE)
    # `__main__` should look like a server's, not like this file.
    sys.argv = [sys.argv[0]]
    life.live()


if __name__ == "__main__":
    main()
