"""How fast the parts are, each against a floor or a peer that is measured in the same run: python -m benchmarks

No figure here is a time alone: times belong to a machine and to whoever else uses it. The two sides of a ratio run in
turn (A B A B ...), a ratio is the median over the turns, and its smallest and largest are shown beside it.
"""

import jobs  # noqa: F401  its Ray wants a token, which must be there before Ray is imported
