"""Tables of wrong settings."""


def cases(table):
    """Pairs of an override and what its error line allows.

    Args:
        table: Lines of a key with ``=``, wrong values with spaces between, ``:``, what is allowed.
    """
    for line in table.strip().splitlines():
        given, _, allowed = line.partition(" : ")
        key, *values = given.split()
        for value in values:
            yield key + value, allowed.strip()
