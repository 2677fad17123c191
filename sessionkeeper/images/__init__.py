"""Container images, as far as sessions need them: their names, where they are kept, what they say
of themselves. Knows nothing of sessions, nodes or builds.
"""
