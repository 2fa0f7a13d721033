"""Looks at the box. Whatever could take long is another process's, with a common deadline.

Changes nothing: ports are bound and let go at once, and of an appliance only its status is asked.
`gather` fills in the facts; the other files have one kind of look each.
"""
